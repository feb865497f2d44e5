"""Options of both scripts: on the command line, in a recipe, or in a recipe with some overridden."""

import difflib
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_args, get_type_hints

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from torch.optim import SGD
from transformers import HfArgumentParser, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks, is_tensorboard_available
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import ParallelMode

from span_electra.errors import InputError, first_line

MOST_SEEDS = 2**32  # NumPy's
RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
SCHEDULES_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # that go by what evaluations give
MADE_FOR_A_MODEL = ("galore", "apollo", "lomo", "adalomo")  # optimizers that ask for the model, which is not there yet


@dataclass
class RunArguments(TrainingArguments):
    """The Trainer's arguments, with the defaults that pretraining and fine-tuning have in common."""

    output_dir: str | None = field(default=None, metadata={"help": "A new or empty folder for the run."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Replace the earlier run in output_dir. Nothing but such a run is ever replaced."},
    )
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Of AdamW."})
    optim: str = field(default="adamw_torch_fused", metadata={"help": "The optimizer, by the Trainer's name for it."})
    # A filtered loss looks healthy when it is not.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser takes the second
        default=None, metadata={"help": "Trackers, or none. Default: tensorboard if it is installed."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is missing: give a new or empty folder for the run.")
        if self.report_to is None:
            self.report_to = "tensorboard" if is_tensorboard_available() else "none"
        if self.label_names is not None:
            raise ValueError("--label_names: every task knows its own; leave it out.")
        for name in ("bf16_full_eval", "fp16_full_eval"):
            if getattr(self, name):
                raise ValueError(
                    f"--{name}: rounds the weights, which are saved after the last evaluation; leave it out (--bf16 "
                    "evaluates in half precision, too, and keeps them)."
                )
        for name in ("logging_steps", "eval_steps", "save_steps", "warmup_steps"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ValueError(f"--{name} is {getattr(self, name)}; give a number of steps, or a share below 1.")
        if isinstance(self.accelerator_config, str):
            self.accelerator_config = read_accelerator_config(self.accelerator_config)
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is nothing to copy to; the DataLoader warns

    def __getstate__(self):
        # The Trainer pickles its arguments into every folder it saves to, which others may get to see.
        return {**self.__dict__, "hub_token": None}


def parse_options(
    groups: Sequence[type],
    arguments: Sequence[str],
    script: str,
    description: str,
    alternatives: frozenset[str] = frozenset(),
) -> tuple:
    """Parse `[recipe.yaml] [--option value ...]`, in which options win over the recipe.

    Args:
        groups: Dataclasses, the fields of which are the options.
        arguments: The command line without the script's name.
        script: The script's name, for the help.
        description: What it does, for the help.
        alternatives: Options of which one excludes the others: one on the command line takes the place of a recipe's.

    Returns:
        An instance of each group.

    Raises:
        InputError: an unknown option, or a value that the Trainer's arguments refuse.
    """
    parser = HfArgumentParser(
        groups,  # type: ignore[arg-type]
        prog=script,
        usage=f"{script} [recipe.yaml] [--option value ...]",
        description=f"{description} A recipe is a YAML or JSON file that holds options.",
        allow_abbrev=False,
    )
    arguments = list(arguments)
    if arguments and not arguments[0].startswith("-"):
        recipe = read_recipe(arguments.pop(0), groups)
        given = {argument.partition("=")[0].lstrip("-").replace("-", "_") for argument in arguments}
        parser.set_defaults(**{n: v for n, v in recipe.items() if n not in alternatives or not given & alternatives})
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except OSError as error:
        if error.filename is None:
            raise InputError(f"{first_line(error)}.") from error
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    except (ImportError, ValueError) as error:  # the Trainer's own checks
        raise InputError(f"{first_line(error)}.") from error
    if unknown:
        raise InputError(unknown_option(unknown[0].split("=")[0], groups))
    return tuple(parsed)


def read_recipe(path: str, groups: Sequence[type]) -> dict:
    """The options in a recipe, checked by name."""
    if Path(path).suffix not in RECIPE_SUFFIXES:
        raise InputError(
            f"{path}: neither an option (these begin with --) nor a recipe ({', '.join(RECIPE_SUFFIXES)})."
        )
    recipe, types = read_settings(path, load_recipe), option_types(groups)
    for name in recipe.keys() - types.keys():
        raise InputError(f"{path}: {unknown_option(name, groups)}")
    return {name: recipe_value(path, name, value, types[name]) for name, value in recipe.items()}


def recipe_value(path: str, name: str, value: object, accepted: object) -> object:
    """A recipe's value as it would come from the command line, so that both are converted and checked alike."""
    if isinstance(value, list):
        if "list" not in str(accepted):
            raise InputError(f"{path}: {name} is a list, {value}; one value is expected.")
        for item in value:
            if item is None or isinstance(item, (list, dict)):
                raise InputError(f"{path}: {name} holds {json.dumps(item)}; a list of words or numbers is expected.")
        return [str(item) for item in value]
    if value is None:
        if type(None) not in get_args(accepted):
            raise InputError(f"{path}: {name} has no value; give one, or leave it out.")
        return None
    if bool in (accepted, *get_args(accepted)):
        value = yaml.SafeLoader.bool_values.get(str(value).lower(), value)  # which knows `on` and `off` as well
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return [text] if accepted == list[str] else text


def load_recipe(text: str) -> object:
    """YAML of which scalars stay as they are written: `no` is Norwegian, and 0123 no 83. Within a mapping, which goes
    on as JSON, they have their types."""
    loader = yaml.SafeLoader(text)
    recipe = loader.get_single_node()

    def value_of(node: yaml.Node) -> object:
        is_text = isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null"
        return node.value if is_text else loader.construct_object(node, deep=True)

    if not isinstance(recipe, yaml.MappingNode):
        return yaml.safe_load(text)
    loader.flatten_mapping(recipe)  # of what `<<` brings in
    return {
        loader.construct_scalar(name): [value_of(item) for item in value.value]
        if isinstance(value, yaml.SequenceNode)
        else value_of(value)
        for name, value in recipe.value
    }


def read_settings(path: str | Path, load_yaml: Callable[[str], object] = yaml.safe_load) -> dict:
    """The mapping that a YAML or JSON file holds."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = json.loads(text) if Path(path).suffix == ".json" else load_yaml(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not valid {Path(path).suffix[1:].upper()} ({first_line(error)}).") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds a {type(settings).__name__}; names with values are expected.")
    return settings


def read_accelerator_config(given: str) -> dict:
    """The settings in `--accelerator_config`: JSON, or a file that holds it."""
    try:
        settings = json.loads(given) if given.startswith("{") else read_settings(given)
    except ValueError as error:
        problem = first_line(error)
        raise InputError(
            f"--accelerator_config {given}: neither JSON nor a file that holds it ({problem})."
        ) from error
    known = {option.name for option in fields(AcceleratorConfig)}
    for name in settings.keys() - known:
        raise InputError(f"--accelerator_config: {name} is not a setting; accepted are {', '.join(sorted(known))}.")
    return settings


def check_positive(group: object, *names: str) -> None:
    """Refuse counts below 1 in a group of options; None, which leaves the count to the script, passes."""
    for name in names:
        value = getattr(group, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}; it must be at least 1.")


def check_training(training: RunArguments) -> None:
    """Refuse what the Trainer's options have out of its range, and what does not work here."""
    for name in ("seed", "data_seed"):
        value = getattr(training, name)
        if value is not None and not 0 <= value < MOST_SEEDS:
            raise InputError(f"--{name} is {value}; it must lie between 0 and {MOST_SEEDS - 1}.")
    check_workers(training)
    check_optimizer(training)
    check_length(training)
    if training.use_liger_kernel:
        raise InputError("--use_liger_kernel: there are none for encoders of ELECTRA's kind; leave it out.")
    check_fsdp(training)
    check_with_library(training)


def check_workers(training: RunArguments) -> None:
    """Refuse a number of data workers that is none, and settings of workers that there are not."""
    if training.dataloader_num_workers < 0:
        raise InputError(f"--dataloader_num_workers is {training.dataloader_num_workers}; it must be at least 0.")
    if training.dataloader_num_workers:
        return
    if training.dataloader_persistent_workers:
        raise InputError(
            "--dataloader_persistent_workers: there are no workers to persist; give --dataloader_num_workers 1 or "
            "more, or leave it out."
        )
    if training.dataloader_multiprocessing_context is not None:
        raise InputError(
            f"--dataloader_multiprocessing_context is {training.dataloader_multiprocessing_context}; there are no "
            "workers to start: give --dataloader_num_workers 1 or more, or leave it out."
        )


def check_optimizer(training: RunArguments) -> None:
    """Refuse an optimizer's settings out of their range."""
    if training.learning_rate is not None and not 0 < training.learning_rate < math.inf:
        raise InputError(
            f"--learning_rate is {training.learning_rate}; it must be above 0 and finite (ELECTRA-Small's are 5e-4 to "
            "pretrain, 3e-4 to fine-tune)."
        )
    for name in ("weight_decay", "adam_epsilon", "max_grad_norm"):
        if not 0 <= getattr(training, name) < math.inf:
            raise InputError(f"--{name} is {getattr(training, name)}; it must be at least 0 and finite.")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(training, name) < 1:
            raise InputError(f"--{name} is {getattr(training, name)}; it must lie in [0, 1).")


def check_length(training: RunArguments) -> None:
    """Refuse batches without rows, and runs without steps."""
    check_positive(
        training, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"
    )
    if training.max_steps < 1 and training.max_steps != -1:
        raise InputError(f"--max_steps is {training.max_steps}; it must be at least 1 (leave it out to count epochs).")
    if training.max_steps == -1 and not 0 < training.num_train_epochs < math.inf:
        raise InputError(f"--num_train_epochs is {training.num_train_epochs}; it must be above 0 and finite.")


def check_fsdp(training: RunArguments) -> None:
    """Refuse to shard a model for one process, and in a way that cannot be saved."""
    if training.fsdp and training.parallel_mode is not ParallelMode.DISTRIBUTED:
        raise InputError(
            "--fsdp: divides a model among several processes, and this is one; start them with accelerate launch or "
            "torchrun, or leave it out."
        )
    if (kind := fsdp_state_dict_type(training)) not in (None, "FULL_STATE_DICT"):
        raise InputError(
            f"FSDP's state_dict_type is {kind}, by which the Trainer saves no model: give FULL_STATE_DICT, as "
            "fsdp_state_dict_type in accelerate's configuration (configs/accelerate/fsdp.yaml has it)."
        )


def fsdp_state_dict_type(training: RunArguments) -> str | None:
    """How FSDP gives its weights to be saved, by the Trainer's arguments or `accelerate`'s; None without FSDP."""
    if training.fsdp:
        return training.fsdp_plugin_args["state_dict_type"]
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    is_first = os.environ.get("FSDP_VERSION", "1") == "1"
    return os.environ.get("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT" if is_first else "SHARDED_STATE_DICT")


def check_with_library(training: RunArguments) -> None:
    """Refuse the trackers, optimizers and schedules that the Trainer would refuse once it has begun."""
    parameters = [torch.zeros(1, device=training.device, requires_grad=True)]
    rate = {"lr": training.learning_rate or 1e-3}  # fine-tuning's may depend on the model
    schedule, settings = training.lr_scheduler_type, training.lr_scheduler_kwargs

    def make_optimizer():
        if not training.optim.startswith(MADE_FOR_A_MODEL):
            kind, options = Trainer.get_optimizer_cls_and_kwargs(training)
            return kind(parameters, **options | rate)
        with suppress(ValueError):
            Trainer.get_optimizer_cls_and_kwargs(training)

    attempts = {
        "optim": make_optimizer,
        "report_to": lambda: [tracker() for tracker in get_reporting_integration_callbacks(training.report_to)],
        "lr_scheduler_type": lambda: get_scheduler(schedule, SGD(parameters, **rate), 1, 2, settings),  # type: ignore[arg-type]
    }
    fixes = {
        "optim": "adamw_torch_fused needs no package, and --optim_args are name=value,name=value",
        "report_to": "none reports to none",
        "lr_scheduler_type": "what it needs goes into --lr_scheduler_kwargs, as JSON",
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            value = training.to_dict()[name]  # an option of a few choices by its name
            raise InputError(f"--{name} is {value}; {first_line(error)} ({fixes[name]}).") from error


def follow_metric(training: RunArguments) -> None:
    """Set the `mode` of a schedule that goes by a metric; the Trainer leaves it at min."""
    if training.lr_scheduler_type in SCHEDULES_BY_METRIC:
        mode = "max" if training.greater_is_better else "min"
        training.lr_scheduler_kwargs = {"mode": mode} | (training.lr_scheduler_kwargs or {})  # type: ignore[operator]


def check_source(option: str, source: str | None, training: RunArguments) -> None:
    """Refuse to overwrite the model that the run starts from, or the generator that it trains against."""
    if source is None or not training.overwrite_output_dir:
        return
    if lies_in(source, training.output_dir):
        raise InputError(
            f"{option} {source}: lies in --output_dir, which --overwrite_output_dir would empty; give "
            "another --output_dir."
        )


def lies_in(path: str, folder: str) -> bool:
    """Whether it is the folder, or is somewhere below it."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def option_types(groups: Sequence[type]) -> dict[str, object]:
    # Not the fields' own types, of which the parser takes the first of several.
    types = {name: kind for group in groups for name, kind in get_type_hints(group).items()}
    return {option.name: types[option.name] for group in groups for option in fields(group) if option.init}


def unknown_option(name: str, groups: Sequence[type]) -> str:
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), option_types(groups), n=1)
    hint = f"did you mean {'--' if name.startswith('-') else ''}{close[0]}?" if close else "--help lists all options."
    return f"{name} is not an option: {hint}"
