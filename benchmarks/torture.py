"""Kill runs at random moments, resume them, and compare how they end with runs that nobody killed.

    python benchmarks/torture.py --kills 4 --minutes 30 --output torture.json

Of each combination of data workers, processes, accumulated batches and source (rows on disk or text as a stream, of
one corpus or of two in a mixture) one run is left alone; the other is ended by SIGKILL, processes, workers and all, so
many times, and resumed each time. Half of the kills wait until a checkpoint is being written. Weights must be equal
bit for bit, and so must the history.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from span_electra.encoders.configuration_span_encoder import GENERATOR_FOLDER, PRETRAINING_FOLDER
from span_electra.tokenization.train_tokenizer import train_tokenizer
from span_electra.training.checkpoint_folders import ASIDE

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"max_position_embeddings": 64}
MODELS = {"electra": SIZES | {"embedding_size": 16}, "modernbert": SIZES | {"model_type": "modernbert"}}
TIMES = ("runtime", "per_second", "_time")
STEPS, ROWS_PER_UPDATE = 40, 8
SOURCES = ("rows", "stream", "mixed rows", "mixed stream")
AXES = ("source", "workers", "processes", "accumulated")


def make_home(home: Path, model: str) -> None:
    """Text, tokenizer and configuration; 40 updates are three times through the text and some."""
    chance = random.Random(0)
    words = [f"word{i**2}" for i in range(40)]
    for shard in range(4):
        lines = [" ".join(chance.choices(words, k=chance.randint(3, 30))) for _ in range(25)]
        (home / f"train{shard}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (home / "validation.txt").write_text("\n".join(lines[:13]), encoding="utf-8")
    (home / "other").mkdir()
    for shard in range(4):  # so short that a mixture reads them a dozen times
        lines = [" ".join(chance.choices(words, k=chance.randint(3, 30))) for _ in range(2)]
        (home / "other" / f"{shard}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (home / "sizes.json").write_text(json.dumps(MODELS[model]))
    train_tokenizer([home / f"train{shard}.txt" for shard in range(4)], home / "tokenizer", vocab_size=300)


def start(home: Path, folder: Path, combination: dict, resume: bool) -> subprocess.Popen:
    processes, accumulated = combination["processes"], combination["accumulated"]
    options = {"config": home / "sizes.json", "tokenizer": home / "tokenizer", "output_dir": folder}
    options |= {"documents": "line", "max_seq_length": 64, "features_cache_dir": home / "cache"}
    options |= {"per_device_train_batch_size": ROWS_PER_UPDATE // processes // accumulated, "max_steps": STEPS}
    options |= {"gradient_accumulation_steps": accumulated, "dataloader_num_workers": combination["workers"]}
    options |= {"validation_file": home / "validation.txt", "per_device_eval_batch_size": 4, "eval_steps": 10}
    options |= {"save_steps": 3, "save_total_limit": 1, "logging_steps": 4, "warmup_steps": 2, "report_to": "none"}
    options |= {"use_cpu": True, "disable_tqdm": True}
    if "stream" in combination["source"]:
        options |= {"streaming": True}
    text = sorted(home.glob("train*.txt"))
    if "mixed" in combination["source"]:
        text = [home / "train*.txt", home / "other", "--mixture", 0.7, 0.3]
    if resume:
        options |= {"resume_from_checkpoint": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    if processes == 1:
        command = [sys.executable]
    command += ["-m", "span_electra.run_pretraining", "--train_file", *text]
    command += [part for name, value in options.items() for part in (f"--{name}", value)]
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            list(map(str, command)),
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def finish(process: subprocess.Popen, folder: Path) -> None:
    if process.wait() != 0:
        log = folder.with_suffix(".log").read_text(errors="replace")
        sys.exit(f"{log[-4000:]}\nA run, {folder.name}, ended with status {process.returncode}; its log stands above.")


def kill(process: subprocess.Popen, folder: Path, moment: str, seconds: float, chance: random.Random) -> bool:
    """Kill it after so many seconds, or within the first save from then on; False if it had ended by itself."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    while moment == "saving" and process.poll() is None and not (folder / ASIDE).exists():
        time.sleep(0.0005)
    if moment == "saving":
        time.sleep(chance.uniform(0, 0.03))
    alive = process.poll() is None
    if alive:
        # Not the process group: the launcher gives each of its processes one of its own, and these would live on.
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family)
    process.wait()
    return alive


