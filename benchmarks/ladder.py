"""Does each objective earn its place? Pretrain each rung of a ladder on the same text, fine-tune it, compare.

    python benchmarks/ladder.py benchmarks/ladder/cpu.yaml --text corpus/ --tasks tasks/ --output_dir runs/ladder

A rung is what one run changes in the options that all runs share: its objectives, or its encoder family (`config`).
Rungs are in benchmarks/ladder/rungs, or in the size file itself. A size says what the runs share:

    cpu.yaml       two layers of ELECTRA, rows of 32, some two hours on two cores
    cpu_long.yaml  two layers of ModernBERT, 65 million tokens a rung, days on two cores
    sweeps.yaml    single settings that may shorten the way, 18 million tokens each
    families.yaml  ELECTRA beside ModernBERT, 18 million tokens each
    cpu_hour.yaml  the recipe of that name, an hour on two cores
    gpu.yaml, gpu_sweeps.yaml: ELECTRA-Small on a GPU; gpu_hour.yaml: ModernBERT beside it, a billion tokens each

`tasks/` holds a folder for each task, with train.jsonl and dev.jsonl (SQuAD: train.json and dev.json).

To train on another machine, first make the rows with `--pieces 60`, which packs them into files of at most 60 MB.
Carry `tokenizer/` and `pieces/` over. There, the command without `--pieces` puts them together.

Every command resumes: run it again after an interruption, or, with `--minutes 10`, again and again. What is finished
is not repeated. At the end the folder holds a table, a picture and results.json.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import median

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from ladder_report import TASKS, add_means, picture, pretraining_result, table, task_result
from pieces import pack, unpack

from span_electra.common.command_line import run_command
from span_electra.encoders.configuration_span_encoder import is_saved_pair
from span_electra.tokenization.create_features import create_features
from span_electra.tokenization.train_tokenizer import train_tokenizer

HERE = Path(__file__).parent / "ladder"
RECIPES = Path(__file__).parent.parent / "configs" / "recipes"
SCRATCH = "scratch"  # random weights in the first rung's architecture: what pretraining is worth at all
# Settings of a run that say where it is made, and nothing of its outcome.
FILES = {"tokenizer", "train_file", "validation_file", "probe_file", "model_name_or_path", "output_dir"}
OF_THE_MACHINE = FILES | {"use_cpu", "torch_compile"}
OF_THE_LADDER = ("seeds", "seconds_of")  # of a rung's settings, those that are none of pretraining's
RATE_STEPS, RATE_ROUNDS = 60, 3  # by which the time of two rungs' steps is compared
HELD_OUT, MOST_HELD_OUT = 0.1, 1000  # of a task's training data, to choose the learning rate by


class OutOfTimeError(Exception):
    """The time of this call is over; the next one resumes."""


class Ladder:
    """The runs of one command, their folders and their time."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.size = read_size(options.size)
        self.folder = options.output_dir / (options.size.stem + ("-dry" if options.steps else ""))
        self.deadline = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
        self.rungs = read_rungs(self.size)
        self.tasks = options.only_tasks or self.size["tasks"]
        self.threads = 1 if options.jobs > 1 else os.cpu_count() or 1
        self.locks: defaultdict[tuple, threading.Lock] = defaultdict(threading.Lock)
        known = [SCRATCH, *self.rungs]
        if unknown := set(options.only or ()) - {*known}:
            sys.exit(f"--only {' '.join(sorted(unknown))}: not among {', '.join(known)}.")

    def seeds(self, name: str) -> list[int]:
        rung = self.rungs[self.first_rung if name == SCRATCH else name]
        return self.options.seeds or rung.get("seeds") or self.size.get("seeds", [0])

    @property
    def first_rung(self) -> str:
        return next(iter(self.rungs))

    # --- preparation ----------------------------------------------------------------------------------------------

    def check_tasks(self) -> None:
        """Refuse a folder that lacks a task's files before anything is trained."""
        parts = [(task, part) for task in self.tasks for part in ("train", "dev")]
        parts += [(probe, "train") for probe in self.size.get("probe", [])]
        if not parts or self.options.pieces:
            return
        if self.options.tasks is None:
            sys.exit("--tasks is missing: give the folder that holds them.")
        for task, part in parts:
            if not (path := data_file(self.options.tasks / task, part)).is_file():
                sys.exit(f"{path}: no such file; {self.options.size} needs it.")

    def prepare(self) -> None:
        """Make the tokenizer and the rows, unless they are there."""
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

    def climb_all(self, names: list[str]) -> bool:
        """Train and fine-tune these rungs with each of their seeds; False if the time was over first."""
        runs = sorted(((seed, name) for name in names for seed in self.seeds(name)), key=lambda run: run[0])
        in_time = True
        with ThreadPoolExecutor(self.options.jobs) as pool:
            futures = [pool.submit(self.climb, name, seed) for seed, name in runs]
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
        for task in self.tasks:
            self.finetune(task, name, seed, run)

    def recipe(self, name: str, seed: int, run: Path) -> dict:
        """The options of a rung's pretraining."""
        changes = {key: value for key, value in self.rungs[name].items() if key not in OF_THE_LADDER}
        recipe = merged(self.size["pretraining"], changes)
        if self.options.steps:
            recipe |= {"max_steps": self.options.steps, "eval_steps": self.options.steps, "warmup_steps": 1}
            recipe |= {"logging_steps": 1, "max_eval_samples": 64}
        recipe |= {"tokenizer": self.tokenizer, "train_file": [self.features], "seed": seed, "output_dir": run}
        recipe |= {"save_total_limit": 1, "report_to": "none", "disable_tqdm": True, **on_cpu()}
        if "probe" in self.size:
            recipe["probe_file"] = [data_file(self.options.tasks / probe, "train") for probe in self.size["probe"]]
        return recipe

    def pretrain(self, name: str, seed: int, run: Path) -> None:
        recipe = self.recipe(name, seed, run)
        if other := self.rungs[name].get("seconds_of"):
            recipe["max_steps"] = self.equal_time(name, other)["max_steps"]
        path = beside(run, ".yaml")
        check_recipe(recipe, path)
        if (run / "history.json").exists() and (run / "model.safetensors").exists():
            return
        write_recipe(recipe, path)
        resume = ["--resume_from_checkpoint", "true"] if any(run.glob("checkpoint-*")) else []
        self.call(["span_electra.run_pretraining", path, *resume], beside(run, ".log"), seconds_file(run))
        for checkpoint in run.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    def equal_time(self, name: str, other: str) -> dict:
        """How many steps of a rung take as long as the whole of `other`, by a rate that is measured once and kept."""
        path = self.folder / f"{name}.equal_time.json"
        with self.locks[name, other]:
            if not path.exists():
                steps = self.options.steps or RATE_STEPS
                rounds = [
                    {rung: self.seconds_per_step(rung, steps) for rung in (other, name)}
                    for _ in range(1 if self.options.steps else RATE_ROUNDS)
                ]
                ratio = median(seconds[other] / seconds[name] for seconds in rounds)
                measured = {"seconds_of": other, "seconds_per_step": rounds, "ratio": ratio}
                measured["max_steps"] = round(ratio * self.recipe(other, 0, path)["max_steps"])
                path.write_text(json.dumps(measured, indent=1) + "\n")
        return json.loads(path.read_text())

    def seconds_per_step(self, name: str, steps: int) -> float:
        """Seconds of a rung's training step in a run of a few, without start and evaluation."""
        run = self.folder / f"rate-{name}"
        recipe = self.recipe(name, 0, run) | {"max_steps": steps, "warmup_steps": 1, "logging_steps": steps}
        recipe |= {"eval_strategy": "no", "validation_split_percentage": 0, "overwrite_output_dir": True}
        recipe.pop("probe_file", None)
        write_recipe(recipe, beside(run, ".yaml"))
        self.call(["span_electra.run_pretraining", beside(run, ".yaml")], beside(run, ".log"))
        history = json.loads((run / "history.json").read_text())["history"]
        shutil.rmtree(run)
        return next(entry["train_runtime"] for entry in history if "train_runtime" in entry) / steps

    def finetune(self, task: str, name: str, seed: int, run: Path) -> None:
        source = run if name != SCRATCH else self.run_folder(self.first_rung, seed)
        kind, metric = TASKS[task]
        data = self.options.tasks / task
        recipe = {**self.size["finetuning"], **self.size["tasks"][task], "seeds": self.options.finetuning_seeds}
        if self.options.steps:
            recipe |= {"max_train_samples": 64, "max_eval_samples": 64, "num_train_epochs": 1}
        recipe |= {"model_name_or_path": encoder_of(source), "tokenizer": source, "task": kind, "seed": 100 * seed}
        recipe |= {"train_file": data_file(data, "train"), "validation_file": data_file(data, "dev")}
        recipe |= {"metric_for_best_model": metric, "from_scratch": name == SCRATCH, "overwrite_output_dir": True}
        recipe |= {"report_to": "none", "disable_tqdm": True, **on_cpu()}
        if rates := recipe.pop("learning_rates", None):
            recipe["learning_rate"] = self.choose_rate(task, name, recipe, rates)["chosen"]
        self.finetune_once(recipe, run.with_name(f"{run.name}-{task}"))

    def choose_rate(self, task: str, name: str, recipe: dict, rates: list[float]) -> dict:
        """The learning rate that is best on a held-out part of the training data: once for a rung and a task, on the
        seed of pretraining that comes here first."""
        path = self.folder / f"{name}-{task}.rates.json"
        with self.locks[name, task]:
            if not path.exists():
                parts, scores = hold_out(recipe["train_file"], self.folder / "held_out" / task), {}
                for rate in rates:
                    output = self.folder / f"{name}-{task}-rate{rate:g}"
                    report = self.finetune_once({**recipe, **parts, "learning_rate": rate, "seeds": 1}, output)
                    scores[rate] = report["median"][report["metric"]]
                chosen = max(scores, key=scores.get)
                path.write_text(json.dumps({"chosen": chosen, "scores": scores}, indent=1) + "\n")
        return json.loads(path.read_text())

    def finetune_once(self, recipe: dict, output: Path) -> dict:
        """Fine-tune with all seeds of `recipe`, unless that is done; return the report."""
        recipe, path, report = {**recipe, "output_dir": output}, beside(output, ".yaml"), output / "results.json"
        check_recipe(recipe, path)
        if not report.exists():
            write_recipe(recipe, path)
            self.call(["span_electra.run_finetuning", path], beside(output, ".log"))
            for weights in [*output.glob("seed-*"), *output.glob("*.safetensors")]:  # only the figures are wanted
                shutil.rmtree(weights) if weights.is_dir() else weights.unlink()
        return json.loads(report.read_text())

    def call(self, module: list, log: Path, clock: Path | None = None) -> None:
        """Run a module as a process of its own; at the deadline tell it to save and stop. Its seconds are added to
        those in `clock`."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        earlier, began = read_seconds(clock), time.monotonic()
        with log.open("a") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, module)], stdout=stream, stderr=stream, env=environment
            )
            while process.poll() is None and time.monotonic() < self.deadline:
                time.sleep(0.2)
                if clock:  # now and not at the end, which a killed ladder does not see
                    clock.write_text(f"{earlier + time.monotonic() - began:.1f}\n")
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()
                raise OutOfTimeError
        if process.returncode:
            sys.exit(f"{log} ends with an error:\n{log.read_text(errors='replace')[-2000:]}")

    # --- what came out --------------------------------------------------------------------------------------------

    def results(self) -> list[dict]:
        """One entry for each rung of which a seed is finished."""
        results = [entry for name in (SCRATCH, *self.rungs) if (entry := self.result(name)) is not None]
        add_means(results)
        return results

    def result(self, name: str) -> dict | None:
        runs = [self.run_folder(name, seed) for seed in self.seeds(name)]
        finished = [run for run in runs if (run / "history.json").exists()]
        tasks = {}
        for task in self.tasks:
            reports = [run.with_name(f"{run.name}-{task}") / "results.json" for run in runs]
            reports = [json.loads(report.read_text()) for report in reports if report.exists()]
            if reports:
                rates = self.folder / f"{name}-{task}.rates.json"
                rates = json.loads(rates.read_text()) if rates.exists() else None
                tasks[task] = task_result(task, reports, data_file(self.options.tasks / task, "dev"), rates)
        if not tasks and not finished:
            return None
        entry = {"rung": name, "pretraining_seeds": len(finished), "tasks": tasks}
        if finished:
            entry |= pretraining_result(finished, [read_seconds(seconds_file(run)) for run in finished])
            if other := self.rungs[name].get("seconds_of"):
                entry["equal_time"] = self.equal_time(name, other)
        return entry


def read_size(path: Path) -> dict:
    """A size: its own file on top of the one that it is `like`, or of a shipped recipe."""
    size = yaml.safe_load(path.read_text())
    base = read_size(HERE / f"{like}.yaml") if (like := size.pop("like", None)) else {"pretraining": {}}
    if recipe := size.get("pretraining", {}).pop("recipe", None):
        base["pretraining"] = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    return {**base, **size, "pretraining": merged(base["pretraining"], size.get("pretraining", {}))}


def read_rungs(size: dict) -> dict[str, dict]:
    """Name -> what a rung changes. In a sweep each changes one setting of the first."""
    rungs = size.get("rungs") or [path.stem for path in sorted(HERE.glob("rungs/*.yaml"))]
    if not isinstance(rungs, dict):
        rungs = {name: yaml.safe_load((HERE / "rungs" / f"{name}.yaml").read_text()) for name in rungs}
    first = next(iter(rungs.values()))
    for setting, values in size.get("sweeps", {}).items():
        rungs |= {f"{setting}-{value}": merged(first, changes) for value, changes in values.items()}
    return rungs


def encoder_of(run: Path) -> Path:
    """The folder to fine-tune: of a pair of stock encoders whose generator alone was trained, that."""
    recipe = yaml.safe_load(beside(run, ".yaml").read_text())
    return run / "generator" if recipe.get("objective") == "generator" and is_saved_pair(str(run)) else run


def data_file(folder: Path, part: str) -> Path:
    """A task's `train` or `dev` data: JSON lines, or SQuAD's own format."""
    return squad if (squad := folder / f"{part}.json").exists() else folder / f"{part}.jsonl"


def hold_out(train_file: Path, folder: Path) -> dict[str, Path]:
    """Split a task's training data at random: by examples, or by SQuAD's articles."""
    parts = {"train_file": folder / train_file.name, "validation_file": folder / f"held_out{train_file.suffix}"}
    text = train_file.read_text(encoding="utf-8")
    is_squad = train_file.suffix == ".json"
    items = json.loads(text)["data"] if is_squad else text.splitlines()
    random.Random(0).shuffle(items)
    count = min(MOST_HELD_OUT, math.ceil(HELD_OUT * len(items)))
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in zip(parts.values(), (items[count:], items[:count]), strict=True):
        path.write_text(json.dumps({"data": part}) if is_squad else "\n".join(part) + "\n", encoding="utf-8")
    return parts


def on_cpu() -> dict:
    """What the recipes for GPUs change where there is none: bf16 is refused unless the CPU was meant, and compiling
    takes minutes, for a dry run of seconds."""
    return {} if torch.cuda.is_available() else {"use_cpu": True, "torch_compile": False}


def beside(run: Path, suffix: str) -> Path:
    """A file beside a run's folder, whose name may hold a point: `mask_ratio-0.2-seed0`."""
    return run.with_name(run.name + suffix)


