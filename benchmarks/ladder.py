"""Does each objective earn its place? Pretrain each rung of a ladder on the same tokens, fine-tune it, compare.

    python benchmarks/ladder.py benchmarks/ladder/cpu.yaml --text corpus/ --tasks tasks/ --output_dir runs/ladder

A rung is a recipe in benchmarks/ladder/rungs; each adds one thing to the one before. `--sweep sbpo_weight dropout`
compares the values of these settings instead, with rung 4_sbpo. The size says what all runs have in common: cpu.yaml,
gpu.yaml, hour.yaml, or sweep.yaml, which is shorter and has a linear probe instead of tasks. In `tasks/` there is a
folder for each task, with train.jsonl and dev.jsonl.

The rows are made first. To train on another machine, `--pieces 60` makes them and packs them into files of at most
60 MB. Carry `tokenizer/` and `pieces/` over; there, the command without `--pieces` puts them together.

Everything is resumed where it stood: run the same command again after an interruption, or, with `--minutes 10`, again
and again. What is finished is not repeated. At the end there are a table, a picture and results.json in the folder.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, median

import torch
import yaml
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from pieces import pack, unpack

from span_electra import SpanElectraForPreTraining
from span_electra.common.command_line import run_command
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.tokenization.create_features import create_features, read_metadata
from span_electra.tokenization.train_tokenizer import train_tokenizer

HERE = Path(__file__).parent / "ladder"
RECIPES = Path(__file__).parent.parent / "configs" / "recipes"
SWEEPS = HERE / "sweeps.yaml"
SCRATCH = "scratch"  # random weights in the first rung's architecture: what pretraining is worth at all
TASKS = {
    "sst2": ("classification", "accuracy"),
    "mrpc": ("classification", "accuracy"),
    "rte": ("classification", "accuracy"),
    "stsb": ("regression", "spearmanr"),
    "wnut17": ("token-classification", "overall_f1"),
}
PROBES = ("eval_generator_perplexity", "eval_discriminator_auc", "eval_fixed_discriminator_auc", "eval_probe_accuracy")
HEADINGS = (
    "tokens",
    "FLOPs",
    "tokens/s, start and evaluation included",
    "perplexity",
    "AUC",
    "fixed AUC",
    "linear probe",
)
CURVE = "eval_fixed_discriminator_auc"
SWEPT_CONFIG = "small"  # which the values in sweeps.yaml are for
BASE = "4_sbpo"  # what sweeps change one setting of
NORMAL_95 = 1.96
# Settings of a run that say nothing of its outcome, but where it is made.
FILES = {"tokenizer", "train_file", "validation_file", "probe_file", "model_name_or_path", "output_dir"}
OF_THE_MACHINE = FILES | {"use_cpu", "torch_compile"}


class OutOfTimeError(Exception):
    """The time of this call is over; the next one goes on."""


class Ladder:
    """The runs of one command, their folders and their time."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.size = yaml.safe_load(options.size.read_text())
        if recipe := self.size["pretraining"].pop("recipe", None):
            shipped = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
            self.size["pretraining"] = merged(shipped, self.size["pretraining"])
        self.folder = options.output_dir / (options.size.stem + ("-dry" if options.steps else ""))
        self.deadline = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
        self.rungs = self.read_rungs()
        self.threads = 1 if options.jobs > 1 else os.cpu_count() or 1

    def read_rungs(self) -> dict[str, dict]:
        """Name -> what a rung changes."""
        if self.options.sweep:
            rungs = {BASE: yaml.safe_load((HERE / "rungs" / f"{BASE}.yaml").read_text())}
            if self.size["pretraining"]["config"] != SWEPT_CONFIG and "sweeps" not in self.size:
                sys.exit(f"{self.options.size}: no values to sweep for its model; take sweep.yaml or gpu.yaml.")
            sweeps = {**yaml.safe_load(SWEEPS.read_text()), **self.size.get("sweeps", {})}
            for setting in self.options.sweep:
                for value, changes in sweeps[setting].items():
                    rungs[f"{setting}-{value}"] = merged(rungs[BASE], changes)
        else:
            rungs = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(HERE.glob("rungs/*.yaml"))}
            rungs = {name: rungs[name] for name in self.size.get("rungs", rungs)}
        known = [*rungs] if self.options.sweep else [SCRATCH, *rungs]
        if unknown := set(self.options.only or ()) - {*known}:
            sys.exit(f"--only {' '.join(sorted(unknown))}: not among {', '.join(known)}.")
        return rungs

    # --- preparation ----------------------------------------------------------------------------------------------

    def check_tasks(self) -> None:
        """Refuse a folder that lacks a task's files before anything is trained."""
        parts = [(task, part) for task in self.options.only_tasks or self.size["tasks"] for part in ("train", "dev")]
        if "probe" in self.size:
            parts.append((self.size["probe"], "train"))
        if not parts or self.options.pieces:
            return
        if self.options.tasks is None:
            sys.exit("--tasks is missing: give the folder that holds them.")
        for task, part in parts:
            if not (path := self.options.tasks / task / f"{part}.jsonl").is_file():
                sys.exit(f"{path}: no such file; {self.options.size} asks for it.")

    def prepare(self) -> None:
        """Tokenizer and rows, unless they are there."""
        self.tokenizer, self.features = self.folder / "tokenizer", self.folder / "features"
        if not self.tokenizer.exists():
            train_tokenizer(self.options.text, self.tokenizer, **self.size["tokenizer"])
        pieces = self.folder / "pieces"
        if not self.features.exists() and pieces.exists():
            unpack(pieces, self.features)
        if not self.features.exists():
            length = self.size["pretraining"]["max_seq_length"]
            create_features(
                self.options.text, str(self.tokenizer), self.features, max_seq_length=length, workers=os.cpu_count()
            )
        if self.options.pieces and not pieces.exists():
            pack(self.features, pieces, self.options.pieces)

    # --- one rung with one seed -----------------------------------------------------------------------------------

    def climb_all(self, names: Iterable[str]) -> bool:
        """Train and fine-tune these rungs with every seed; False if the time was over before they were."""
        in_time = True
        with ThreadPoolExecutor(self.options.jobs) as pool:
            futures = [pool.submit(self.climb, name, seed) for seed in self.options.seeds for name in names]
            for future in as_completed(futures):
                try:
                    future.result()
                except OutOfTimeError:
                    in_time = False
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # what runs ends; nothing more begins
                    raise
        return in_time

    def run_folder(self, name: str, seed: int) -> Path:
        return self.folder / f"{name}-seed{seed}"

    def climb(self, name: str, seed: int) -> None:
        run = self.run_folder(name, seed)
        if name != SCRATCH:
            self.pretrain(name, seed, run)
        for task in self.options.only_tasks or self.size["tasks"]:
            self.finetune(task, name, seed, run)

    def pretrain(self, name: str, seed: int, run: Path) -> None:
        recipe = merged(self.size["pretraining"], self.rungs[name])
        if self.options.steps:
            recipe |= {"max_steps": self.options.steps, "eval_steps": self.options.steps, "warmup_steps": 1}
            recipe |= {"logging_steps": 1, "max_eval_samples": 64}
        recipe |= {"tokenizer": self.tokenizer, "train_file": [self.features], "seed": seed, "output_dir": run}
        recipe |= {"save_total_limit": 1, "report_to": "none", "disable_tqdm": True, **on_cpu()}
        if "probe" in self.size:
            recipe["probe_file"] = self.options.tasks / self.size["probe"] / "train.jsonl"
        path = beside(run, ".yaml")
        check_recipe(recipe, path)
        if (run / "history.json").exists() and (run / "model.safetensors").exists():
            return
        write_recipe(recipe, path)
        resume = any(run.glob("checkpoint-*"))
        began = time.monotonic()
        try:
            self.call(
                ["span_electra.run_pretraining", path, *(["--resume_from_checkpoint", "true"] if resume else [])],
                beside(run, ".log"),
            )
        finally:
            with seconds_file(run).open("a") as stream:
                stream.write(f"{time.monotonic() - began:.1f}\n")
        for checkpoint in run.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    def finetune(self, task: str, name: str, seed: int, run: Path) -> None:
        output = run.with_name(f"{run.name}-{task}")
        recipe = {**self.size["finetuning"], **self.size["tasks"][task], "seeds": self.options.finetuning_seeds}
        if self.options.steps:
            recipe |= {"max_train_samples": 64, "max_eval_samples": 64, "num_train_epochs": 1}
        kind, metric = TASKS[task]
        data = self.options.tasks / task
        source = run if name != SCRATCH else self.run_folder(next(iter(self.rungs)), seed)
        recipe |= {"model_name_or_path": source, "task": kind, "metric_for_best_model": metric, "seed": 100 * seed}
        recipe |= {"train_file": data / "train.jsonl", "validation_file": data / "dev.jsonl"}
        recipe |= {"output_dir": output, "overwrite_output_dir": True}
        recipe |= {"report_to": "none", "disable_tqdm": True, "from_scratch": name == SCRATCH, **on_cpu()}
        path = beside(output, ".yaml")
        check_recipe(recipe, path)
        if (output / "results.json").exists():
            return
        write_recipe(recipe, path)
        self.call(["span_electra.run_finetuning", path], beside(output, ".log"))
        for weights in [*output.glob("seed-*"), *output.glob("*.safetensors")]:  # the figures are what is wanted
            shutil.rmtree(weights) if weights.is_dir() else weights.unlink()

    def call(self, module: list, log: Path) -> None:
        """Run a module as a process of its own until it ends; at the deadline it is told to save and stop."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        with log.open("a") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, module)], stdout=stream, stderr=stream, env=environment
            )
            try:
                process.wait(None if math.isinf(self.deadline) else max(0, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                process.wait()
                raise OutOfTimeError from None
        if process.returncode:
            sys.exit(f"{log} ends with an error:\n{log.read_text(errors='replace')[-2000:]}")

    # --- what came out --------------------------------------------------------------------------------------------

    def results(self) -> list[dict]:
        """One entry for each rung of which a seed is finished."""
        results = [entry for name in (SCRATCH, *self.rungs) if (entry := self.result(name)) is not None]
        common = [task for task in self.size["tasks"] if all(task in entry["tasks"] for entry in results)]
        for entry in results if common else ():
            entry["mean"] = mean(entry["tasks"][task]["median"] for task in common)
        return results

    def result(self, name: str) -> dict | None:
        runs = [self.run_folder(name, seed) for seed in self.options.seeds]
        finished = [run for run in runs if (run / "history.json").exists()]
        tasks = {}
        for task in self.options.only_tasks or self.size["tasks"]:
            reports = [run.with_name(f"{run.name}-{task}") / "results.json" for run in runs]
            reports = [json.loads(report.read_text()) for report in reports if report.exists()]
            if reports:
                tasks[task] = task_result(task, reports, self.options.tasks / task / "dev.jsonl")
        if not tasks and not finished:
            return None
        entry = {"rung": name, "pretraining_seeds": len(finished), "tasks": tasks}
        if finished:
            entry |= pretraining_result(finished)
        return entry


def pretraining_result(runs: list[Path]) -> dict:
    """What pretraining took and came to, over the seeds, with the first one's curve."""
    reports = [json.loads((run / "history.json").read_text()) for run in runs]
    evaluations = [[entry for entry in report["history"] if "eval_loss" in entry] for report in reports]
    arguments = reports[0]["arguments"]
    slots = arguments["max_steps"] * arguments["per_device_train_batch_size"] * arguments["max_seq_length"]
    tokens = round(slots * filled_share(Path(arguments["train_file"][0])))
    seconds = [sum(map(float, seconds_file(run).read_text().split())) for run in runs]
    return {
        "tokens": tokens,
        "tokens_per_second": round(tokens / median(seconds)),
        "flops": arguments["max_steps"] * flops_per_step(runs[0], arguments),
        "probes": {
            name: spread([entries[-1][name] for entries in evaluations])
            for name in PROBES
            if name in evaluations[0][-1]
        },
        "curve": [(entry["step"], entry[CURVE]) for entry in evaluations[0] if CURVE in entry],
    }


