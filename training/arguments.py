"""The Trainer's arguments that pretraining and fine-tuning share, with the checks that it lacks or makes late."""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch.optim import SGD
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from span_electra.common.command_line import check_positive, option
from span_electra.common.errors import InputError, as_input_error
from span_electra.common.paths import lies_in

# The Trainer and its integrations are imported where they are used: they take seconds, which `--help` does without.

MOST_SEEDS = 2**32  # NumPy's limit
SCHEDULES_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # these follow the metric of the evaluations
ANY_RATE = 1e-3  # fine-tuning's default depends on the model
MADE_FOR_A_MODEL = ("galore", "apollo", "lomo", "adalomo")  # these optimizers need the model, which is not built yet

# An option of the Trainer -> the values that a script accepts, and why it accepts no others.
AcceptedValues = Mapping[str, tuple[tuple[Any, ...], str]]
ROUNDS = "it would round the weights that are saved after the last evaluation, which --bf16 does not"
ACCEPTED_BY_ALL: AcceptedValues = {
    "label_names": ((None,), "the task sets these"),
    "bf16_full_eval": ((False,), ROUNDS),
    "fp16_full_eval": ((False,), ROUNDS),
}
ACCEPTED_BY_SCRIPTS: AcceptedValues = {
    "do_predict": ((False,), "this script predicts nothing"),
    "use_liger_kernel": ((False,), "Liger has no kernels for encoders like ELECTRA"),
}


