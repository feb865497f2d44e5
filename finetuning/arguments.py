"""The arguments of `run_finetuning.py`, with ELECTRA's fine-tuning settings as defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from span_electra.common.command_line import check_positive, parse_options
from span_electra.common.errors import InputError
from span_electra.common.paths import looks_like_path
from span_electra.training.arguments import (
    MOST_SEEDS,
    RunArguments,
    check_source,
    check_training,
    fsdp_state_dict_type,
)

TASKS = ("classification", "regression", "token-classification", "question-answering")
UNSMOOTHED = ("regression", "question-answering")

# Learning rate and its decay from layer to layer for encoders of at least so many hidden units (Clark et al., 2020,
# table 7: Small, Base, Large).
SETTINGS_BY_SIZE = {0: (3e-4, 0.8), 768: (1e-4, 0.8), 1024: (5e-5, 0.9)}


@dataclass
class EncoderArguments:
    """What is fine-tuned."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "An encoder: the folder or Hub name of a SpanElectra, ELECTRA, BERT, …"}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "A tokenizer's folder or Hub name. Default: that of model_name_or_path."}
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": "Begin with random weights in the encoder's architecture: what pretraining is worth."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the encoder. A SpanElectra does not need it here."}
    )


@dataclass
class TaskArguments:
    """What it is fine-tuned for."""

    task: str | None = field(default=None, metadata={"help": f"One of {', '.join(TASKS)}."})
    train_file: str | None = field(
        default=None,
        metadata={"help": "A .jsonl, .json, .csv or .parquet file, or a `datasets` name (name:configuration)."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "The same, for evaluation. Default: the `datasets` name in train_file."}
    )
    split: str = field(default="train", metadata={"help": "The split of a `datasets` name to train on."})
    validation_split: str = field(default="validation", metadata={"help": "The one to evaluate on."})
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns under other names than the task's own: sentence1=premise label=gold, say."},
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Length of a row in tokens. Default: 128, for question answering 384."}
    )
    stride: int | None = field(
        default=None,
        metadata={"help": "Tokens that two windows of one long text share. Default: a quarter of max_seq_length."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on only so many rows, drawn at random."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on only so many."})


@dataclass
class FinetuningArguments(RunArguments):
    """The Trainer's arguments with ELECTRA's settings (Clark et al., 2020, table 7) as defaults."""

    seeds: int = field(
        default=1, metadata={"help": "Train so many times, with seed, seed + 1, …; median and spread are reported."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Of the new head. Default: 3e-4, from 768 hidden units on 1e-4, from 1024 on 5e-5."},
    )
    layerwise_lr_decay: float | None = field(
        default=None,
        metadata={"help": "The learning rate's factor from layer to layer downwards. Default: 0.8, 0.9 from 1024 on."},
    )
    dropout: float | None = field(
        default=None,
        metadata={"help": "Of hidden states and attention. Default: 0.1, whatever the encoder was pretrained with."},
    )
    num_train_epochs: float = field(
        default=3.0, metadata={"help": "Passes over the data. ELECTRA took 10 for RTE and STS-B, 2 for SQuAD."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows in a batch on each device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "The same for evaluation."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "1 or more: that many steps. Below 1: that share of the run."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Not applied to biases and norms."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate, and to save: steps or epoch."})
    save_strategy: str | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "As eval_strategy: what is kept must have been evaluated. Leave it out."}
    )
    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "What chooses the best checkpoint and seed. Default: the task's main metric."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the best checkpoint on the validation data, not the last."}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best, meanwhile."})
    save_only_model: bool = field(default=True, metadata={"help": "Leave the optimizer out of checkpoints."})

    def __post_init__(self):
        if self.eval_strategy == "no":
            raise ValueError(
                "--eval_strategy is no; the best checkpoint is chosen by evaluation: give steps or epoch."
            )
        # A checkpoint that was not evaluated cannot be the best, and one that was not saved cannot be kept.
        if self.save_strategy not in (None, self.eval_strategy):
            raise ValueError(
                f"--save_strategy is {self.save_strategy}; checkpoints are written when they are evaluated, so leave "
                f"it out (--eval_strategy is {self.eval_strategy})."
            )
        for name in ("prediction_loss_only", "batch_eval_metrics"):
            if getattr(self, name):
                raise ValueError(f"--{name}: the best checkpoint is chosen by metrics of all rows; leave it out.")
        if not self.eval_do_concat_batches:
            raise ValueError("--eval_do_concat_batches is False; metrics are of all rows together, so leave it out.")
        if self.greater_is_better is not None:
            raise ValueError("--greater_is_better: follows from the metric; leave it out.")
        self.save_strategy = self.eval_strategy
        self.save_steps = self.eval_steps or self.logging_steps
        chosen = self.metric_for_best_model
        super().__post_init__()
        self.metric_for_best_model = chosen  # the Trainer's own default is the loss, the script's the task's metric


