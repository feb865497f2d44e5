"""The figures in a run's log history."""

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
