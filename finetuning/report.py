"""What fine-tuning leaves for people: every seed's figures, their median and spread, who collapsed, a picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from span_electra.common.run_files import without_nan

RESULTS, CONFUSION = "results.json", "confusion.png"
LONGEST_LABEL = 24  # characters of a label in the picture
MOST_COUNTED_CLASSES = 20  # with more of them there is no room for counts in the picture


@dataclass
class SeedResult:
    """What one seed came to, with the checkpoint that was kept."""

    seed: int
    metrics: dict[str, float]
    collapsed: bool  # all answers are the same
    kept_step: int | None  # of the checkpoint; None: the last, for none was the best
    steps: int  # in all
    seconds: float  # of training
    answers: Any  # to all validation rows


def best_result(results: list[SeedResult], metric: str) -> SeedResult:
    """The seed with the highest value of `metric` (the lowest, if it is a loss), the first of equals."""
    sign = -1 if metric.endswith("loss") else 1
    return max(results, key=lambda result: np.nan_to_num(sign * result.metrics[metric], nan=-np.inf))


def summarise(results: list[SeedResult], metric: str, baseline: dict[str, float], baseline_answer: str) -> dict:
    """The content of results.json, but for the settings; `baseline` is what always giving `baseline_answer` scores."""
    names = results[0].metrics
    values = {name: [result.metrics[name] for result in results] for name in names}
    return {
        "metric": metric,
        "median": {name: median(values[name]) for name in names},
        "min": {name: min(values[name]) for name in names},
        "max": {name: max(values[name]) for name in names},
        "collapsed": sum(result.collapsed for result in results),
        "best_seed": best_result(results, metric).seed,
        "baseline": baseline,
        "baseline_answer": baseline_answer,
        "seeds": [{name: value for name, value in vars(result).items() if name != "answers"} for result in results],
    }


def write_results(output_dir: str, summary: dict, settings: dict) -> None:
    content = without_nan({**summary, "arguments": settings})
    (Path(output_dir) / RESULTS).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def results_table(summary: dict) -> str:
    """The results for the terminal: a line for each seed, then median and spread."""
    names = [summary["metric"], *(name for name in summary["median"] if name != summary["metric"])]
    rows = [("", {name: name for name in names}, "")]

    def add(label: str, values: dict[str, float], note: str = "") -> None:
        rows.append((label, {name: f"{value:.4f}" for name, value in values.items() if name in names}, note))

    for seed in summary["seeds"]:
        note = "  collapsed" if seed["collapsed"] else ""
        add(f"seed {seed['seed']}", seed["metrics"], note + "  kept" * (seed["seed"] == summary["best_seed"]))
    for name in ("median", "min", "max"):
        add(name, summary[name])
    if summary["baseline"]:
        add("baseline", summary["baseline"], f"  always {summary['baseline_answer']}")
    widths = [max(10, *(len(cells.get(name, "")) + 2 for _, cells, _ in rows)) for name in names]
    lines = [
        f"{label:<12}" + "".join(f"{cells.get(name, ''):>{width}}" for name, width in zip(names, widths, strict=True))
        for label, cells, _ in rows
    ]
    lines = [(line + note).rstrip() for line, (_, _, note) in zip(lines, rows, strict=True)]
    lines.append(
        f"collapsed: {summary['collapsed']} of {len(summary['seeds'])} seeds give all examples the same answer"
    )
    return "\n".join(lines)


def plot_confusion(answers: np.ndarray, references: list[int], labels: list[str], path: Path) -> None:
    """Draw how often each class was taken for each: colours by share of the true class, counts as numbers."""
    counts = confusion_matrix(references, answers, labels=range(len(labels)))  # (true, predicted)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3 + 0.5 * min(len(labels), MOST_COUNTED_CLASSES)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, label="share of the true label")
        ticks = range(len(labels))
        axes.set(xlabel="predicted label", ylabel="true label", xticks=ticks, yticks=ticks)
        names = [shorten_label(label) for label in labels]
        axes.set_xticklabels(names, rotation=45, ha="right", parse_math=False)  # a $ is a $
        axes.set_yticklabels(names, parse_math=False)
        if len(labels) <= MOST_COUNTED_CLASSES:
            for row, column in np.ndindex(counts.shape):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color)
        figure.savefig(path, dpi=120)


def shorten_label(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
