"""Report a run: what it trains, its history as JSON, curves, a model card, and a table at the end."""

import json
import logging
from pathlib import Path

from transformers.trainer_utils import has_length

from span_electra.common.run_files import CARD, CURVES, HISTORY, without_nan
from span_electra.pretraining.history import last_evaluations, last_training, metric_rows, until
from span_electra.pretraining.model_card import model_card

logger = logging.getLogger(__name__)


def describe(trainer, max_seq_length: int) -> None:
    """Log what the run trains, and on how many rows."""
    model, args = trainer.model, trainer.args
    for name, network in {"discriminator": model.base_model, "generator": model.generator}.items():
        logger.info(f"{name}: {network.num_parameters():,} parameters")
    encoders = "one encoder" if model.config.share_encoder else "an encoder each"
    embeddings = model.config.embedding_sharing
    logger.info(f"together {model.num_parameters():,} parameters: {encoders}, {embeddings} embeddings")
    rows = trainer.get_total_train_batch_size(args)
    logger.info(f"up to {rows * max_seq_length:,} tokens in a step ({rows} rows of {max_seq_length})")
    sets = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    evaluated = "none" if trainer.eval_dataset is None else f"{sum(map(len, sets.values())):,}"
    trained = f"{len(trainer.train_dataset):,} rows" if has_length(trainer.train_dataset) else "a stream"
    logger.info(f"{trained} to train on, {evaluated} to evaluate on")


def write_report(output_dir: str, settings: dict, history: list[dict], step: int | None = None, **metadata) -> str:
    """Write history, curves and model card to `output_dir`. Return the last metrics as a table for the terminal.

    Args:
        output_dir: The run's folder.
        settings: All options by name.
        history: The Trainer's `state.log_history`.
        step: The step of the saved weights. Default: the last.
        metadata: Entries of the card that override the run's own, by the names of `ModelCardData`.
    """
    from span_electra.pretraining.curves import plot_curves  # loads matplotlib, which `--help` can do without

    folder, behind = Path(output_dir), until(history, step)
    content = {"arguments": settings, "history": history}
    (folder / HISTORY).write_text(json.dumps(without_nan(content), indent=1, default=str) + "\n", encoding="utf-8")
    plot_curves(history, folder / CURVES)
    model_card(settings, behind, **metadata).save(folder / CARD)
    return f"{metric_tables(behind)}\nsaved to {output_dir}: the model, {HISTORY}, {CURVES} and a model card"


def metric_tables(history: list[dict]) -> str:
    """Format the last metrics of each evaluation set, or training's without an evaluation."""
    evaluations = last_evaluations(history)
    tables = {f"evaluation of {name}" if name else "evaluation": metrics for name, metrics in evaluations.items()}
    if not tables and (training := last_training(history)):
        tables = {"training, last log (there was no evaluation)": training}
    lines = []
    for title, metrics in tables.items():
        lines += [f"{title}:", *(f"{name:<30}{value:>12}  {note}" for name, value, note in metric_rows(metrics))]
    return "\n".join(lines)