def filled_share(features: Path) -> float:
    """How full the rows are: tokens, special ones included, over the places for them."""
    metadata = read_metadata(features)
    return metadata["counts"]["mean_row_length"] / metadata["settings"]["max_seq_length"]


def on_cpu() -> dict:
    """What the recipes for GPUs change where there is none: bf16 is refused unless the CPU was meant, and compiling
    takes minutes, for a dry run of seconds."""
    return {} if torch.cuda.is_available() else {"use_cpu": True, "torch_compile": False}


def beside(run: Path, suffix: str) -> Path:
    """A file of a run's beside its folder, in whose name there may be a point: `mask_ratio-0.2-seed0`."""
    return run.with_name(run.name + suffix)


def seconds_file(run: Path) -> Path:
    """Where the seconds of each piece of a run's pretraining stand, a line each: the history has the last one's."""
    return beside(run, ".seconds")


def check_recipe(recipe: dict, path: Path) -> None:
    """Refuse to go on from, or to report, a run that an earlier command made with other settings."""
    earlier = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else recipe
    differing = [
        f"{name} {earlier.get(name)} then, {recipe.get(name)} now"
        for name in {**earlier, **recipe}
        if name not in OF_THE_MACHINE and earlier.get(name) != recipe.get(name)
    ]
    if differing:
        sys.exit(
            f"{path}: that run was made with other settings ({'; '.join(differing)}). Take another --output_dir, or "
            f"move away what begins with {path.stem}."
        )


