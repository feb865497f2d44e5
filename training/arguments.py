"""The Trainer's arguments that pretraining and fine-tuning have in common, and what of them is refused."""

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field, fields

import torch
from accelerate.utils import parse_flag_from_env
from torch.optim import SGD
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks, is_tensorboard_available
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import ParallelMode

from span_electra.common.command_line import check_positive, read_settings
from span_electra.common.errors import InputError, first_line
from span_electra.common.paths import lies_in

MOST_SEEDS = 2**32  # NumPy's
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
