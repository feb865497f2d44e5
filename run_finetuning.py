"""Fine-tune an encoder: classify or score sentences and pairs, label tokens, answer questions.

    accelerate launch run_finetuning.py --model_name_or_path my_model --task classification \\
        --train_file train.jsonl --validation_file dev.jsonl --seeds 5 --output_dir my_classifier

Give an option on the command line, in a recipe, or in both: the command line wins. `--help` lists them.
"""

import copy
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from span_electra.common.errors import InputError, paths_as_input_errors, print_error
from span_electra.common.run_files import CARD
from span_electra.finetuning.arguments import TASKS, FinetuningArguments, parse_arguments, settle_by_size
from span_electra.finetuning.encoder import (
    build_model,
    check_vocabulary,
    load_config,
    load_tokenizer,
    longest_row,
    set_dropout,
)
from span_electra.finetuning.model_card import finetuned_card
from span_electra.finetuning.question_answering import QuestionAnswering
from span_electra.finetuning.report import (
    CONFUSION,
    RESULTS,
    SeedResult,
    best_result,
    results_table,
    summarise,
    write_results,
)
from span_electra.finetuning.sentence_tasks import Classification, Regression
from span_electra.finetuning.task import Task
from span_electra.finetuning.token_classification import TokenClassification
from span_electra.finetuning.trainer import FinetuningTrainer
from span_electra.training.arguments import follow_metric
from span_electra.training.output_dir import LOCK, check_folder, names_in_run, start_folder, started
from span_electra.training.shutdown import processes_end_together

logger = logging.getLogger("span_electra")

TASK_CLASSES: dict[str, type[Task]] = dict(
    zip(TASKS, (Classification, Regression, TokenClassification, QuestionAnswering), strict=True)
)
SETTINGS = "finetuning.json"  # written first: it marks a folder as a fine-tuning's

# Everything that a run writes, as globs. --overwrite_output_dir removes nothing else.
WRITTEN = ("seed-*", "*.safetensors", "config.json", CARD, RESULTS, CONFUSION)
NOT_COPIED = ("runs", "training_args.bin")  # stays in the best seed's folder
NOT_PUBLISHED = ("seed-*/", LOCK)


def run(arguments: Sequence[str]) -> None:
    """Parse, read the task, train every seed, report, keep the best."""
    with paths_as_input_errors():
        encoder_arguments, task_arguments, training_arguments = parse_arguments(arguments)
        output_dir = training_arguments.output_dir
        seen = names_in_run(Path(output_dir), SETTINGS)
        check_folder(output_dir, SETTINGS, training_arguments.overwrite_output_dir)
        logging.basicConfig(format="%(message)s")
        logger.setLevel(logging.INFO if training_arguments.process_index == 0 else logging.ERROR)

        config = load_config(encoder_arguments)
        tokenizer = load_tokenizer(encoder_arguments, config)
        check_vocabulary(config, tokenizer)
        settle_by_size(training_arguments, config.hidden_size)
        dropout = set_dropout(config, training_arguments.dropout)
        longest = longest_row(config, tokenizer)
        task = TASK_CLASSES[task_arguments.task](task_arguments, tokenizer, longest)
        with training_arguments.main_process_first(desc="tokenization"):
            train_rows, eval_rows = task.build_rows()
        metric = training_arguments.metric_for_best_model = task.choose_metric(
            training_arguments.metric_for_best_model
        )
        config.update(task.head_settings())
        build_model(encoder_arguments, config, task)  # refuses unusable weights before a folder is touched
    settings = {**asdict(encoder_arguments), **asdict(task_arguments), **training_arguments.to_dict()}
    settings |= {"max_seq_length": task.max_length, "dropout": dropout}
    settings["stride"] = task.stride if task.reads_windows else None
    start = partial(start_folder, output_dir, SETTINGS, settings, WRITTEN, NOT_PUBLISHED)
    with started(training_arguments, SETTINGS, seen, start):
        results = []
        for seed in range(training_arguments.seed, training_arguments.seed + training_arguments.seeds):
            set_seed(seed)
            model = build_model(encoder_arguments, config, task)
            results.append(train(seed_arguments(training_arguments, seed), task, model, train_rows, eval_rows))
            summary = summarise(results, metric, task.baseline(), task.baseline_answer)
            if training_arguments.should_save:  # after each seed, so that a failure keeps the earlier ones
                write_results(output_dir, summary, settings)
        if training_arguments.should_save:
            best = best_result(results, metric)
            keep(best.seed, output_dir)
            finetuned_card(summary, settings).save(Path(output_dir) / CARD)
            task.draw(best.answers, Path(output_dir) / CONFUSION)
            print(results_table(summary))
            print(f"saved to {output_dir}: the model of seed {best.seed}, its card, {RESULTS}, a folder for each seed")


def seed_arguments(arguments: FinetuningArguments, seed: int) -> FinetuningArguments:
    """Return the arguments of one seed's run."""
    changed = copy.copy(arguments)
    changed.seed = seed
    changed.output_dir = str(seed_folder(arguments.output_dir, seed))
    if arguments.data_seed is None:
        # The Trainer adds the epoch to this seed to order the rows, so neighbouring seeds would share their orders.
        changed.data_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    changed.greater_is_better = not arguments.metric_for_best_model.endswith("loss")
    follow_metric(changed)
    return changed


def train(
    arguments: FinetuningArguments, task: Task, model: PreTrainedModel, train_rows: Dataset, eval_rows: Dataset
) -> SeedResult:
    """Train one seed, and evaluate and save its best checkpoint."""
    task.begin(model)
    trainer = FinetuningTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=task.tokenizer,
        data_collator=task.collator(),
        compute_metrics=task.compute_metrics,
    )
    seconds = trainer.train().metrics["train_runtime"]
    output = trainer.predict(eval_rows, metric_key_prefix="eval")
    task.finish(model)
    trainer.save_model()
    if arguments.should_save:
        for checkpoint in Path(arguments.output_dir).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    answers = task.answers(output.predictions)
    return SeedResult(
        seed=arguments.seed,
        metrics={**task.score(answers), "loss": output.metrics["eval_loss"]},
        collapsed=task.all_alike(answers),
        kept_step=trainer.state.best_global_step if arguments.load_best_model_at_end else None,
        steps=trainer.state.global_step,
        seconds=seconds,
        answers=answers,
    )


def seed_folder(output_dir: str, seed: int) -> Path:
    return Path(output_dir) / f"seed-{seed}"


def keep(seed: int, output_dir: str) -> None:
    """Copy a seed's model to the top of the run's folder."""
    ignore = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(seed_folder(output_dir, seed), output_dir, ignore=ignore, dirs_exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        with processes_end_together():
            run(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        print_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
