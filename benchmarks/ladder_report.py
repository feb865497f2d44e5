"""What the runs of a ladder came to: figures, a table in Markdown, a picture."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median

import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

from span_electra import SpanElectraForPreTraining, SpanEncoderForPreTraining
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.encoders.configuration_span_encoder import is_saved_pair
from span_electra.tokenization.create_features import read_metadata

TASKS = {
    "sst2": ("classification", "accuracy"),
    "mrpc": ("classification", "accuracy"),
    "rte": ("classification", "accuracy"),
    "stsb": ("regression", "spearmanr"),
    "wnut17": ("token-classification", "overall_f1"),
    "squad": ("question-answering", "f1"),
}
PROBES = ("eval_generator_perplexity", "eval_discriminator_auc", "eval_fixed_discriminator_auc")
HEADINGS = ("tokens", "FLOPs", "seconds", "perplexity", "AUC", "fixed AUC")
CURVES = {"eval_generator_perplexity": "perplexity", "eval_fixed_discriminator_auc": "AUC, fixed corruption"}
NORMAL_95 = 1.96


def pretraining_result(runs: list[Path], seconds: list[float]) -> dict:
    """What pretraining took and came to over the seeds, with their curves. `seconds` are each run's."""
    reports = [json.loads((run / "history.json").read_text()) for run in runs]
    evaluations = [[entry for entry in report["history"] if "eval_loss" in entry] for report in reports]
    arguments = reports[0]["arguments"]
    slots = arguments["max_steps"] * arguments["per_device_train_batch_size"] * arguments["max_seq_length"]
    tokens = round(slots * filled_share(Path(arguments["train_file"][0])))
    return {
        "config": arguments["config"],
        "tokens": tokens,
        "seconds": spread(seconds),
        "tokens_per_second": round(tokens / median(seconds)),
        "flops": arguments["max_steps"] * flops_per_step(runs[0], arguments),
        "probes": {
            name: spread([entries[-1][name] for entries in evaluations])
            for name in (*PROBES, *linear_probes(evaluations[0][-1]))
            if all(name in entries[-1] for entries in evaluations)
        },
        "curves": {
            name: [[(entry["step"], entry[name]) for entry in entries if name in entry] for entries in evaluations]
            for name in CURVES
        },
    }


def linear_probes(figures: Iterable[str]) -> list[str]:
    return [name for name in figures if name.startswith("eval_probe_") and not name.endswith("_baseline")]


def filled_share(features: Path) -> float:
    """The ratio of a row's positions that hold a token."""
    metadata = read_metadata(features)
    return metadata["counts"]["mean_row_length"] / metadata["settings"]["max_seq_length"]