def differences(whole: Path, tortured: Path) -> list[str]:
    found = []
    for folder in (".", GENERATOR_FOLDER, PRETRAINING_FOLDER):  # the ELECTRA pair is in one file
        first, second = (run / folder / "model.safetensors" for run in (whole, tortured))
        if first.exists() != second.exists() or (first.exists() and first.read_bytes() != second.read_bytes()):
            found.append(f"weights in {folder}")
    histories = [json.loads((folder / "history.json").read_text())["history"] for folder in (whole, tortured)]
    timeless = [
        [
            {name: str(value) for name, value in entry.items() if not any(part in name for part in TIMES)}
            for entry in history
        ]
        for history in histories
    ]
    for expected, entry in itertools.zip_longest(*timeless, fillvalue={}):
        if expected != entry:
            names = {name for name, _ in expected.items() ^ entry.items()}
            found.append(f"history from step {expected.get('step')} on ({', '.join(sorted(names))})")
            break
    return found


def torture(home: Path, combination: dict, kills: int, chance: random.Random) -> dict:
    name = "-".join(str(value) for value in combination.values())
    whole, tortured = home / f"whole-{name}", home / f"tortured-{name}"
    began = time.monotonic()
    finish(start(home, whole, combination, resume=False), whole)
    duration = time.monotonic() - began
    done = {"random": 0, "saving": 0}
    for moment in itertools.islice(itertools.cycle(done), kills):
        resume = any(tortured.glob("checkpoint-*"))
        if not resume and tortured.exists():
            shutil.rmtree(tortured)  # killed before there was anything to go on from
        seconds = chance.uniform(0.3, 0.8) * duration if moment == "random" else 0.0
        done[moment] += kill(start(home, tortured, combination, resume), tortured, moment, seconds, chance)
    if not any(tortured.glob("checkpoint-*")) and tortured.exists():
        shutil.rmtree(tortured)
    finish(start(home, tortured, combination, resume=any(tortured.glob("checkpoint-*"))), tortured)
    found = differences(whole, tortured)
    return {**combination, "kills": done, "result": "equal" if not found else f"differs: {', '.join(found)}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=4, help="of each combination")
    parser.add_argument("--minutes", type=float, default=30, help="begin no combination after so many")
    parser.add_argument("--model", default="electra", choices=MODELS, help="ELECTRA or a stock encoder")
    parser.add_argument("--sources", nargs="+", default=SOURCES[:2], choices=SOURCES)
    for axis, values in (("workers", (0, 2)), ("processes", (1, 2)), ("accumulated", (1, 2))):
        parser.add_argument(f"--{axis}", nargs="+", type=int, default=values, choices=values)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, help="write the table here, as JSON")
    options = parser.parse_args()
    chance, results, began = random.Random(options.seed), [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_home(Path(folder), options.model)
        axes = (options.sources, options.workers, options.processes, options.accumulated)
        for values in itertools.product(*axes):
            if time.monotonic() - began > options.minutes * 60:
                print("The time is up; the combinations left out are not in the table.")
                break
            combination = dict(zip(AXES, values, strict=True))
            results.append(torture(Path(folder), combination, options.kills, chance))
            print(results[-1], flush=True)
    print(f"\n{'source':13}{'workers':>9}{'processes':>11}{'accumulated':>13}{'kills':>7}{'saving':>8}  result")
    for row in results:
        axes = f"{row['source']:13}{row['workers']:>9}{row['processes']:>11}{row['accumulated']:>13}"
        print(f"{axes}{sum(row['kills'].values()):>7}{row['kills']['saving']:>8}  {row['result']}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["result"] != "equal" for row in results))


if __name__ == "__main__":
    main()