def write_recipe(recipe: dict, path: Path) -> None:
    plain = json.loads(json.dumps(recipe, default=str))  # paths as text
    path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def merged(recipe: dict, changes: dict) -> dict:
    """`recipe` with `changes`, those of the configuration's settings added to the ones that are there."""
    overrides = {**(recipe.get("config_overrides") or {}), **(changes.get("config_overrides") or {})}
    return {**recipe, **changes, "config_overrides": overrides}


def flops_per_step(run: Path, arguments: dict) -> int:
    """FLOPs of the matrix products of one step on full rows, forward and backward."""
    model = SpanElectraForPreTraining.from_pretrained(run, attn_implementation="eager")
    rows, length = arguments["per_device_train_batch_size"], arguments["max_seq_length"]
    tokenizer = AutoTokenizer.from_pretrained(run)
    ordinary = torch.randint(5, model.config.vocab_size, (rows, length - 2)).tolist()
    full = [[tokenizer.cls_token_id, *row, tokenizer.sep_token_id] for row in ordinary]
    collator = DataCollatorForSpanMasking(tokenizer, mask_ratio=arguments["mask_ratio"], whole_words=False)
    with FlopCounterMode(display=False) as counter:
        model(**collator([{"input_ids": row} for row in full])).loss.backward()
    return counter.get_total_flops()


