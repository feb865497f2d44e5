"""What a run leaves for people: what is trained, a JSON of the history, curves, a model card, a last table."""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from huggingface_hub import ModelCard
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers.trainer_utils import has_length

from span_electra.metrics import LOSSES
from span_electra.publishing import card_metadata, short_list, without_folder

logger = logging.getLogger(__name__)

HISTORY, CURVES, CARD = "history.json", "curves.png", "README.md"
BASELINES = {
    "generator_accuracy": "generator_accuracy_baseline",
    "discriminator_accuracy": "discriminator_accuracy_baseline",
    "discriminator_auc": 0.5,
    "fixed_discriminator_auc": 0.5,
    "probe_accuracy": "probe_accuracy_baseline",
    "span_discriminator_accuracy": "span_discriminator_accuracy_baseline",
    "span_discriminator_auc": 0.5,
}
SUMMARY = (
    *("loss", *LOSSES, "generator_perplexity", "generator_accuracy", "replaced_share", "span_replaced_share"),
    *("discriminator_auc", "discriminator_precision", "discriminator_recall", "discriminator_f1"),
    *("discriminator_accuracy", "span_discriminator_auc", "span_discriminator_recall", "span_discriminator_accuracy"),
    *("fixed_discriminator_auc", "probe_accuracy"),
)
# The options that make one run differ from another, in the order in which the card names them.
SOURCES = {"config", "model_name_or_path", "generator_name_or_path"}
CARD_OPTIONS = (
    *("config", "config_overrides", "model_name_or_path", "generator_name_or_path", "max_seq_length", "mask_ratio"),
    *("objective", "max_span_words", "whole_words", "documents", "pack_documents"),
    *("rows_per_update", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("warmup_steps", "weight_decay"),
    *("max_steps", "num_train_epochs", "lr_scheduler_type", "seed", "bf16", "fp16"),
)


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
    folder, behind = Path(output_dir), until(history, step)
    content = {"arguments": settings, "history": history}
    (folder / HISTORY).write_text(json.dumps(without_nan(content), indent=1, default=str) + "\n", encoding="utf-8")
    plot_curves(history, folder / CURVES)
    model_card(settings, behind, **metadata).save(folder / CARD)
    table = metric_rows(last_metrics(behind))
    rows = "\n".join(f"{name:<30}{value:>12}  {baseline}" for name, value, baseline in table)
    return f"{rows}\nsaved to {output_dir}: the model, {HISTORY}, {CURVES} and a model card"


def without_nan(content):
    """`content` with null for every number that JSON has no way to write."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def until(history: list[dict], step: int | None) -> list[dict]:
    """The history without what came after a step."""
    return [entry for entry in history if step is None or entry["step"] <= step]


def last_metrics(history: list[dict]) -> dict[str, float]:
    """The last evaluation's metrics without their prefix, or without an evaluation training's last ones."""
    return last_evaluation(history) or next((entry for entry in reversed(history) if "loss" in entry), {})


def last_evaluation(history: list[dict]) -> dict[str, float]:
    """The last evaluation's metrics without their prefix; empty without an evaluation."""
    last: dict = next((entry for entry in reversed(history) if "eval_loss" in entry), {})
    return {name.removeprefix("eval_"): value for name, value in last.items()}


def metric_rows(metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    """Name, value and baseline of the metrics that a reader looks for first."""
    rows = []
    for name in SUMMARY:
        if math.isfinite(metrics.get(name, math.nan)):
            baseline = BASELINES.get(name)
            baseline = metrics[baseline] if isinstance(baseline, str) else baseline
            note = "" if baseline is None else f"baseline {baseline:.4f}"
            rows.append((name, f"{metrics[name]:.4f}", note))
    return rows


# --- curves ------------------------------------------------------------------------------------------------------


def plot_curves(history: list[dict], path: Path) -> None:
    """Draw losses and scores of generator and discriminator over the steps."""
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(10, 6), layout="constrained")
        figure.suptitle("lines: training, dots: evaluation")
        (generator_losses, discriminator_losses), (generator, discriminator) = figure.subplots(2, 2)
        draw(generator_losses, history, "mlm_loss", "sbgo_loss")
        generator_losses.set(title="generator: losses (nats)")
        draw(discriminator_losses, history, "rtd_loss", "sbpo_loss")
        discriminator_losses.set(title="discriminator: losses (nats)")
        draw(generator, history, "generator_accuracy", "generator_accuracy_baseline")
        generator.set(title="generator: accuracy on masked tokens", xlabel="step", ylim=(0, None))
        names = ("discriminator_auc", "discriminator_recall", "span_discriminator_auc", "fixed_discriminator_auc")
        draw(discriminator, history, *names)
        discriminator.axhline(0.5, color="gray", linestyle=":", label="AUC of guessing")
        discriminator.set(title="discriminator: finding replaced tokens", xlabel="step", ylim=(0, 1))
        for axes in (generator_losses, discriminator_losses, generator, discriminator):
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        figure.savefig(path, dpi=120)


def draw(axes: Axes, history: list[dict], *names: str) -> None:
    """Draw those of the metrics `names` that the history has."""
    for i, name in enumerate(names):
        color = "gray" if name.endswith("_baseline") else f"C{i}"
        line = ":" if name.endswith("_baseline") else "-"
        for key, style, label in ((name, line, name), (f"eval_{name}", "o", None)):
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, markersize=3, label=label)