def flops_per_step(run: Path, arguments: dict) -> int:
    """FLOPs of the matrix products of one step on full rows, forward and backward."""
    kind = SpanEncoderForPreTraining if is_saved_pair(str(run)) else SpanElectraForPreTraining
    model = kind.from_pretrained(run, attn_implementation="eager")
    rows, length = arguments["per_device_train_batch_size"], arguments["max_seq_length"]
    tokenizer = AutoTokenizer.from_pretrained(run)
    ordinary = torch.randint(5, model.config.vocab_size, (rows, length - 2)).tolist()
    full = [[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in ordinary]
    collator = DataCollatorForSpanMasking(tokenizer, mask_ratio=arguments["mask_ratio"], whole_words=False)
    with FlopCounterMode(display=False) as counter:
        model(**collator([{"input_ids": row} for row in full])).loss.backward()
    return counter.get_total_flops()


def task_result(task: str, reports: list[dict], validation_file: Path, rates: dict | None) -> dict:
    """Scores of all seeds, and how sure a validation set of that size makes them, in points. `rates` says how the
    learning rate was chosen."""
    with validation_file.open(encoding="utf-8") as lines:
        count = sum(1 for line in lines if line.strip())
    metric = TASKS[task][1]
    values = [100 * seed["metrics"][metric] for report in reports for seed in report["seeds"]]
    chosen = {} if rates is None else {"learning_rate": rates["chosen"], "learning_rates": rates["scores"]}
    return {
        "metric": metric,
        **spread(values),
        "values": values,
        "seeds": len(values),
        "interval": interval(metric, median(values) / 100, count),
        "collapsed": sum(report["collapsed"] for report in reports),
        "baseline": None if (share := reports[0]["baseline"].get(metric)) is None else 100 * share,
        **chosen,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def shown_spread(values: dict[str, float], digits: int) -> str:
    middle, low, high = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def interval(metric: str, value: float, count: int) -> tuple[float, float] | None:
    """The 95 % interval of a score on `count` examples, in points: Wilson's for accuracies, Fisher's with Bonett and
    Wright's standard error (2000) for rank correlations. It is about one model; another seed may change more."""
    if metric == "accuracy":
        bounds = binomtest(round(value * count), count).proportion_ci(method="wilson")
        return 100 * bounds.low, 100 * bounds.high
    if metric == "spearmanr" and abs(value) < 1:
        centre, half = math.atanh(value), NORMAL_95 * math.sqrt((1 + value**2 / 2) / (count - 3))
        return 100 * math.tanh(centre - half), 100 * math.tanh(centre + half)
    return None


def add_means(results: list[dict]) -> None:
    """Give each entry the mean over the tasks that all entries have."""
    common = [task for task in tasks_of(results) if all(task in entry["tasks"] for entry in results)]
    for entry in results if common else ():
        entry["mean"] = mean(entry["tasks"][task]["median"] for task in common)


def tasks_of(results: list[dict]) -> list[str]:
    return list(dict.fromkeys(task for entry in results for task in entry["tasks"]))


def table(results: list[dict], command: str) -> str:
    """The comparison in Markdown, and how to repeat one of its rows."""
    tasks = tasks_of(results)
    linear = linear_probes(dict.fromkeys(name for entry in results for name in entry.get("probes", ())))
    columns = (*PROBES, *linear)
    headings = [*HEADINGS, *(name.removeprefix("eval_").replace("_", " ") for name in linear)]
    lines = [
        " | ".join(["| rung", *headings, *tasks, "mean |"]),
        "|---" * (len(headings) + len(tasks) + 2) + "|",
    ]
    for entry in results:
        cells = [entry["rung"]]
        if "tokens" in entry:
            probes = entry["probes"]
            cells += [f"{entry['tokens'] / 1e6:.1f} M", f"{entry['flops']:.2e}", shown_spread(entry["seconds"], 0)]
            cells += [
                shown_spread(probes[name], 0 if name == PROBES[0] else 3) if name in probes else "" for name in columns
            ]
        else:
            cells += [""] * len(headings)
        cells += [task_cell(entry["tasks"].get(task)) for task in tasks]
        cells.append(f"{entry['mean']:.1f}" if "mean" in entry else "")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("\nSeconds include start and evaluation.")
    seeds = [entry["pretraining_seeds"] for entry in results if entry["pretraining_seeds"]]
    if max(seeds, default=1) > 1:
        lines.append(f"\nMedian (lowest to highest) of {from_to(seeds)} seeds of pretraining.")
    lines += [f"\n{task_note(task, [e['tasks'][task] for e in results if task in e['tasks']])}" for task in tasks]
    lines += [f"\n{rate_note(entry)}" for entry in results if "equal_time" in entry]
    return "\n".join([*lines, f"\nTo repeat a row: `{command} --only RUNG`"])


def task_cell(score: dict | None) -> str:
    if score is None:
        return ""
    rate = f" at {score['learning_rate']:g}" if "learning_rate" in score else ""
    collapsed = f", {score['collapsed']} collapsed" if score["collapsed"] else ""
    return shown_spread(score, 1) + rate + collapsed


def task_note(task: str, scores: list[dict]) -> str:
    """What the scores of a task are, and what they are to be held against."""
    seeds = from_to([score["seeds"] for score in scores])
    notes = [f"{task}: {scores[0]['metric']} × 100, median (lowest to highest) of {seeds} seeds"]
    if any("learning_rate" in score for score in scores):
        notes.append("at the learning rate that was best on a held-out part of the training data")
    if scores[0]["interval"] is not None:
        low, high = scores[0]["interval"]
        notes.append(f"± {(high - low) / 2:.1f} (95 %) by the size of its validation set")
    if scores[0]["baseline"] is not None:
        notes.append(f"{scores[0]['baseline']:.1f} by always giving the most frequent answer")
    return f"{', '.join(notes)}."


def rate_note(entry: dict) -> str:
    measured = entry["equal_time"]
    return (
        f"{entry['rung']}: {measured['max_steps']:,} steps, as many as fit into the time of {measured['seconds_of']}, "
        f"a step of which takes {measured['ratio']:.2f} times as long."
    )


def from_to(counts: list[int]) -> str:
    return str(counts[0]) if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"


def picture(results: list[dict], path: Path) -> None:
    """Both networks during training, a line for each seed, and the scores on every task."""
    tasks = tasks_of(results)
    count = len(CURVES) + len(tasks)
    figure = Figure(figsize=(3.2 * count, 4), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, (name, title) in zip(panels, CURVES.items(), strict=False):
        for index, entry in enumerate(results):
            curves = entry.get("curves", {}).get(name, [])
            for seed, curve in enumerate(filter(None, curves)):  # a generator alone has no AUC
                label = entry["rung"] if seed == 0 else None
                axes.plot(*zip(*curve, strict=True), color=f"C{index}", label=label)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    panels = panels[len(CURVES) :]
    names = [entry["rung"] for entry in results]
    for axes, task in zip(panels, tasks, strict=True):
        for index, entry in enumerate(results):
            if score := entry["tasks"].get(task):
                reach = [[score["median"] - score["min"]], [score["max"] - score["median"]]]
                axes.errorbar(score["median"], index, xerr=reach, fmt="o", color=f"C{index}", capsize=3)
        axes.set(title=f"{task} ({TASKS[task][1]})", ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names), fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
