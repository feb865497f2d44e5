"""Pretrain SpanElectra on text, on one device or many.

    accelerate launch run_pretraining.py configs/recipes/small.yaml --train_file text/ --tokenizer T --output_dir out

Give an option on the command line, in the recipe, or in both: the command line wins. `--help` lists them.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, set_seed

from span_electra.common.errors import InputError, paths_as_input_errors, print_error
from span_electra.common.run_files import ARGUMENTS
from span_electra.data_collator import DataCollatorForSpanMasking, largest_masked_share
from span_electra.encoders.configuration_span_encoder import SpanEncoderConfig
from span_electra.hub.publishing import PublishingError, prepare_repository
from span_electra.inspection.sample_page import SamplePage
from span_electra.pretraining.arguments import (
    DataArguments,
    ModelArguments,
    PretrainingArguments,
    check_metric,
    check_rows,
    parse_arguments,
)
from span_electra.pretraining.fixed_corruption import EvaluationCollator
from span_electra.pretraining.linear_probe import build_probes
from span_electra.pretraining.model import build_model
from span_electra.pretraining.model_card import model_card
from span_electra.pretraining.plan import plan
from span_electra.pretraining.report import describe, write_report
from span_electra.pretraining.rows import are_full, build_rows, resolve_rows
from span_electra.pretraining.stream import check_stream
from span_electra.pretraining.tokenizer import build_tokenizer
from span_electra.pretraining.trainer import NonFiniteLossError, SpanElectraTrainer, check_shardable
from span_electra.training.arguments import fsdp_state_dict_type
from span_electra.training.checkpointing_trainer import SaveError
from span_electra.training.output_dir import check_run_folder, names_in_run, start_run, started
from span_electra.training.resuming import (
    MASKING,
    check_same_checkpoint,
    check_same_run,
    check_shape,
    check_sharding,
    run_facts,
)
from span_electra.training.shutdown import InterruptedRun, processes_end_together

logger = logging.getLogger("span_electra")

EVALUATION_SEED = 0  # not the run's, so that runs with different seeds are evaluated on the same masks


def run(arguments: Sequence[str]) -> None:
    """Parse, build, train, evaluate, save."""
    with paths_as_input_errors():
        model_arguments, data_arguments, training_arguments = parse_arguments(arguments)
        output_dir, resume = training_arguments.output_dir, training_arguments.resume_from_checkpoint
        seen = names_in_run(Path(output_dir), ARGUMENTS)
        checkpoint = check_run_folder(output_dir, resume, training_arguments.overwrite_output_dir)
        logging.basicConfig(format="%(message)s")
        logger.setLevel(logging.INFO if training_arguments.process_index == 0 else logging.WARNING)
        set_seed(training_arguments.seed)
        check_same_checkpoint(checkpoint)

        tokenizer = build_tokenizer(model_arguments, data_arguments, checkpoint)
        model = build_model(model_arguments, data_arguments, tokenizer)
        resolve_rows(data_arguments, model.config)
        is_sharded = fsdp_state_dict_type(training_arguments) is not None
        if is_sharded:
            check_shardable(model)
        if checkpoint is not None:
            check_shape(checkpoint, model.config)
            check_sharding(checkpoint, is_sharded)
        probes = build_probes(data_arguments, tokenizer)
        check_metric(training_arguments, model.config, [probe.key for probe in probes])
        if training_arguments.push_to_hub and training_arguments.process_index == 0 and not training_arguments.plan:
            described = run_settings(model_arguments, data_arguments, training_arguments, model.config)
            prepare_repository(training_arguments, model_card(described, history=[]), resumes=checkpoint is not None)
        train_rows, eval_rows = build_rows(data_arguments, tokenizer, training_arguments)
        masking = {name: getattr(data_arguments, name) for name in MASKING}
        facts = run_facts(training_arguments, train_rows) | masking
        if checkpoint is not None:
            check_stream(checkpoint, train_rows)
            check_same_run(checkpoint, facts)
        check_rows(data_arguments, training_arguments, facts["rows"], is_evaluated=eval_rows is not None)
        make_trainer = partial(build_trainer, model, tokenizer, train_rows, eval_rows, data_arguments, probes=probes)
        if training_arguments.plan:
            costs = plan(
                make_trainer, training_arguments, data_arguments, tokenizer, model_arguments.config is not None
            )
            if training_arguments.process_index == 0:
                print(f"{costs}\nnothing was written; without --plan, the run begins")
            return
    settings = run_settings(model_arguments, data_arguments, training_arguments, model.config)
    settings["rows_per_update"] = facts["rows_per_update"]
    start = partial(start_run, output_dir, settings, resumes=checkpoint is not None)
    with started(training_arguments, ARGUMENTS, seen, start):
        trainer = make_trainer(training_arguments, settings=settings)
        describe(trainer, data_arguments.max_seq_length)
        train(trainer, checkpoint)
        if trainer.is_world_process_zero():
            print(write_report(output_dir, settings, trainer.state.log_history, trainer.kept_step()))


def train(trainer: SpanElectraTrainer, checkpoint: Path | None) -> None:
    """Train, evaluate the weights that are kept, and save them. With --push_to_hub this publishes them too."""
    trainer.args.eval_on_start &= checkpoint is None  # a resumed run's history already has that evaluation
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if trainer.eval_dataset is not None and not is_evaluated(trainer.state.log_history, trainer.kept_step()):
        trainer.evaluate()
    trainer.save_model()


def run_settings(
    model: ModelArguments, data: DataArguments, training: PretrainingArguments, config: PreTrainedConfig
) -> dict[str, Any]:
    """All options of a run by name, with the values that are in force, for its report."""
    precision = training.mixed_precision  # `accelerate launch` may have set it
    settled = {
        "objective": config.objective,
        "family": family_of(config),
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
    }
    return {**asdict(model), **asdict(data), **training.to_dict(), **settled}


def family_of(config: PreTrainedConfig) -> str | None:
    """The family of a pair of stock encoders; None for the ELECTRA pair."""
    return config.discriminator.model_type if isinstance(config, SpanEncoderConfig) else None


def build_trainer(
    model, tokenizer, train_rows, eval_rows, data: DataArguments, arguments: PretrainingArguments, **kwargs
) -> SpanElectraTrainer:
    """The Trainer with its collators and its page of samples; `kwargs` are its own."""
    if eval_rows is None:
        arguments.eval_strategy = "no"
    pad_to = None
    if arguments.device.type == "cuda":
        # With fixed shapes nothing is compiled twice, and the device never waits for a count.
        pad_to = data.max_seq_length
        model.largest_masked_share = largest_masked_share(data.mask_ratio, data.max_seq_length)
        model.rows_are_full = all(are_full(rows, pad_to) for rows in (train_rows, eval_rows) if rows is not None)
    fixed_collator = partial(
        DataCollatorForSpanMasking, tokenizer, pad_to_multiple_of=pad_to, pack_documents=data.pack_documents
    )
    collator = partial(
        fixed_collator,
        mask_ratio=data.mask_ratio,
        max_span_words=data.max_span_words,
        whole_words=data.whole_words,
    )
    trainer = SpanElectraTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        data_collator=collator(seed=arguments.seed),
        eval_data_collator=EvaluationCollator(collator(seed=EVALUATION_SEED), fixed_collator(seed=EVALUATION_SEED)),
        **kwargs,
    )
    if eval_rows is not None:
        trainer.add_callback(SamplePage(trainer))
    return trainer


def is_evaluated(history: list[dict], step: int) -> bool:
    return any("eval_loss" in entry and entry["step"] == step for entry in history)


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        with processes_end_together():
            run(sys.argv[1:] if arguments is None else arguments)
    except (InputError, NonFiniteLossError, PublishingError, SaveError, InterruptedRun) as error:
        print_error(error)
        if isinstance(error, InterruptedRun):
            sys.exit(128 + error.signal)  # the status of a process that a signal ended
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
