"""Options of the Trainer that keep weights or optimizer states in a form that this package cannot save or resume."""

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from span_electra.common.errors import InputError

# Optimizers, by how their names begin or end, and why they are refused.
UNSUPPORTED_OPTIMIZERS = {
    "lomo": "updates the weights during the backward pass, before gradients are summed, clipped and checked",
    "adalomo": "updates the weights during the backward pass, before gradients are summed, clipped and checked",
    "_layerwise": "updates each layer during the backward pass, before gradients are summed, clipped and checked",
    "schedule_free": "trains other weights than those it evaluates, and a checkpoint would hold the wrong ones",
}


def check_weights_are_kept(args: TrainingArguments) -> None:
    """Refuse options under which a checkpoint would not hold the weights, or a run could not resume from it.

    Raises:
        InputError: if there is such an option among `args`.
    """
    if args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise InputError(
            "--deepspeed: DeepSpeed keeps optimizer states in its own files and steps its own optimizer, which gets "
            "past the checks that keep a checkpoint whole and its weights finite. Use --fsdp to divide the model, or "
            "leave it out: these models fit on one device."
        )
    if args.parallelism_config is not None or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise InputError(
            "parallelism_config: the losses are means over whole rows, and its parallel forms divide rows or layers "
            "among processes; leave it out."
        )
    optimizer = str(getattr(args.optim, "value", args.optim))
    for part, reason in UNSUPPORTED_OPTIMIZERS.items():
        if optimizer.startswith(part) or optimizer.endswith(part):
            raise InputError(f"--optim is {optimizer}, which {reason}; adamw_torch_fused does not.")
