"""Read metrics from a run's log history."""

import math

from span_electra.pretraining.metrics import LOSSES

# Other metrics have their baseline beside them, under their name and `_baseline`.
BASELINES = {"discriminator_auc": 0.5, "fixed_discriminator_auc": 0.5, "span_discriminator_auc": 0.5}
SUMMARY = (
    *("loss", *LOSSES, "generator_perplexity", "generator_accuracy", "replaced_share", "span_replaced_share"),
    *("discriminator_auc", "discriminator_precision", "discriminator_recall", "discriminator_f1"),
    *("discriminator_accuracy", "span_discriminator_auc", "span_discriminator_recall", "span_discriminator_accuracy"),
    "fixed_discriminator_auc",
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


def probe_scores(metrics: dict[str, float]) -> list[str]:
    """Return the names of the scores of linear probes."""
    return [name for name in metrics if name.startswith("probe_") and not name.endswith("_baseline")]


def panels(history: list[dict]) -> dict[str, tuple[str, ...]]:
    """Return what is drawn of a history: `PANELS`, and a panel for each linear probe."""
    probes = [name for metrics in last_evaluations(history).values() for name in probe_scores(metrics)]
    titles = {name: f"Linear probe: {name.removeprefix('probe_').replace('_', ' ')}" for name in probes}
    return PANELS | {title: (name, f"{name}_baseline") for name, title in titles.items()}


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
    for name in (*SUMMARY, *probe_scores(metrics)):
        if math.isfinite(metrics.get(name, math.nan)):
            baseline = BASELINES.get(name, metrics.get(f"{name}_baseline"))
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
