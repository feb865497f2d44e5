"""A run's curves as data for inline SVG, which draws in any colour scheme and takes no time.

matplotlib's SVG would do, but takes seconds, and the page is written at every evaluation.
"""

import math
from typing import Any

from span_electra.pretraining.history import evaluation_points, panels, training_points

WIDTH, HEIGHT = 320, 150  # of the plot, in the units of the SVG

ABBREVIATIONS = ("mlm", "sbgo", "rtd", "sbpo", "auc", "f1")

Points = list[tuple[int, float]]


def charts(history: list[dict]) -> list[dict[str, Any]]:
    """A chart for each panel that the history has figures for."""
    made = [chart(title, history, names) for title, names in panels(history).items()]
    return [found for found in made if found["lines"]]


def chart(title: str, history: list[dict], names: tuple[str, ...]) -> dict[str, Any]:
    """A title, the ends of both axes, a description in words, and for each metric a line and dots."""
    series = {
        name: (finite(training_points(history, name)), finite(evaluation_points(history, name))) for name in names
    }
    series = {name: both for name, both in series.items() if any(both)}
    every = [point for both in series.values() for points in both for point in points]
    steps, values = [step for step, _ in every] or [0], [value for _, value in every] or [0.0]
    left, right, low, high = min(steps), max(steps), min(values), max(values)

    def place(point: tuple[int, float]) -> tuple[float, float]:
        across = (point[0] - left) / max(right - left, 1)
        up = (point[1] - low) / (high - low) if high > low else 0.5
        return round(across * WIDTH, 1), round((1 - up) * HEIGHT, 1)

    lines: list[dict[str, Any]] = []
    for number, (name, (trained, evaluated)) in enumerate(series.items()):
        lines.append(
            {
                "name": readable(name),
                "number": number,
                "line": " ".join(f"{x},{y}" for x, y in map(place, trained)),
                "dots": [(*place(point), f"step {point[0]:,}: {point[1]:.4g}") for point in evaluated],
                "words": in_words(name, evaluated or trained),
            }
        )
    return {
        "title": title,
        "lines": lines,
        "ends": {"left": f"{left:,}", "right": f"{right:,}", "low": f"{low:.3g}", "high": f"{high:.3g}"},
        "words": f"{title}, steps {left:,} to {right:,}. " + " ".join(line["words"] for line in lines),
    }


def finite(points: Points) -> Points:
    return [(step, value) for step, value in points if value is not None and math.isfinite(value)]


def in_words(name: str, points: Points) -> str:
    (_, first), (_, last) = points[0], points[-1]
    return f"{readable(name)} from {first:.3g} to {last:.3g}."


def readable(metric: str) -> str:
    """A metric's name with spaces and capitals: "MLM loss" for `mlm_loss`."""
    words = [word.upper() if word in ABBREVIATIONS else word for word in metric.split("_")]
    return " ".join(words)
