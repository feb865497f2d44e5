"""Draw the losses and scores of a run."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from span_electra.pretraining.history import evaluation_prefix


def plot_curves(history: list[dict], path: Path) -> None:
    """Draw the losses and scores of generator and discriminator over the steps."""
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
    """Draw those metrics in `names` that the history has: training as a line, evaluations as dots."""
    for i, name in enumerate(names):
        color = "gray" if name.endswith("_baseline") else f"C{i}"
        line = ":" if name.endswith("_baseline") else "-"
        for style, label, points in (
            (line, name, training_points(history, name)),
            ("o", None, evaluation_points(history, name)),
        ):
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, markersize=3, label=label)


def training_points(history: list[dict], name: str) -> list[tuple[int, float]]:
    """Return step and value of a metric in training's logs."""
    return [(entry["step"], entry[name]) for entry in history if name in entry]


def evaluation_points(history: list[dict], name: str) -> list[tuple[int, float]]:
    """Return step and value of a metric in every evaluation, whatever the set is called."""
    keys = [(entry, f"{evaluation_prefix(entry)}{name}") for entry in history]
    return [(entry["step"], entry[key]) for entry, key in keys if key in entry]