def parse_arguments(arguments: Sequence[str]) -> tuple[EncoderArguments, TaskArguments, FinetuningArguments]:
    """Parse `[recipe.yaml] [--option value ...]`, in which options win over the recipe.

    Raises:
        InputError: an unknown option, or a value that cannot be used.
    """
    groups = (EncoderArguments, TaskArguments, FinetuningArguments)
    encoder, task, training = parse_options(groups, arguments, "run_finetuning.py", "Fine-tune an encoder on a task.")
    check_values(encoder, task, training)
    return encoder, task, training


def check_values(encoder: EncoderArguments, task: TaskArguments, training: FinetuningArguments) -> None:
    """Refuse what is missing and what is out of its range, as far as that shows without opening anything."""
    if task.task not in TASKS:
        came = "is missing" if task.task is None else f"is {task.task!r}"
        raise InputError(f"--task {came}; accepted are {', '.join(TASKS)}.")
    if encoder.model_name_or_path is None:
        raise InputError("--model_name_or_path is missing: give an encoder's folder or Hub name.")
    if task.train_file is None:
        raise InputError("--train_file is missing: give a .jsonl, .csv or .parquet file, or a `datasets` name.")
    for data, split in (("train_file", "split"), ("validation_file", "validation_split")):
        name, value = getattr(task, data), getattr(task, split)
        if name is not None and looks_like_path(name) and value != TaskArguments.__dataclass_fields__[split].default:
            raise InputError(f"--{split} is {value!r}, but --{data} {name} is a file, which has none: leave it out.")
    check_training(training)
    check_positive(task, "max_seq_length", "stride", "max_train_samples", "max_eval_samples")
    check_positive(training, "seeds")
    if training.seed + training.seeds > MOST_SEEDS:
        raise InputError(
            f"--seed is {training.seed} and --seeds {training.seeds}; the last seed must be at most {MOST_SEEDS - 1}."
        )
    if training.do_predict:
        raise InputError("--do_predict: nothing is predicted here; leave it out, and use the model in a pipeline.")
    if fsdp_state_dict_type(training) is not None:
        raise InputError(
            "FSDP: the best checkpoint is loaded whole, which the Trainer does not do with it; take DDP "
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
            f"--label_smoothing_factor is {training.label_smoothing_factor}; the loss of --task {task.task} has no "
            "smoothed form: leave it out."
        )
    if training.push_to_hub:
        raise InputError(
            "--push_to_hub: every seed would be uploaded over the last; leave it out, and upload the finished folder "
            "with hf upload."
        )
    if training.resume_from_checkpoint is not None:
        raise InputError("--resume_from_checkpoint: fine-tuning is short and starts anew; leave it out.")


def settle_by_size(training: FinetuningArguments, hidden_size: int) -> None:
    """Fill in the settings that depend on the encoder's size, where the user gave none."""
    rate, decay = next(
        SETTINGS_BY_SIZE[size] for size in sorted(SETTINGS_BY_SIZE, reverse=True) if hidden_size >= size
    )
    if training.learning_rate is None:
        training.learning_rate = rate
    if training.layerwise_lr_decay is None:
        training.layerwise_lr_decay = decay
