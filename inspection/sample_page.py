"""The page of a run: a few held-out passages, as the model saw them at each evaluation."""

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from span_electra.common.errors import one_line
from span_electra.common.run_files import SAMPLES
from span_electra.inspection.page import embedded_samples, render
from span_electra.inspection.samples import MOST_PASSAGES, judge, make_batch, make_piece, passages
from span_electra.pretraining.trainer import SpanElectraTrainer

logger = logging.getLogger(__name__)

MOST_STEPS = 12  # on one page
NOTE = "These are passages that the model was not trained on, masked alike at every evaluation."


class SamplePage(TrainerCallback):
    """
    Writes `samples.html` into the run's folder at every evaluation. Training does not depend on it: it draws no random
    numbers, and a failure is logged.

    The page itself keeps the earlier samples, so a resumed run continues it.

    Args:
        trainer: the passages are the first of its evaluation rows, masked by its
            `eval_data_collator`. A sharded model (FSDP) gets no page, since no process has all of it.
    """

    def __init__(self, trainer: SpanElectraTrainer):
        self.trainer = trainer
        self.path = Path(trainer.args.output_dir) / SAMPLES

    def on_evaluate(self, args, state, control, model=None, processing_class=None, **kwargs):
        if not state.is_world_process_zero or self.trainer.is_fsdp_enabled:
            return
        try:
            self.write(model, processing_class, state)
        except Exception as error:  # whatever it is, hours of training are worth more
            logger.warning(f"{self.path} could not be written ({type(error).__name__}: {one_line(error)}).")

    def write(self, model, tokenizer, state) -> None:
        rows: Any = self.trainer.eval_dataset
        rows = next(iter(rows.values())) if isinstance(rows, dict) else rows
        candidates = [rows[i] for i in range(min(len(rows), 4 * MOST_PASSAGES))]
        batch, piece = make_batch(candidates, self.trainer.eval_data_collator), make_piece(tokenizer)
        if not len(batch["labels"]):
            return
        with self.trainer.accelerator.autocast():
            judged = judge(model, batch, piece)
        shown = passages(batch, piece)
        steps = [step for step in self.earlier_steps(shown) if step["step"] < state.global_step]
        steps.append({"step": state.global_step, "label": f"step {state.global_step:,}", "passages": judged})
        samples = {"passages": shown, "steps": thinned(steps)}
        page = render(self.path.absolute().parent.name, samples, state.log_history, NOTE, "held-out text")
        self.path.write_text(page, encoding="utf-8")

    def earlier_steps(self, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The samples on the page so far, if it shows the same passages."""
        if not self.path.is_file():
            return []
        try:
            samples = embedded_samples(self.path.read_text(encoding="utf-8"))
        except ValueError:  # cut short when an earlier process was killed
            return []
        return samples["steps"] if samples["passages"] == shown else []


def thinned(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`steps` without the one between the closest others, if there are more than fit on a page."""
    if len(steps) <= MOST_STEPS:
        return steps
    gaps = {i: steps[i + 1]["step"] - steps[i - 1]["step"] for i in range(1, len(steps) - 1)}
    closest = min(gaps, key=lambda i: gaps[i])
    return steps[:closest] + steps[closest + 1 :]
