"""The options of `run_finetuning.py`, and the checks on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from span_electra.common.command_line import check_positive, option, parse_options
from span_electra.common.errors import InputError
from span_electra.training.arguments import (
    MOST_SEEDS,
    AcceptedValues,
    RunArguments,
    check_source,
    check_training,
    fsdp_state_dict_type,
)

TASKS = ("classification", "regression", "token-classification", "question-answering")
ALL_ROWS = "the metrics that choose the best checkpoint need all rows together"
ACCEPTED: AcceptedValues = {
    "prediction_loss_only": ((False,), ALL_ROWS),
    "batch_eval_metrics": ((False,), ALL_ROWS),
    "eval_do_concat_batches": ((True,), ALL_ROWS),
    "eval_strategy": (("steps", "epoch"), "the best checkpoint is chosen by evaluation"),
    "push_to_hub": ((False,), "each seed would overwrite the one before. Upload the finished folder with hf upload"),
    "resume_from_checkpoint": ((None,), "fine-tuning is short and always starts anew"),
}
UNSMOOTHED = ("regression", "question-answering")

# The smallest hidden size for which they apply -> learning rate and layer-wise decay (Clark et al., 2020, table 7:
# Small, Base, Large).
SETTINGS_BY_SIZE = {0: (3e-4, 0.8), 768: (1e-4, 0.8), 1024: (5e-5, 0.9)}


@dataclass
class EncoderArguments:
    """The encoder to fine-tune."""

    model_name_or_path: str | None = option(None, "Folder or Hub name of the encoder: SpanElectra, ELECTRA, BERT, …")
    tokenizer: str | None = option(None, "A tokenizer's folder or Hub name. Default: that of model_name_or_path.")
    from_scratch: bool = option(False, "Start from random weights, to see what pretraining is worth.")
    trust_remote_code: bool = option(
        False, "Run the code that comes with the encoder. SpanElectra does not need this."
    )


@dataclass
class TaskArguments:
    """The task, and its data."""

    task: str | None = option(None, f"One of {', '.join(TASKS)}.")
    train_file: str | None = option(
        None, "A .jsonl, .json, .csv or .parquet file, or a `datasets` name (name:configuration)."
    )
    validation_file: str | None = option(None, "Data to evaluate on. Default: the `datasets` name in train_file.")
    split: str = option("train", "The split of a `datasets` name to train on.")
    validation_split: str = option("validation", "The split to evaluate on.")
    columns: list[str] = option(list, "Your names of the task's columns, such as sentence1=premise label=gold.")
    max_seq_length: int | None = option(None, "Length of a row in tokens. Default: 128, in question answering 384.")
    stride: int | None = option(
        None, "Tokens by which the windows of a long text overlap. Default: a quarter of max_seq_length."
    )
    max_train_samples: int | None = option(None, "Train on at most this many rows, drawn at random.")
    max_eval_samples: int | None = option(None, "Evaluate on at most this many rows, drawn at random.")


@dataclass
class FinetuningArguments(RunArguments):
    """The Trainer's arguments with ELECTRA's settings (Clark et al., 2020, table 7) as defaults."""

    seeds: int = option(1, "Train with this many seeds (seed, seed + 1, …), and report the median and the spread.")
    learning_rate: float | None = option(  # type: ignore[assignment]
        None, "The head's learning rate. Default: 3e-4, 1e-4 from hidden size 768, 5e-5 from 1024."
    )
    layerwise_lr_decay: float | None = option(
        None, "Factor by which the learning rate falls from layer to layer. Default: 0.8, 0.9 from hidden size 1024."
    )
    dropout: float | None = option(
        None, "Dropout of hidden states and attention. Default: 0.1, whatever pretraining used."
    )
    num_train_epochs: float = option(3.0, "Passes over the data. ELECTRA uses 10 for RTE and STS-B, 2 for SQuAD.")
    per_device_train_batch_size: int = option(32, "Rows per batch and device in training.")
    per_device_eval_batch_size: int = option(64, "Rows per batch and device in evaluation.")
    warmup_steps: float = option(0.1, "A number of steps, or below 1 a ratio of the run.")
    weight_decay: float = option(0.0, "Does not apply to biases and norms.")
    logging_steps: float = option(50, "Log every so many steps.")
    eval_strategy: str = option("epoch", "When to evaluate and save: steps or epoch.")
    save_strategy: str | None = option(  # type: ignore[assignment]
        None, "Default: eval_strategy, because only evaluated models can be kept."
    )
    metric_for_best_model: str | None = option(
        None, "The metric that chooses the best checkpoint and seed. Default: the task's main one."
    )
    load_best_model_at_end: bool = option(True, "Keep the best checkpoint on the validation data, not the last.")
    save_total_limit: int | None = option(1, "Checkpoints to keep during training, besides the best.")
    save_only_model: bool = option(True, "Leave the optimizer out of checkpoints.")

    def __post_init__(self):
        self.save_strategy = self.save_strategy or self.eval_strategy
        self.save_steps = self.eval_steps or self.logging_steps
        chosen = self.metric_for_best_model
        super().__post_init__()
        self.metric_for_best_model = chosen  # the Trainer has set it to the loss; our default is the task's metric


GROUPS = (EncoderArguments, TaskArguments, FinetuningArguments)


def parse_arguments(arguments: Sequence[str]) -> tuple[EncoderArguments, TaskArguments, FinetuningArguments]:
    """Parse `[recipe.yaml] [--option value ...]`. An option on the command line wins over the recipe."""
    encoder, task, training = parse_options(GROUPS, arguments, "Fine-tune an encoder on a task.")
    check_values(encoder, task, training)
    return encoder, task, training


def check_values(encoder: EncoderArguments, task: TaskArguments, training: FinetuningArguments) -> None:
    """Refuse options that are missing, out of range or contradictory. Nothing is opened yet."""
    if task.task not in TASKS:
        came = "is missing" if task.task is None else f"is {task.task!r}"
        raise InputError(f"--task {came}; accepted are {', '.join(TASKS)}.")
    if encoder.model_name_or_path is None:
        raise InputError("--model_name_or_path is missing: give an encoder's folder or Hub name.")
    if task.train_file is None:
        raise InputError("--train_file is missing: give a .jsonl, .csv or .parquet file, or a `datasets` name.")
    check_training(training, ACCEPTED)
    check_positive(task, "max_seq_length", "stride", "max_train_samples", "max_eval_samples")
    check_positive(training, "seeds")
    if training.seed + training.seeds > MOST_SEEDS:
        raise InputError(
            f"--seed is {training.seed} and --seeds {training.seeds}; the last seed must be at most {MOST_SEEDS - 1}."
        )
    if fsdp_state_dict_type(training) is not None:
        raise InputError(
            "FSDP: the Trainer cannot load the best checkpoint of a sharded model; use DDP "
            "(configs/accelerate/ddp.yaml)."
        )
    check_source("--model_name_or_path", encoder.model_name_or_path, training)
    decay = training.layerwise_lr_decay
    if decay is not None and not 0 < decay <= 1:
        raise InputError(f"--layerwise_lr_decay is {decay}; it must lie in (0, 1], and 1 means none.")
    if training.dropout is not None and not 0 <= training.dropout < 1:
        raise InputError(f"--dropout is {training.dropout}; it must lie in [0, 1) (ELECTRA's is 0.1).")
    if training.label_smoothing_factor and task.task in UNSMOOTHED:
        raise InputError(
            f"--label_smoothing_factor is {training.label_smoothing_factor}; --task {task.task} has no labels to "
            "smooth: leave it out."
        )


def settle_by_size(training: FinetuningArguments, hidden_size: int) -> None:
    """Fill in the settings that depend on the encoder's size unless you gave them."""
    rate, decay = SETTINGS_BY_SIZE[max(size for size in SETTINGS_BY_SIZE if size <= hidden_size)]
    if training.learning_rate is None:
        training.learning_rate = rate
    if training.layerwise_lr_decay is None:
        training.layerwise_lr_decay = decay
