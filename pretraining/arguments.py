"""The options of `run_pretraining.py`, and the checks on them."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from span_electra.common.command_line import check_positive, option, parse_options
from span_electra.common.errors import InputError
from span_electra.common.paths import lies_in
from span_electra.configuration_span_electra import OBJECTIVES, SpanObjectivesConfig
from span_electra.pretraining.history import SUMMARY
from span_electra.training.arguments import (
    SCHEDULES_BY_METRIC,
    AcceptedValues,
    RunArguments,
    check_source,
    check_training,
    follow_metric,
)
from span_electra.training.unsupported import check_weights_are_kept

logger = logging.getLogger(__name__)

MOST_WARMUP_STEPS = 10_000  # ELECTRA's
UNDIRECTED = {"replaced_share", "span_replaced_share"}  # metrics for which neither more nor less is better

ACCEPTED: AcceptedValues = {
    "save_only_model": ((False,), "a run cannot be resumed without the optimizer's state"),
    "auto_find_batch_size": ((False,), "a resumed run could not repeat the batch size that it finds"),
    "ignore_data_skip": ((False,), "a resumed run would see some rows twice and others not at all"),
    "dataloader_in_order": ((True,), "a resumed run could not repeat an order left to chance"),
    "train_sampling_strategy": (
        ("random", "sequential"),
        "a resumed run could not repeat its order, which follows from no seed",
    ),
    "enable_jit_checkpoint": ((False,), "this script already writes a checkpoint on SIGTERM"),
    "label_smoothing_factor": ((0,), "the objectives do not smooth labels"),
    "neftune_noise_alpha": ((None,), "this noise is for instruction tuning"),
}


@dataclass
class ModelArguments:
    """The model to train: a new one, described by `config`, or an existing checkpoint."""

    config: str | None = option(None, "A model's configuration: a JSON file, or tiny, small, base or tutorial.")
    config_overrides: str | None = option(
        None,
        "Change settings of --config with JSON, such as '{\"num_hidden_layers\": 6}', or with a mapping in a recipe. "
        "With --model_name_or_path, only settings that do not contradict its weights, such as the loss weights.",
    )
    model_name_or_path: str | None = option(
        None, "Start from this SpanElectra checkpoint, ELECTRA discriminator or BERT-shaped encoder instead."
    )
    generator_name_or_path: str | None = option(
        None,
        "The ELECTRA generator that belongs to the discriminator. With --config and --objective discriminator: the "
        "trained generator, which is not trained further.",
        aliases=["--generator"],
    )
    objective: str | None = option(
        None,
        "Which networks to train: joint (both), generator or discriminator. Default: the objective in the "
        "configuration or the checkpoint, otherwise joint.",
    )
    tokenizer: str | None = option(None, "A tokenizer's folder or Hub name. Default: that of model_name_or_path.")
    extend_vocabulary: int | None = option(
        None,
        "With --model_name_or_path: add this many pieces to its tokenizer, those that shorten the text of train_file "
        "most. Each starts as the mean of the pieces that it is made of.",
    )
    extend_vocabulary_file: str | None = option(
        None, "With --model_name_or_path: add the words in this file to its tokenizer, one a line."
    )
    attn_implementation: str | None = option(
        None, "eager, sdpa, flash_attention_2 or flex_attention. Default: Transformers chooses."
    )
    license: str | None = option(None, "The model's licence for its card, such as apache-2.0.")
    language: list[str] = option(list, "The ISO 639 codes of the text's languages for the model card, such as en.")

    @property
    def extends_vocabulary(self) -> bool:
        return self.extend_vocabulary is not None or self.extend_vocabulary_file is not None


@dataclass
class DataArguments:
    """The text to train and to evaluate on."""

    train_file: list[str] = option(
        list,
        "Text to train on: files, folders, globs or `datasets` names. Or one folder that create_features wrote; with "
        "mixture, any number of them.",
    )
    mixture: list[float] = option(
        list,
        "Mix the entries of train_file in these shares of the tokens, one for each. A corpus that is used up begins "
        "again.",
    )
    streaming: bool = option(
        False,
        "Read the text of train_file during training, and store no rows on disk. Requires max_steps, and at least one "
        "file (shard) for each data worker.",
    )
    validation_file: list[str] = option(list, "Text to evaluate on, in the same forms as train_file.")
    validation_split_percentage: float = option(
        1.0,
        "Without validation_file, hold back this percentage of the rows for evaluation, as whole documents. 0 holds "
        "none back.",
    )
    probe_file: list[str] = option(
        list,
        "Files of labelled sentences or tagged words, as for fine-tuning. Every evaluation fits a linear classifier "
        "to the discriminator's hidden states on each file, which quickly shows what it has learnt.",
    )
    max_train_samples: int | None = option(None, "Train on at most this many rows, drawn at random.")
    max_eval_samples: int | None = option(
        None,
        "Evaluate on at most this many rows, drawn at random. Default: 5 %% of the rows trained on between two "
        "evaluations, but at least 128.",
    )
    max_seq_length: int | None = option(
        None,
        "Length of a row in tokens. Prepared features keep theirs. Default: the value in an older configuration file, "
        "or 128.",
    )
    mask_ratio: float | None = option(
        None, "Ratio of masked tokens. Default: the value in an older configuration file, or 0.15."
    )
    max_span_words: int = option(10, "Longest span in words. 1 masks single words.")
    whole_words: bool = option(True, "Mask whole words. If false, every token counts as a word.")
    documents: str | None = option(
        None,
        "What ends a document: blank_line, file or line. A row belongs to one document, unless you pack them. "
        "Default: the rule of the features, or blank_line.",
    )
    pack_documents: bool = option(
        False, "Let short documents share a row without seeing each other, which saves padding."
    )
    text_column: str = option("text", "The column of tables and `datasets` that holds the text.")
    split: str = option("train", "The split of a `datasets` name to train on.")
    validation_split: str = option("validation", "The split of a `datasets` name in validation_file.")
    preprocessing_num_workers: int = option(1, "Processes that tokenize.")
    features_cache_dir: str | None = option(
        None, "A folder for the rows made from text. Default: the cache of `datasets`."
    )


@dataclass
class PretrainingArguments(RunArguments):
    """The Trainer's arguments with ELECTRA's settings (Clark et al., 2020, table 6) as defaults."""

    per_device_train_batch_size: int = option(128, "Rows per batch and device in training.")
    per_device_eval_batch_size: int = option(128, "Rows per batch and device in evaluation.")
    learning_rate: float = option(5e-4, "The peak learning rate.")
    pretrained_lr_ratio: float = option(
        0.02,
        "The learning rate of loaded weights, as a ratio of learning_rate. Applies if you start from an encoder or an "
        "ELECTRA that lacks some of the model's parameters: those train at learning_rate.",
    )
    weight_decay: float = option(0.01, "Does not apply to biases and norms.")
    warmup_steps: float = option(0.1, "A number of steps, or below 1 a ratio of the run, limited to 10,000 steps.")
    logging_steps: float = option(100, "Log every so many steps.")
    eval_strategy: str = option("steps", "When to evaluate: no, steps or epoch.")
    eval_steps: float | None = option(1000, "Evaluate every so many steps.")
    save_steps: float = option(1000, "Write a checkpoint every so many steps.")
    restore_callback_states_from_checkpoint: bool = option(True, "Also resume callbacks, such as early stopping.")
    stop_on_save_error: bool = option(
        False, "Stop if a checkpoint cannot be written, for example because the disk is full. Default: continue."
    )
    plan: bool = option(False, "Train a few steps, say what the whole run costs, and write nothing.")
    remove_unused_columns: bool = option(False, "Not needed, because the collator selects its columns.")

    def __post_init__(self):
        is_larger_better = not metric_of(self).endswith(("loss", "perplexity"))
        if self.greater_is_better not in (None, is_larger_better):
            raise ValueError(
                f"--greater_is_better is {self.greater_is_better}, which contradicts the metric; leave it out."
            )
        if self.save_strategy == "best":  # the Trainer requires the name of a metric here
            self.metric_for_best_model = self.metric_for_best_model or "loss"
        super().__post_init__()
        if self.greater_is_better is not None:  # the Trainer only knows that a loss should fall
            self.greater_is_better = is_larger_better
        follow_metric(self)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        steps = super().get_warmup_steps(num_training_steps)
        if self.warmup_steps >= 1 or steps <= MOST_WARMUP_STEPS:
            return steps
        logger.info(
            f"Warm-up takes {MOST_WARMUP_STEPS:,} steps instead of {steps:,} (--warmup_steps {self.warmup_steps:g}), "
            "because a ratio is limited to ELECTRA's number. Give a number of steps for a longer warm-up."
        )
        return MOST_WARMUP_STEPS


GROUPS = (ModelArguments, DataArguments, PretrainingArguments)


def parse_arguments(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, PretrainingArguments]:
    """Parse `[recipe.yaml] [--option value ...]`. An option on the command line wins over the recipe.

    Raises:
        InputError: An option is unknown, or its value cannot be used.
    """
    alternatives = frozenset({"config", "model_name_or_path"})
    model, data, training = parse_options(GROUPS, arguments, "Pretrain SpanElectra.", alternatives)
    check_values(model, data, training)
    return model, data, training


def check_values(model: ModelArguments, data: DataArguments, training: PretrainingArguments) -> None:
    """Refuse options that are missing, out of range or contradictory. Nothing is opened yet."""
    check_model(model)
    check_data(data)
    check_weights_are_kept(training)
    check_training(training, ACCEPTED)
    if training.pretrained_lr_ratio < 0:
        raise InputError(
            f"--pretrained_lr_ratio is {training.pretrained_lr_ratio}; it must be at least 0, which leaves the loaded "
            "weights as they are."
        )
    if not training.accelerator_config.use_seedable_sampler:
        raise InputError(
            "--accelerator_config: use_seedable_sampler is false, so a resumed run could not repeat the order of "
            "the rows. Leave it out."
        )
    check_devices(training)
    if not (data.probe_file and metric_of(training).startswith("probe_")):  # the files say which these are
        refuse_metrics(training, [name for name in SUMMARY if name not in UNDIRECTED])
    if data.streaming:
        check_streaming(data, training)
    if data.features_cache_dir is not None and lies_in(data.features_cache_dir, training.output_dir):
        raise InputError(
            f"--features_cache_dir {data.features_cache_dir}: is inside --output_dir, which is only for the run; give "
            "another folder."
        )
    check_source("--model_name_or_path", model.model_name_or_path, training)
    check_source("--generator_name_or_path", model.generator_name_or_path, training)
    if data.probe_file and model.objective == "generator":
        raise InputError(
            "--probe_file: probes the discriminator, which --objective generator does not train; leave it out."
        )


def check_model(model: ModelArguments) -> None:
    """Require one model, and the generator only where it is used."""
    if (model.config is None) == (model.model_name_or_path is None):
        came = "neither" if model.config is None else "both"
        raise InputError(
            f"{came} of --config and --model_name_or_path given: give one. --config small (tiny, base, your.json) "
            "builds a new model, --model_name_or_path continues from a checkpoint."
        )
    check_positive(model, "extend_vocabulary")
    if model.extends_vocabulary and model.model_name_or_path is None:
        raise InputError(
            "--extend_vocabulary and --extend_vocabulary_file extend the tokenizer of --model_name_or_path. For a new "
            "model, train a tokenizer on your text: python -m span_electra.tokenization.train_tokenizer."
        )
    if model.objective is not None and model.objective not in OBJECTIVES:
        raise InputError(f"--objective is {model.objective}; accepted are {', '.join(OBJECTIVES)}.")
    if model.generator_name_or_path and not model.model_name_or_path and model.objective != "discriminator":
        raise InputError(
            "--generator_name_or_path needs --model_name_or_path, which names its discriminator, or --config with "
            "--objective discriminator, which trains a new one."
        )


def check_data(data: DataArguments) -> None:
    """Require text, and ratios and counts within their range."""
    if not data.train_file:
        raise InputError("--train_file is missing: give text files, or a folder that create_features wrote.")
    if data.mask_ratio is not None and not 0 < data.mask_ratio < 1:
        raise InputError(f"--mask_ratio is {data.mask_ratio}; it must lie between 0 and 1, exclusive (0.15 is usual).")
    if not 0 <= data.validation_split_percentage < 100:
        raise InputError(
            f"--validation_split_percentage is {data.validation_split_percentage}; it must lie in [0, 100)."
        )
    if data.mixture:
        check_mixture(data)
    counts = ("max_seq_length", "max_span_words", "max_train_samples", "max_eval_samples", "preprocessing_num_workers")
    check_positive(data, *counts)


def check_mixture(data: DataArguments) -> None:
    """Require a share above 0 for each entry of train_file, which names no corpus twice."""
    shares, paths = data.mixture, data.train_file
    if len(shares) != len(paths):
        raise InputError(
            f"--mixture has {len(shares)} shares, and --train_file has {len(paths)} entries: give a share for each "
            "entry. A folder is one entry, and so is a glob in quotes."
        )
    for share in shares:
        if not 0 < share < math.inf:
            raise InputError(
                f"--mixture: {share:g} is not a share. Each must be above 0, such as 0.6 0.3 0.1. To leave a corpus "
                "out, remove it from --train_file."
            )
    corpora = [os.path.realpath(path) for path in paths]
    for path, corpus in zip(paths, corpora, strict=True):
        if corpora.count(corpus) > 1:
            raise InputError(f"--mixture: --train_file names {path} twice; give it once, with a larger share.")
    if data.max_train_samples is not None:
        raise InputError("--max_train_samples: does not work with --mixture; give fewer --max_steps.")


def check_devices(training: PretrainingArguments) -> None:
    """Require a process for each GPU."""
    if training.n_gpu > 1:
        raise InputError(
            f"One process sees {training.n_gpu} GPUs, but each GPU needs its own process: start with accelerate "
            f"launch --num_processes {training.n_gpu}, or use one GPU with CUDA_VISIBLE_DEVICES=0."
        )


def metric_of(training: PretrainingArguments) -> str:
    return (training.metric_for_best_model or "loss").removeprefix("eval_")


def refuse_metrics(training: PretrainingArguments, accepted: Sequence[str]) -> None:
    """Refuse to choose the best model by a metric that is not `accepted`."""
    if metric_of(training) not in accepted:
        raise InputError(
            f"--metric_for_best_model is {training.metric_for_best_model}; accepted are {', '.join(accepted)}."
        )


def check_metric(training: PretrainingArguments, config: SpanObjectivesConfig, probes: Sequence[str]) -> None:
    """Refuse to choose the best model by a metric that the run does not compute. `probes` are its probes' metrics."""
    absent = set(UNDIRECTED)
    absent |= {f"{name}_loss" for name in ("sbgo", "sbpo") if not getattr(config, f"use_{name}")}
    if config.objective == "generator":
        absent |= {name for name in SUMMARY if "discriminator" in name or name in ("rtd_loss", "sbpo_loss")}
    refuse_metrics(training, [*(name for name in SUMMARY if name not in absent), *probes])