def seconds_file(run: Path) -> Path:
    """Where the seconds of a run's pretraining are, over all its resumptions: the history has only the last one's."""
    return beside(run, ".seconds")


def read_seconds(path: Path | None) -> float:
    return float(path.read_text()) if path and path.exists() else 0.0


def check_recipe(recipe: dict, path: Path) -> None:
    """Refuse to resume, or to report, a run that an earlier command made with other settings."""
    recipe = plain(recipe)
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
    path.write_text(yaml.safe_dump(plain(recipe), sort_keys=False), encoding="utf-8")


def plain(recipe: dict) -> dict:
    return json.loads(json.dumps(recipe, default=str))  # paths as text


def merged(recipe: dict, changes: dict) -> dict:
    """`recipe` with `changes`. Overrides of the configuration are merged, unless it is another configuration."""
    same = changes.get("config") in (None, recipe.get("config"))
    overrides = {**((recipe.get("config_overrides") or {}) if same else {}), **(changes.get("config_overrides") or {})}
    return {**recipe, **changes, "config_overrides": overrides}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=Path, help="one of benchmarks/ladder/*.yaml, or your own")
    parser.add_argument("--text", nargs="+", default=[], help="files or folders to pretrain on, until rows are made")
    parser.add_argument("--tasks", type=Path, help="a folder of tasks: sst2/train.jsonl, sst2/dev.jsonl")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--seeds", type=int, nargs="+", help="of pretraining; default: each rung's, or 0")
    parser.add_argument("--finetuning_seeds", type=int, default=3, help="for each of them")
    parser.add_argument("--only", nargs="+", help="only these rungs")
    parser.add_argument("--only_tasks", nargs="+", choices=TASKS, help="only these tasks")
    parser.add_argument("--pieces", type=float, help="make the rows, pack them into files of so many MB, and stop")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command then resumes")
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
    if is_complete and ladder.tasks and SCRATCH in (options.only or [SCRATCH]):
        is_complete = ladder.climb_all([SCRATCH])  # last: its architecture is the first rung's
    results = ladder.results()
    (ladder.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = table(results, " ".join(["python", *sys.argv]))
    (ladder.folder / "results.md").write_text(shown + "\n", encoding="utf-8")
    picture(results, ladder.folder / "results.png")
    print(shown)
    if not is_complete:
        print("\nNot finished: the same command resumes.")


if __name__ == "__main__":
    run_command(main)
