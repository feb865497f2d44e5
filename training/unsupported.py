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
OFFLOADED = ("offload_optimizer", "offload_param")  # sections of DeepSpeed's configuration


def check_weights_are_kept(args: TrainingArguments) -> None:
    """Refuse options under which a checkpoint would not hold the weights, or a run could not resume from it."""
    if args.deepspeed_plugin is not None:
        check_deepspeed(args.deepspeed_plugin.deepspeed_config, args.fp16)
    if args.parallelism_config is not None or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise InputError(
            "parallelism_config: divides rows or layers among processes, but the losses are means over whole rows; "
            "leave it out."
        )
    optimizer = str(getattr(args.optim, "value", args.optim))
    for part, reason in UNSUPPORTED_OPTIMIZERS.items():
        if part in optimizer:
            raise InputError(f"--optim is {optimizer}, which {reason}; adamw_torch_fused does not.")


def check_deepspeed(config: dict, fp16: bool) -> None:
    """Refuse what DeepSpeed does beyond dividing gradients and optimizer states among processes (ZeRO, stages 1 and 2;
    https://arxiv.org/abs/1910.02054)."""
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    offloads = any((zero.get(part) or {}).get("device", "none") != "none" for part in OFFLOADED)
    if "optimizer" in config or "scheduler" in config:
        problem = "optimizer or scheduler: would replace the Trainer's; leave them out"
    elif stage not in (1, 2):
        problem = f"zero_optimization.stage is {stage}, which is not 1 or 2; --fsdp divides the weights as well"
    elif offloads:
        problem = f"{' or '.join(OFFLOADED)}: not tested with this package; these models fit on the device"
    elif fp16:
        problem = "fp16: it scales the loss out of sight of the checks for gradients that are not finite; use --bf16"
    else:
        return
    raise InputError(f"DeepSpeed's configuration: {problem}.")