def task_result(task: str, reports: list[dict], dev: Path) -> dict:
    """Median and spread over all seeds, and how sure a validation set of its size is, in points."""
    metric = TASKS[task][1]
    values = [100 * seed["metrics"][metric] for report in reports for seed in report["seeds"]]
    with dev.open(encoding="utf-8") as lines:
        count = sum(1 for line in lines if line.strip())
    return {
        "metric": metric,
        **spread(values),
        "seeds": len(values),
        "interval": interval(metric, median(values) / 100, count),
        "collapsed": sum(report["collapsed"] for report in reports),
        "baseline": None if (share := reports[0]["baseline"].get(metric)) is None else 100 * share,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def shown_spread(values: dict[str, float], digits: int) -> str:
    shown = f"{values['median']:.{digits}f}"
    if values["min"] < values["max"]:
        shown += f" ({values['min']:.{digits}f} to {values['max']:.{digits}f})"
    return shown


def interval(metric: str, value: float, count: int) -> tuple[float, float] | None:
    """The 95 % interval of a score on `count` examples, in points: Wilson's for accuracies, Fisher's with the standard
    error of Bonett and Wright (2000) for rank correlations. It says how sure one model's score is, not how much
    another seed would change it."""
    if metric == "accuracy":
        bounds = binomtest(round(value * count), count).proportion_ci(method="wilson")
        return 100 * bounds.low, 100 * bounds.high
    if metric == "spearmanr" and abs(value) < 1:
        centre, half = math.atanh(value), NORMAL_95 * math.sqrt((1 + value**2 / 2) / (count - 3))
        return 100 * math.tanh(centre - half), 100 * math.tanh(centre + half)
    return None


def table(results: list[dict], command: str) -> str:
    """The comparison in Markdown, and how any row of it is repeated."""
    tasks = list(dict.fromkeys(task for entry in results for task in entry["tasks"]))
    lines = [
        " | ".join(["| rung", *HEADINGS, *tasks, "mean |"]),
        "|---" * (len(HEADINGS) + len(tasks) + 2) + "|",
    ]
    for entry in results:
        cells = [entry["rung"]]
        if "tokens" in entry:
            probes = entry["probes"]
            cells += [
                f"{entry['tokens'] / 1e6:.1f} M",
                f"{entry['flops']:.2e}",
                f"{entry['tokens_per_second']:,}",
                shown_spread(probes[PROBES[0]], 0),
            ]
            cells += [shown_spread(probes[name], 3) if name in probes else "" for name in PROBES[1:]]
        else:
            cells += [""] * len(HEADINGS)
        for task in tasks:
            score = entry["tasks"].get(task)
            cell = "" if score is None else shown_spread(score, 1)
            cells.append(cell + (f", {score['collapsed']} collapsed" if score and score["collapsed"] else ""))
        cells.append(f"{entry['mean']:.1f}" if "mean" in entry else "")
        lines.append("| " + " | ".join(cells) + " |")
    seeds = [entry["pretraining_seeds"] for entry in results if entry["pretraining_seeds"]]
    if max(seeds, default=1) > 1:
        lines.append(f"\nMedian (lowest to highest) of {from_to(seeds)} seeds of pretraining.")
    for task in tasks:
        scores = [entry["tasks"][task] for entry in results if task in entry["tasks"]]
        score, seeds = scores[0], from_to([score["seeds"] for score in scores])
        notes = [f"{task}: {score['metric']} x 100, median (lowest to highest) of {seeds} seeds"]
        if score["interval"] is not None:
            low, high = score["interval"]
            notes.append(f"± {(high - low) / 2:.1f} (95 %) by the size of its validation set")
        if score["baseline"] is not None:
            notes.append(f"{score['baseline']:.1f} by always giving the most frequent answer")
        lines.append(f"\n{', '.join(notes)}.")
    return "\n".join([*lines, f"\nA row again: `{command} --only RUNG`"])


def from_to(counts: list[int]) -> str:
    return str(counts[0]) if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"


def picture(results: list[dict], path: Path) -> None:
    """The discriminator on the fixed corruption while it was trained, and every task's scores."""
    tasks = list(dict.fromkeys(task for entry in results for task in entry["tasks"]))
    figure = Figure(figsize=(3.2 * (len(tasks) + 1), 4), layout="constrained")
    curves, *panels = figure.subplots(1, len(tasks) + 1, squeeze=False)[0]
    for index, entry in enumerate(results):
        if entry.get("curve"):
            curves.plot(*zip(*entry["curve"], strict=True), color=f"C{index}", label=entry["rung"])
    curves.set(title="AUC, fixed corruption", xlabel="step")
    if curves.get_legend_handles_labels()[0]:
        curves.legend(fontsize=7)
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", type=Path, help="benchmarks/ladder/cpu.yaml, gpu.yaml, hour.yaml or sweep.yaml")
    parser.add_argument("--text", nargs="+", default=[], help="files or folders to pretrain on, unless rows are there")
    parser.add_argument("--tasks", type=Path, help="a folder of tasks: sst2/train.jsonl, sst2/dev.jsonl")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of pretraining")
    parser.add_argument("--finetuning_seeds", type=int, default=3, help="for each of them")
    parser.add_argument("--only", nargs="+", help="only these rungs")
    parser.add_argument("--only_tasks", nargs="+", choices=TASKS, help="only these tasks")
    sweeps = list(yaml.safe_load(SWEEPS.read_text()))
    parser.add_argument("--sweep", nargs="+", choices=sweeps, help="compare values of these settings, not the rungs")
    parser.add_argument("--pieces", type=float, help="make the rows, pack them into files of so many MB, and stop")
    parser.add_argument("--minutes", type=float, help="stop, resumable, after so long")
    parser.add_argument("--jobs", type=int, help="runs at a time; by default one for each core, or one GPU")
    parser.add_argument(
        "--steps", type=int, help="a dry run of so many steps, evaluated on 64 rows, and 64 examples of each task"
    )
    options = parser.parse_args()
    if not options.size.is_file():
        parser.error(f"{options.size}: no such file")
    options.jobs = options.jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    return options


def main() -> None:
    options = parse_arguments()
    ladder = Ladder(options)
    ladder.check_tasks()
    ladder.folder.mkdir(parents=True, exist_ok=True)
    ladder.prepare()
    if options.pieces:
        return
    is_complete = ladder.climb_all([name for name in options.only or ladder.rungs if name != SCRATCH])
    if is_complete and not options.sweep and SCRATCH in (options.only or [SCRATCH]):
        is_complete = ladder.climb_all([SCRATCH])  # last: its architecture is the first rung's
    results = ladder.results()
    name = "-".join(options.sweep or ["results"])
    (ladder.folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = table(results, " ".join(["python", *sys.argv]))
    (ladder.folder / f"{name}.md").write_text(shown + "\n", encoding="utf-8")
    picture(results, ladder.folder / f"{name}.png")
    print(shown)
    if not is_complete:
        print("\nNot finished: the same command goes on from here.")


if __name__ == "__main__":
    run_command(main)