@dataclass
class RunArguments(TrainingArguments):
    """The Trainer's arguments with the defaults that pretraining and fine-tuning share."""

    output_dir: str | None = option(None, "A new or empty folder for the run.")
    overwrite_output_dir: bool = option(
        False, "Replace the earlier run in output_dir. Anything else in the folder is never replaced."
    )
    adam_epsilon: float = option(1e-6, "AdamW's epsilon.")
    optim: str = option("adamw_torch_fused", "The Trainer's name of the optimizer.")
    # With the filter on, a run that has diverged still logs a healthy loss.
    logging_nan_inf_filter: bool = option(False, "Hide losses that are not finite.")
    report_to: None | str | list[str] = option(  # noqa: RUF036 - HfArgumentParser takes the second
        None, "Trackers, or none. Default: tensorboard if it is installed."
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is missing: give a new or empty folder for the run.")
        if self.report_to is None:
            from transformers.integrations import is_tensorboard_available

            self.report_to = "tensorboard" if is_tensorboard_available() else "none"
        refuse_others(self, ACCEPTED_BY_ALL)
        for name in ("logging_steps", "eval_steps", "save_steps", "warmup_steps"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ValueError(f"--{name} is {getattr(self, name)}; give a number of steps, or a ratio below 1.")
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # the DataLoader warns, as there is no device to copy to

    def __getstate__(self):
        # The Trainer pickles its arguments into every folder that it saves, and you may publish that folder.
        return {**self.__dict__, "hub_token": None}


def refuse_others(training: TrainingArguments, accepted: AcceptedValues) -> None:
    """Refuse all values but the accepted ones."""
    for name, (values, reason) in accepted.items():
        value = getattr(training, name)
        if value not in values:
            raise InputError(f"--{name} is {getattr(value, 'value', value)}; {reason}: leave it out.")


def check_training(training: RunArguments, accepted: AcceptedValues) -> None:
    """Refuse options that the Trainer would misuse in silence, or refuse only when the run has begun."""
    refuse_others(training, {**ACCEPTED_BY_SCRIPTS, **accepted})
    for name in ("seed", "data_seed"):
        value = getattr(training, name)
        if value is not None and not 0 <= value < MOST_SEEDS:
            raise InputError(f"--{name} is {value}; it must lie between 0 and {MOST_SEEDS - 1}.")
    for name in ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm"):
        if not 0 <= (getattr(training, name) or 0) < math.inf:
            raise InputError(f"--{name} is {getattr(training, name)}; it must be at least 0 and finite.")
    check_positive(training, "gradient_accumulation_steps")
    if training.max_steps < 1 and training.max_steps != -1:
        raise InputError(f"--max_steps is {training.max_steps}; it must be at least 1. Leave it out to count epochs.")
    if training.max_steps == -1 and not 0 < training.num_train_epochs < math.inf:
        raise InputError(f"--num_train_epochs is {training.num_train_epochs}; it must be above 0 and finite.")
    check_fsdp(training)
    check_with_library(training)


def check_fsdp(training: RunArguments) -> None:
    """Refuse FSDP in a single process, and a state dict that the Trainer cannot save."""
    if training.fsdp and training.parallel_mode is not ParallelMode.DISTRIBUTED:
        raise InputError(
            "--fsdp: shards a model across processes, and this run has one; start several with accelerate launch or "
            "torchrun, or leave it out."
        )
    if (kind := fsdp_state_dict_type(training)) not in (None, "FULL_STATE_DICT"):
        raise InputError(
            f"FSDP's state_dict_type is {kind}, and the Trainer cannot save a model that way. Set it to "
            "FULL_STATE_DICT (fsdp_state_dict_type in Accelerate's configuration; see configs/accelerate/fsdp.yaml)."
        )


def fsdp_state_dict_type(training: RunArguments) -> str | None:
    """The state dict that FSDP saves, from the Trainer's arguments or Accelerate's; None without FSDP."""
    if training.fsdp:
        return training.fsdp_plugin_args["state_dict_type"]
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    is_first = os.environ.get("FSDP_VERSION", "1") == "1"
    return os.environ.get("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT" if is_first else "SHARDED_STATE_DICT")


def check_with_library(training: RunArguments) -> None:
    """Build what the Trainer builds from its options, so that it refuses them before the run has a folder."""
    values = training.to_dict()  # has the names of options with a few choices
    with as_input_error(f"--optim {values['optim']}", "Its settings go into --optim_args, as name=value,name=value."):
        make_optimizer(training)
    with as_input_error(f"--lr_scheduler_type {values['lr_scheduler_type']}", "Its --lr_scheduler_kwargs are JSON."):
        make_schedule(training)
    with as_input_error(f"--report_to {values['report_to']}", "Leave it out, or give none."):
        make_trackers(training)
    with as_input_error("--per_device_*_batch_size and --dataloader_*", "Correct the option, or leave it out."):
        make_data_loaders(training)


def make_optimizer(training: RunArguments) -> None:
    from transformers import Trainer

    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(training)
    except ValueError:
        if training.optim.startswith(MADE_FOR_A_MODEL):
            return
        raise
    parameter = torch.zeros(1, device=training.device, requires_grad=True)
    kind([parameter], **options | {"lr": training.learning_rate or ANY_RATE})


def make_schedule(training: RunArguments) -> None:
    from transformers import get_scheduler

    optimizer = SGD([torch.zeros(1)], training.learning_rate or ANY_RATE)
    get_scheduler(training.lr_scheduler_type, optimizer, 1, 2, training.lr_scheduler_kwargs)  # type: ignore[arg-type]


def make_data_loaders(training: RunArguments) -> None:
    for batch_size in (training.per_device_train_batch_size, training.per_device_eval_batch_size):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run's own loaders will warn
            DataLoader(
                [0],  # type: ignore[arg-type]
                batch_size,
                num_workers=training.dataloader_num_workers,
                persistent_workers=training.dataloader_persistent_workers,
                multiprocessing_context=training.dataloader_multiprocessing_context,
            )


def make_trackers(training: RunArguments) -> None:
    from transformers.integrations import get_reporting_integration_callbacks

    for tracker in get_reporting_integration_callbacks(training.report_to):
        tracker()
    if (folder := os.environ.get("TENSORBOARD_LOGGING_DIR")) and "tensorboard" in training.report_to:
        Path(folder).mkdir(parents=True, exist_ok=True)


def follow_metric(training: RunArguments) -> None:
    """Set the `mode` of a schedule that follows a metric. The Trainer would leave it at min."""
    if training.lr_scheduler_type in SCHEDULES_BY_METRIC:
        mode = "max" if training.greater_is_better else "min"
        training.lr_scheduler_kwargs = {"mode": mode} | (training.lr_scheduler_kwargs or {})  # type: ignore[operator]


def check_source(option: str, source: str | None, training: RunArguments) -> None:
    """Refuse to overwrite the model that the run starts from, or the generator that it trains with."""
    if source is not None and training.overwrite_output_dir and lies_in(source, training.output_dir):
        raise InputError(
            f"{option} {source}: is inside --output_dir, which --overwrite_output_dir would empty; give another "
            "--output_dir."
        )
