"""Draw the losses and scores of a run."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from span_electra.pretraining.history import evaluation_points, panels, training_points


def plot_curves(history: list[dict], path: Path) -> None:
    """Draw the losses and scores of generator and discriminator over the steps."""
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        shown = panels(history)
        height = (len(shown) + 1) // 2  # panels
        figure = Figure(figsize=(10, 3 * height), layout="constrained")
        figure.suptitle("lines: training, dots: evaluation")
        for number, (title, names) in enumerate(shown.items(), 1):
            axes = figure.add_subplot(height, 2, number)
            draw(axes, history, *names)
            axes.set(title=title, xlabel="step")
            if "discriminator_auc" in names:
                axes.axhline(0.5, color="gray", linestyle=":", label="AUC of guessing")
                axes.set(ylim=(0, 1))
            elif "generator_accuracy" in names:
                axes.set(ylim=(0, None))
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        figure.savefig(path, dpi=120)


def draw(axes: Axes, history: list[dict], *names: str) -> None:
    """Draw those metrics in `names` that the history has: training as a line, evaluations as dots."""
    for i, name in enumerate(names):
        color = "gray" if name.endswith("_baseline") else f"C{i}"
        line = ":" if name.endswith("_baseline") else "-"
        label: str | None = name
        for style, points in ((line, training_points(history, name)), ("o", evaluation_points(history, name))):
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, markersize=3, label=label)
                label = None