def check_rows(data: DataArguments, training: PretrainingArguments, rows: int | None, is_evaluated: bool) -> None:
    """Refuse options that need an evaluation in a run without one, and dropping the only batch.

    Args:
        rows: The number of rows to train on; None for a stream.
    """
    if data.probe_file and not is_evaluated:
        raise InputError(
            "--probe_file: is scored whenever the model is evaluated, and this run has no evaluation. Give a "
            "--validation_file."
        )
    by_evaluation = {
        "load_best_model_at_end": training.load_best_model_at_end,
        "save_strategy best": training.save_strategy == "best",
    } | {f"lr_scheduler_type {name}": training.lr_scheduler_type == name for name in SCHEDULES_BY_METRIC}
    for name, is_given in by_evaluation.items():
        if is_given and (not is_evaluated or training.eval_strategy == "no"):
            raise InputError(
                f"--{name}: needs evaluations, and this run has none. Give text to evaluate on with "
                "--validation_file (and an --eval_strategy other than no), or leave it out."
            )
    batch = training.train_batch_size * training.world_size
    if training.dataloader_drop_last and rows is not None and rows < batch:
        raise InputError(
            f"--dataloader_drop_last: would drop all {rows} rows, which do not fill a batch of {batch}; leave it out, "
            "or lower --per_device_train_batch_size."
        )


def check_streaming(data: DataArguments, training: PretrainingArguments) -> None:
    """Refuse options that need the end of a stream, or the number of its rows."""
    if training.max_steps < 1:
        raise InputError("--streaming needs --max_steps: a stream has no end, so give the number of steps.")
    for name in ("eval_strategy", "save_strategy"):
        if getattr(training, name) == "epoch":
            raise InputError(
                f"--{name} is epoch; with --streaming it must be steps or no, because a stream has no end."
            )
    if data.max_train_samples is not None:
        raise InputError("--max_train_samples: does not work with --streaming; give fewer --max_steps.")
