"""Warnings about a network that has learnt nothing long after warm-up."""

import logging

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)


# Below these values a network has learnt nothing. The warning waits, because attention takes thousands of steps to
# find the neighbouring tokens, and the discriminator guesses until then.
USELESS_RECALL, USELESS_AUC = 0.01, 0.55
PATIENCE_IN_WARMUPS, PATIENCE_IN_STEPS = 2, 5000


class LearningMonitor(TrainerCallback, ExportableState):
    """Warns once when a network has learnt nothing long after warm-up, and again only after it has recovered."""

    def __init__(self, objective: str = "joint"):
        self.objective = objective
        self.alarms: list[str] = []  # the names of the warnings that still hold

    def state(self) -> dict:
        return {"args": {"objective": self.objective}, "attributes": {"alarms": self.alarms}}

    def on_log(self, args, state, control, logs=None, **kwargs):
        patience = max(PATIENCE_IN_STEPS, PATIENCE_IN_WARMUPS * args.get_warmup_steps(state.max_steps))
        if not state.is_world_process_zero or "generator_accuracy" not in logs or state.global_step < patience:
            return
        problems = learning_problems(logs, self.objective)
        for name in problems.keys() - set(self.alarms):
            logger.warning(f"Step {state.global_step}: {problems[name]}")
        self.alarms = list(problems)


def learning_problems(logs: dict[str, float], objective: str = "joint") -> dict[str, str]:
    """The problems that training's metrics show long after warm-up: a message for each, by its name."""
    problems = {}
    # The generator stage has no discriminator, and the discriminator stage does not train its generator.
    auc, recall = logs.get("discriminator_auc", 1.0), logs.get("discriminator_recall", 1.0)
    if auc < USELESS_AUC:
        problems["auc"] = (
            f"the discriminator has learnt nothing: its AUC is {auc:.3f}, and guessing gives 0.5. Train longer, or on "
            "short rows first (--max_seq_length 32), in which attention finds the neighbouring tokens sooner. If that "
            "does not help, lower the learning rate or make the generator smaller."
        )
    elif recall < USELESS_RECALL:
        problems["recall"] = (
            f"the discriminator finds {recall:.1%} of the replaced tokens: it calls everything original. Its AUC of "
            f"{auc:.3f} shows that it ranks tokens better than it decides. If the AUC does not rise, raise rtd_weight "
            "or train longer."
        )
    accuracy, baseline = logs["generator_accuracy"], logs["generator_accuracy_baseline"]
    if accuracy <= baseline and objective != "discriminator":
        problems["generator"] = (
            f"the generator has learnt nothing: its accuracy of {accuracy:.3f} is not above that of always guessing "
            f"the most frequent token ({baseline:.3f}). Lower the learning rate, warm up longer, or make the "
            "generator larger."
        )
    return problems
