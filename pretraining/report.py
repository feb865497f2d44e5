"""What a run leaves for people: what is trained, a JSON of the history, curves, a model card, a last table."""

import json
import logging
from pathlib import Path

from transformers.trainer_utils import has_length

from span_electra.common.run_files import CARD, CURVES, HISTORY, without_nan
from span_electra.pretraining.history import last_metrics, metric_rows, until
from span_electra.pretraining.model_card import model_card

logger = logging.getLogger(__name__)


def describe(trainer, max_seq_length: int) -> None:
    """Log what is about to be trained."""
    model, args = trainer.model, trainer.args
    for name, half in {"discriminator": model.electra, "generator": model.generator}.items():
        logger.info(f"{name}: {half.num_parameters():,} parameters")
    encoders, embeddings = (
        "one encoder" if model.config.share_encoder else "an encoder each",
        model.config.embedding_sharing,
    )
    logger.info(f"together {model.num_parameters():,} parameters: {encoders}, {embeddings} embeddings")
    rows = trainer.get_total_train_batch_size(args)
    logger.info(f"up to {rows * max_seq_length:,} tokens in a step ({rows} rows of {max_seq_length})")
    evaluated = "none" if trainer.eval_dataset is None else f"{len(trainer.eval_dataset):,}"
    trained = f"{len(trainer.train_dataset):,} rows" if has_length(trainer.train_dataset) else "a stream"
    logger.info(f"{trained} to train on, {evaluated} to evaluate on")


def write_report(output_dir: str, settings: dict, history: list[dict], step: int | None = None, **metadata) -> str:
    """Write history, curves and model card to `output_dir`; return a table of the last metrics for the terminal.

    Args:
        output_dir: The run's folder.
        settings: All options by name.
        history: The Trainer's `state.log_history`.
        step: The one that the weights are of; by default the last.
        metadata: What goes before the run's own entries in the card, by the names of `ModelCardData`.
    """
    from span_electra.pretraining.curves import plot_curves  # loads matplotlib, which `--help` can do without

    folder, behind = Path(output_dir), until(history, step)
    content = {"arguments": settings, "history": history}
    (folder / HISTORY).write_text(json.dumps(without_nan(content), indent=1, default=str) + "\n", encoding="utf-8")
    plot_curves(history, folder / CURVES)
    model_card(settings, behind, **metadata).save(folder / CARD)
    table = metric_rows(last_metrics(behind))
    rows = "\n".join(f"{name:<30}{value:>12}  {baseline}" for name, value, baseline in table)
    return f"{rows}\nsaved to {output_dir}: the model, {HISTORY}, {CURVES} and a model card"
