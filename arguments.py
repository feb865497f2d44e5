"""The arguments of `run_pretraining.py`: on the command line, in a recipe, or in a recipe with some overridden."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import is_tensorboard_available

from span_electra.tokenization.text import InputError

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
MOST_WARMUP_STEPS = 10_000  # ELECTRA's


@dataclass
class ModelArguments:
    """What is trained: a new model of the shape in `config`, or one that is there already."""

    config: str | None = field(
        default=None, metadata={"help": "A model's configuration: a JSON file, or tiny, small, base or tutorial."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Start from this SpanElectra checkpoint or ELECTRA discriminator instead."}
    )
    generator_name_or_path: str | None = field(
        default=None, metadata={"help": "The ELECTRA generator that goes with the discriminator."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "A tokenizer's folder or Hub name. Default: that of model_name_or_path."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "eager, sdpa, flash_attention_2 or flex_attention. Default: the library's choice."},
    )
    license: str | None = field(
        default=None, metadata={"help": "For the model card: the licence it is published under, apache-2.0 for one."}
    )
    language: list[str] = field(
        default_factory=list,
        metadata={"help": "For the model card: the text's languages by ISO 639 code, en for one."},
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    train_file: list[str] = field(
        default_factory=list,
        metadata={"help": "Text: files, folders, globs, `datasets` names. Or one folder that create_features wrote."},
    )
    validation_file: list[str] = field(default_factory=list, metadata={"help": "The same, for evaluation."})
    validation_split_percentage: float = field(
        default=1.0,
        metadata={"help": "Without validation_file, keep back this share of the rows for evaluation; 0: none."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many rows for training."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only so many rows for evaluation."})
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Length of a row in tokens. Default: the older configuration file's, or 128."}
    )
    mask_ratio: float | None = field(
        default=None, metadata={"help": "Share of masked tokens. Default: the older configuration file's, or 0.15."}
    )
    documents: str = field(
        default="blank_line",
        metadata={"help": "What ends a document, which no row crosses: blank_line, file or line."},
    )
    text_column: str = field(
        default="text", metadata={"help": "The column of tables and `datasets` that holds the text."}
    )
    split: str = field(default="train", metadata={"help": "The split of a `datasets` name to train on."})
    validation_split: str = field(
        default="validation", metadata={"help": "The one in validation_file to evaluate on."}
    )
    preprocessing_num_workers: int = field(default=1, metadata={"help": "Processes that tokenize."})
    features_cache_dir: str | None = field(
        default=None, metadata={"help": "Where rows made from text are kept. Default: the cache of `datasets`."}
    )


@dataclass
class PretrainingArguments(TrainingArguments):
    """The Trainer's arguments with ELECTRA's settings (Clark et al., 2020, table 6) as defaults."""

    output_dir: str | None = field(default=None, metadata={"help": "A new or empty folder for the run."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Replace the earlier run in output_dir. Nothing but such a run is ever replaced."},
    )
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Rows in a batch on each device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "The same for evaluation."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Of AdamW, at its peak."})
    weight_decay: float = field(default=0.01, metadata={"help": "Not applied to biases and norms."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Of AdamW."})
    optim: str = field(default="adamw_torch_fused", metadata={"help": "The optimizer, by the Trainer's name for it."})
    warmup_steps: float = field(
        default=0.1,
        metadata={"help": "1 or more: that many steps. Below 1: that share of the run, but 10,000 steps at most."},
    )
    logging_steps: float = field(default=100, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to evaluate: no, steps or epoch."})
    eval_steps: float | None = field(default=1000, metadata={"help": "Evaluate every so many steps."})
    save_steps: float = field(default=1000, metadata={"help": "Write a checkpoint every so many steps."})
    # A filtered loss looks healthy when it is not.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator picks its columns itself."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser takes the second
        default=None, metadata={"help": "Trackers, or none. Default: tensorboard if it is installed."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is missing: give a new or empty folder for the run.")
        if self.report_to is None:
            self.report_to = "tensorboard" if is_tensorboard_available() else "none"
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is nothing to copy to; the DataLoader warns

    def __getstate__(self):
        # The Trainer pickles its arguments into every checkpoint, which others may get to see.
        return {**self.__dict__, "hub_token": None}

    def get_warmup_steps(self, num_training_steps: int) -> int:
        steps = super().get_warmup_steps(num_training_steps)
        return min(steps, MOST_WARMUP_STEPS) if self.warmup_steps < 1 else steps


def parse_arguments(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, PretrainingArguments]:
    """Parse `[recipe.yaml] [--option value ...]`, in which options win over the recipe.

    Raises:
        InputError: an unknown option, or a value that cannot be used.
    """
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, PretrainingArguments),  # type: ignore[arg-type]
        prog="run_pretraining.py",
        usage="run_pretraining.py [recipe.yaml] [--option value ...]",
        description="Pretrain SpanElectra. A recipe is a YAML or JSON file that holds options.",
        allow_abbrev=False,
    )
    arguments = list(arguments)
    if arguments and not arguments[0].startswith("-"):
        parser.set_defaults(**read_recipe(arguments.pop(0)))
    try:
        model, data, training, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except ValueError as error:  # the Trainer's own checks
        raise InputError(first_line(error)) from error
    if unknown:
        raise InputError(unknown_option(unknown[0].split("=")[0]))
    check_values(model, data, training)
    return model, data, training


def read_recipe(path: str) -> dict:
    """The options in a recipe, checked by name."""
    if Path(path).suffix not in RECIPE_SUFFIXES:
        raise InputError(
            f"{path}: neither an option (these begin with --) nor a recipe ({', '.join(RECIPE_SUFFIXES)})."
        )
    recipe = read_settings(path)
    for name in recipe.keys() - option_types().keys():
        raise InputError(f"{path}: {unknown_option(name)}")
    return {name: recipe_value(path, name, value) for name, value in recipe.items()}


def recipe_value(path: str, name: str, value: object) -> object:
    """A recipe's value as it would come from the command line, so that both are converted and checked alike."""
    takes_list = "list" in str(option_types()[name])
    if isinstance(value, list):
        if not takes_list:
            raise InputError(f"{path}: {name} is a list, {value}; one value is expected.")
        return [str(item) for item in value]
    if value is None:
        return None
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return [text] if name in ("train_file", "validation_file", "language") else text


