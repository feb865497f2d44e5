"""Report a fine-tuning: every seed's metrics, their median and spread, which seeds collapsed, a confusion matrix."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from span_electra.common.run_files import without_nan

RESULTS, CONFUSION = "results.json", "confusion.png"
LONGEST_LABEL = 24  # characters of a label in the picture
MOST_CLASSES_WITH_NUMBERS = 20  # with more classes the picture has no room for numbers


@dataclass
class SeedResult:
    """The result of one seed, for the checkpoint that was kept."""

    seed: int
    metrics: dict[str, float]
    collapsed: bool  # all answers are the same
    kept_step: int | None  # the checkpoint's; None for the last step, if no checkpoint was chosen
    steps: int  # in all
    seconds: float  # of training
    answers: Any  # to all validation rows


def best_result(results: list[SeedResult], metric: str) -> SeedResult:
    """Return the first seed with the highest value of `metric`, or the lowest if it is a loss."""
    sign = -1 if metric.endswith("loss") else 1
    return max(results, key=lambda result: np.nan_to_num(sign * result.metrics[metric], nan=-np.inf))


def summarise(results: list[SeedResult], metric: str, baseline: dict[str, float], baseline_answer: str) -> dict:
    """Build the content of results.json without the settings. `baseline` is the score of always giving
    `baseline_answer`."""
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
    """Format the results for the terminal: a line for each seed, then median and spread."""
    rows = {}
    for seed in summary["seeds"]:
        notes = ["kept"] * (seed["seed"] == summary["best_seed"]) + ["collapsed"] * seed["collapsed"]
        rows[f"seed {seed['seed']}" + (f" ({', '.join(notes)})" if notes else "")] = seed["metrics"]
    rows |= {name: summary[name] for name in ("median", "min", "max")}
    if summary["baseline"]:
        rows[f"baseline (always {summary['baseline_answer']})"] = summary["baseline"]
    names = dict.fromkeys([summary["metric"], *summary["median"]])  # the one that chooses comes first
    table = pd.DataFrame(rows, index=[*names]).T.to_string(float_format="{:.4f}".format, na_rep="")
    collapsed = f"{summary['collapsed']} of {len(summary['seeds'])} seeds give all examples the same answer"
    return f"{table}\ncollapsed: {collapsed}"


def plot_confusion(answers: np.ndarray, references: list[int], labels: list[str], path: Path) -> None:
    """Draw how often each class was predicted for each true class, as a share of the true class."""
    # In matplotlib's text, a $ begins a formula unless it is escaped.
    names = [shorten(label, LONGEST_LABEL).replace("$", r"\$") for label in labels]
    size = 3 + 0.5 * min(len(labels), MOST_CLASSES_WITH_NUMBERS)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        ConfusionMatrixDisplay.from_predictions(
            references,
            answers,
            labels=range(len(labels)),
            display_labels=names,
            normalize="true",
            ax=figure.subplots(),
            include_values=len(labels) <= MOST_CLASSES_WITH_NUMBERS,
            values_format=".2f",
            cmap="Blues",
            xticks_rotation=45,
            im_kw={"vmin": 0, "vmax": 1},
        )
        figure.savefig(path, dpi=120)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
