"""Read metrics from a run's log history."""

import math

from span_electra.pretraining.metrics import LOSSES

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

# What is drawn: the title of each panel, and the metrics in it.
PANELS = {
    "Generator: losses (nats)": ("mlm_loss", "sbgo_loss"),
    "Discriminator: losses (nats)": ("rtd_loss", "sbpo_loss"),
    "Generator: accuracy on masked tokens": ("generator_accuracy", "generator_accuracy_baseline"),
    "Discriminator: finding replaced tokens": (
        *("discriminator_auc", "discriminator_recall", "span_discriminator_auc", "fixed_discriminator_auc"),
    ),
}


def until(history: list[dict], step: int | None) -> list[dict]:
    """Return the history up to a step."""
    return [entry for entry in history if step is None or entry["step"] <= step]


def last_training(history: list[dict]) -> dict[str, float]:
    """Return the metrics that training logged last; empty if it logged none."""
    return next((entry for entry in reversed(history) if "loss" in entry), {})


def last_evaluations(history: list[dict]) -> dict[str, dict[str, float]]:
    """Return the last metrics of each evaluation set by its name, without their prefix.

    A single set is called "". The sets of `eval_dataset={"a": ..., "b": ...}` have their own names.
    """
    last = {}
    for entry in history:
        if (prefix := evaluation_prefix(entry)) is not None:
            name = prefix.removeprefix("eval").strip("_")
            last[name] = {key.removeprefix(prefix): value for key, value in entry.items()}
    return last


def evaluation_prefix(entry: dict) -> str | None:
    """Return the prefix of an evaluation's metrics: `eval_`, or `eval_a_` for a set called a."""
    losses = [key for key in entry if key.startswith("eval_") and key.endswith("_loss")]
    return min(losses, key=len).removesuffix("loss") if losses else None


def metric_rows(metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    """Return name, value and baseline of the main metrics."""
    rows = []
    for name in SUMMARY:
        if math.isfinite(metrics.get(name, math.nan)):
            baseline = BASELINES.get(name)
            baseline = metrics.get(baseline) if isinstance(baseline, str) else baseline
            note = "" if baseline is None else f"baseline {baseline:.4f}"
            rows.append((name, f"{metrics[name]:.4f}", note))
    return rows


def training_points(history: list[dict], name: str) -> list[tuple[int, float]]:
    """Step and value of a metric in training's logs."""
    return [(entry["step"], entry[name]) for entry in history if name in entry]


def evaluation_points(history: list[dict], name: str) -> list[tuple[int, float]]:
    """Step and value of a metric in every evaluation, whatever the set is called."""
    keys = [(entry, f"{evaluation_prefix(entry)}{name}") for entry in history]
    return [(entry["step"], entry[key]) for entry, key in keys if key in entry]