def read_settings(path: str | Path) -> dict:
    """The mapping that a YAML or JSON file holds."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not valid {Path(path).suffix[1:].upper()} ({first_line(error)}).") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds a {type(settings).__name__}; names with values are expected.")
    return settings


def check_values(model: ModelArguments, data: DataArguments, training: PretrainingArguments) -> None:
    """Refuse what is missing and what is out of its range, as far as that shows without opening anything."""
    if not data.train_file:
        raise InputError("--train_file is missing: give text files, or a folder that create_features wrote.")
    if (model.config is None) == (model.model_name_or_path is None):
        came = "neither" if model.config is None else "both"
        raise InputError(
            f"{came} of --config and --model_name_or_path given: give one, --config small (tiny, base, your.json) for "
            "a new model, --model_name_or_path for one to go on from."
        )
    if model.generator_name_or_path and not model.model_name_or_path:
        raise InputError("--generator_name_or_path needs --model_name_or_path, the discriminator that goes with it.")
    if data.mask_ratio is not None and not 0 < data.mask_ratio < 1:
        raise InputError(
            f"--mask_ratio is {data.mask_ratio}; it must lie between 0 and 1, both excluded (0.15 is usual)."
        )
    if not 0 <= data.validation_split_percentage < 100:
        raise InputError(
            f"--validation_split_percentage is {data.validation_split_percentage}; it must lie in [0, 100)."
        )
    if training.max_steps < 1 and training.max_steps != -1:
        raise InputError(f"--max_steps is {training.max_steps}; it must be at least 1 (leave it out to count epochs).")
    if training.max_steps == -1 and not training.num_train_epochs > 0:
        raise InputError(f"--num_train_epochs is {training.num_train_epochs}; it must be above 0.")
    positive = [(data, ("max_train_samples", "max_eval_samples", "preprocessing_num_workers"))]
    batch = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    for group, names in [*positive, (training, batch)]:
        for name in names:
            value = getattr(group, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}; it must be at least 1.")
    if training.label_smoothing_factor:
        raise InputError(
            f"--label_smoothing_factor is {training.label_smoothing_factor}; the objectives have no smoothed form: "
            "leave it out."
        )
    source, target = model.model_name_or_path, Path(training.output_dir).resolve()
    if (
        training.overwrite_output_dir
        and source
        and target in (Path(source).resolve(), *Path(source).resolve().parents)
    ):
        raise InputError(
            f"--model_name_or_path {source}: lies in --output_dir, which --overwrite_output_dir would empty; give "
            "another --output_dir."
        )
    if not training.learning_rate > 0:
        raise InputError(f"--learning_rate is {training.learning_rate}; it must be above 0 (ELECTRA-Small's is 5e-4).")


def option_types() -> dict[str, object]:
    groups = (ModelArguments, DataArguments, PretrainingArguments)
    return {option.name: option.type for group in groups for option in fields(group) if option.init}


def unknown_option(name: str) -> str:
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), option_types(), n=1)
    hint = f"did you mean {'--' if name.startswith('-') else ''}{close[0]}?" if close else "--help lists all options."
    return f"{name} is not an option: {hint}"


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
