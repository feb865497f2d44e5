"""Refuse the Trainer's options under which this package cannot save or resume weights and optimizer states."""

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from span_electra.common.errors import InputError

UPDATES_EARLY = "updates the weights during the backward pass, before gradients are summed, clipped and checked"
# A part of an optimizer's name -> why it is refused.
UNSUPPORTED_OPTIMIZERS = {
    "lomo": UPDATES_EARLY,
    "layerwise": UPDATES_EARLY,
    "schedule_free": "trains other weights than it evaluates, and a checkpoint would hold the wrong ones",
}


def check_weights_are_kept(args: TrainingArguments) -> None:
    """Refuse options under which a checkpoint would not hold the weights, or a run could not resume from it."""
    if args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise InputError(
            "--deepspeed: DeepSpeed has its own optimizer and optimizer files, which bypass the checks that keep "
            "checkpoints whole and weights finite. Use --fsdp to shard the model, or leave it out: these models fit "
            "on one device."
        )
    if args.parallelism_config is not None or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise InputError(
            "parallelism_config: divides rows or layers among processes, but the losses are means over whole rows; "
            "leave it out."
        )
    optimizer = str(getattr(args.optim, "value", args.optim))
    for part, reason in UNSUPPORTED_OPTIMIZERS.items():
        if part in optimizer:
            raise InputError(f"--optim is {optimizer}, which {reason}; adamw_torch_fused does not.")