# --- model card --------------------------------------------------------------------------------------------------


def model_card(settings: dict, history: list[dict], **metadata) -> ModelCard:
    """The README.md that goes with the weights to the Hub; arguments as for `write_report`."""
    data = short_list(settings.get("train_file", []))
    steps = max((entry["step"] for entry in history), default=0)
    rows = metric_rows(last_metrics(history))
    metric_table = "\n".join(f"| {name} | {value} | {note} |" for name, value, note in rows)
    template = GENERATOR_CARD_TEMPLATE if settings.get("objective") == "generator" else CARD_TEMPLATE
    text = template.format(
        training=f"{steps:,} steps" + (f" on {data}" if data else ""),
        path=settings.get("hub_model_id") or ".",
        metrics=metric_table,
        options=option_table(settings, CARD_OPTIONS),
        curves=CURVES,
        history=HISTORY,
    )
    return ModelCard(f"---\n{card_metadata(settings, last_evaluation(history), **metadata)}\n---\n{text}")


def option_table(settings: dict, names: Iterable[str]) -> str:
    """The rows of a Markdown table of those options in `names` that a run was given."""
    options = {name: settings[name] for name in names if settings.get(name) not in (None, "", -1)}
    for name in SOURCES & options.keys():
        options[name] = without_folder(options[name])
    if "max_steps" in options:
        options.pop("num_train_epochs", None)  # which it overrides
    return "\n".join(f"| `{name}` | {value} |" for name, value in options.items())


INTRODUCTION = """
# SpanElectra

A text encoder, pretrained the ELECTRA way on spans: a generator fills masked spans, a discriminator finds the tokens
that it replaced. Trained for {training}.

The folder holds both halves. The **discriminator** is the encoder to fine-tune: `electra.*` in the weights, and what
`AutoModel` and every task class load. The **generator** predicts masked tokens: `generator.*` in the weights, and what
`AutoModelForMaskedLM` loads.

## Use

```python
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, ElectraModel, pipeline

path = "{path}"  # a folder with these files, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
encoder = AutoModel.from_pretrained(path, trust_remote_code=True)
classifier = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, trust_remote_code=True)
encoder = ElectraModel.from_pretrained(path)  # stock ELECTRA reads the discriminator, with no code from here
fill_mask = pipeline("fill-mask", path, trust_remote_code=True)
```
"""

GENERATOR_INTRODUCTION = """
# SpanElectra: the generator alone

The first of two stages of an encoder that is pretrained the ELECTRA way on spans: a masked language model that fills
masked spans. Trained for {training}. **The discriminator, which is the encoder to fine-tune, is not trained yet**:
`run_pretraining.py --objective discriminator --generator {path}` does that, against this generator.

## Use

```python
from transformers import pipeline

path = "{path}"  # a folder with these files, or its name on the Hub
fill_mask = pipeline("fill-mask", path, trust_remote_code=True)
```
"""

FIGURES = """
## Evaluation

Over all real tokens, and (`span_`) over the masked ones only; losses in nats. A baseline always gives the most
frequent answer. `fixed_`: on a text in which the masked tokens of a row traded places, the same for every model.

| metric | value | |
|---|---|---|
{metrics}

![Losses, generator and discriminator over the steps]({curves})

## Training

| option | value |
|---|---|
{options}

All options and the whole history: `{history}`.
"""

CARD_TEMPLATE, GENERATOR_CARD_TEMPLATE = INTRODUCTION + FIGURES, GENERATOR_INTRODUCTION + FIGURES
