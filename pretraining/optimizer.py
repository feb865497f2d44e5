"""Two learning rates: one for what is new in a model, and a lower one for the weights that it was loaded with."""

import logging

import torch

from span_electra.span_objectives import SpanObjectives

logger = logging.getLogger(__name__)


def slow_down_loaded(optimizer: torch.optim.Optimizer, model: SpanObjectives, ratio: float) -> None:
    """Multiply the learning rate of a model's loaded weights by `ratio`, if some of its parameters are new.

    Each of the optimizer's groups is divided in two. The new parameters come first, so that the rate in the log is
    theirs.
    """
    if not model.new_parameters:
        return
    new = {parameter for name, parameter in model.named_parameters() if name in model.new_parameters}
    halves = [
        {**group, "params": [parameter for parameter in group["params"] if (parameter in new) == is_new]}
        | ({} if is_new else {"lr": group["lr"] * ratio})
        for is_new in (True, False)
        for group in optimizer.param_groups
    ]
    optimizer.param_groups[:] = [group for group in halves if group["params"]]
    rate = optimizer.defaults["lr"]
    logger.info(
        f"The loaded weights are trained at a learning rate of {rate * ratio:g} (--pretrained_lr_ratio {ratio:g}), "
        f"the new ones at {rate:g}."
    )
