"""How time and memory of the joint step grow, one thing at a time: a table, the exponents and a picture.

    python benchmarks/scaling.py --output_dir scaling               # some ten minutes for the tiny size on two cores
    python benchmarks/scaling.py --size small --batch 64            # on a GPU

Along each axis everything else stays as it is. An exponent is the slope of a straight line through the points in
logarithms: 1 is linear, 0 is flat. Sequences of twice the length are measured in batches of half as many rows, so that
time per token is what is compared; memory is that of the whole step.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import step as benchmark
import torch
import torch.distributed
from accelerate.utils.other import get_free_port
from data import bench_loader, features_of, speeches
from matplotlib.figure import Figure
from step import OURS, Setting

from span_electra.tokenization.train_tokenizer import train_tokenizer

LENGTHS = (128, 256, 512, 1024, 2048)
BATCHES = (4, 8, 16, 32, 64)
VOCAB_SIZES = (10_000, 30_000, 64_000, 128_000)
WIDTHS = (128, 256, 512, 768)
MASK_RATIOS = (0.075, 0.15, 0.3, 0.45)
PROCESSES = (1, 2)
WORKERS = (1, 2, 4, 8)
CORPORA = (1, 2, 4, 8)  # copies of the speeches, 12 MB each
ROWS_ON_DISK = (10_000, 40_000, 160_000, 640_000)


def points(base: Setting) -> dict[str, list[tuple[float, Setting]]]:
    """What is measured along every axis: values with the settings that hold them."""
    tokens = base.batch * base.length
    return {
        "length": [(n, replace(base, length=n, batch=max(1, tokens // n))) for n in LENGTHS],
        "batch": [(n, replace(base, batch=n)) for n in BATCHES],
        "vocabulary": [(n, replace(base, vocab_size=n)) for n in VOCAB_SIZES],
        "width": [(n, replace(base, width=n)) for n in WIDTHS],
        "masked share": [(share, replace(base, mask_ratio=share)) for share in MASK_RATIOS],
    }


def seconds_of(setting: Setting, rounds: int) -> float:
    step = benchmark.make_step(OURS, setting, setting.make_batch())
    return statistics.median(benchmark.time_in_turns({OURS: step}, setting.device, rounds)[OURS])


def sweep(base: Setting, rounds: int) -> list[dict]:
    """Time per token and peak memory of every point, each in a process of its own."""
    results = []
    for axis, settings in points(base).items():
        for value, setting in settings:
            seconds = benchmark.in_new_process(seconds_of, setting, rounds)
            row = {"axis": axis, "value": value, "seconds_per_token": seconds / (setting.batch * setting.length)}
            row["peak_bytes"] = benchmark.in_new_process(benchmark.peak_memory, OURS, setting)
            results.append(row | asdict(setting))
            print(
                f"{axis:14}{value:>10,}{row['seconds_per_token'] * 1e6:12.2f} µs/token"
                f"{row['peak_bytes'] / 2**20:10,.0f} MiB",
                flush=True,
            )
    return results


# --- processes ---------------------------------------------------------------------------------------------------


def run_process(rank: int, processes: int, setting: Setting, rounds: int, address: str, queue) -> None:
    """One of the processes of data-parallel training, with the same batch and one thread each."""
    torch.set_num_threads(1)
    backend = "gloo" if setting.device == "cpu" else "nccl"
    torch.distributed.init_process_group(backend, init_method=address, rank=rank, world_size=processes)
    if setting.device != "cpu":
        torch.cuda.set_device(rank)
    model = torch.nn.parallel.DistributedDataParallel(benchmark.build(OURS, setting))
    batch, seconds = setting.make_batch(), []
    for _ in range(rounds + 1):
        torch.distributed.barrier()
        begin = time.perf_counter()
        with setting.autocast():
            loss = model(**batch)
        loss.backward()
        model.zero_grad()
        benchmark.wait(setting.device)
        seconds.append(time.perf_counter() - begin)
    if rank == 0:
        queue.put(statistics.median(seconds[1:]))
    torch.distributed.destroy_process_group()


def over_processes(base: Setting, rounds: int) -> list[dict]:
    """Tokens per second of forward, backward and the reduction of gradients on 1, 2, ... processes."""
    available = (os.cpu_count() or 1) if base.device == "cpu" else torch.cuda.device_count()
    context = torch.multiprocessing.get_context("spawn")
    results = []
    for processes in (count for count in PROCESSES if count <= available):
        queue, address = context.SimpleQueue(), f"tcp://localhost:{get_free_port()}"
        torch.multiprocessing.spawn(run_process, (processes, base, rounds, address, queue), nprocs=processes)
        tokens = processes * base.batch * base.length
        results.append({"axis": "processes", "value": processes, "seconds_per_token": queue.get() / tokens})
        print(f"{'processes':14}{processes:>10}{results[-1]['seconds_per_token'] * 1e6:12.2f} µs/token", flush=True)
    return results


# --- data workers ------------------------------------------------------------------------------------------------


def over_workers(rounds: int) -> list[dict]:
    """Seconds per token from a dataset on disk to batches, by 1, 2, ... data workers."""
    available = os.cpu_count() or 1
    speeds = bench_loader([count for count in WORKERS if count <= available], rounds=rounds)
    results = [{"axis": "data workers", "value": n, "seconds_per_token": 1 / speed} for n, speed in speeds.items()]
    for row in results:
        print(f"{row['axis']:14}{row['value']:>10}{row['seconds_per_token'] * 1e6:12.2f} µs/token", flush=True)
    return results


# --- corpora -----------------------------------------------------------------------------------------------------


def over_corpora(rounds: int) -> list[dict]:
    """Seconds per token of making features from larger and larger text, and of batches from more and more rows."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        text = speeches(Path(folder))
        train_tokenizer([text], Path(folder) / "tokenizer", vocab_size=10_000)
        for copies in CORPORA:
            corpus = Path(folder) / "corpus.txt"
            corpus.write_text(copies * text.read_text(encoding="utf-8"), encoding="utf-8")
            made = benchmark.in_new_process(features_of, corpus, Path(folder) / "tokenizer", 1)
            row = {"axis": "MB of text", "value": corpus.stat().st_size / 1e6, "peak_bytes": made["peak_bytes"]}
            results.append(row | {"seconds_per_token": made["seconds"] / made["tokens"]})
    for rows in ROWS_ON_DISK:
        speed = bench_loader([0], length=128, rounds=rounds, rows_on_disk=rows)[0]
        results.append({"axis": "rows on disk", "value": rows, "seconds_per_token": 1 / speed})
    for row in results:
        print(f"{row['axis']:14}{row['value']:>10,.0f}{row['seconds_per_token'] * 1e6:12.2f} µs/token", flush=True)
    return results


# --- report ------------------------------------------------------------------------------------------------------


def exponent(values: list[float], measured: list[float]) -> float:
    """The slope of a straight line through the points in logarithms."""
    return float(np.polyfit(np.log(values), np.log(measured), 1)[0])


def plot(results: list[dict], path: Path) -> dict[str, dict[str, float]]:
    """Draw every axis; return the exponents of time per token and of memory along each."""
    axes_names = list(dict.fromkeys(row["axis"] for row in results))
    figure = Figure(figsize=(3.2 * len(axes_names), 6), layout="constrained")
    grid = figure.subplots(2, len(axes_names), squeeze=False)
    exponents: dict[str, dict[str, float]] = {}
    for column, name in enumerate(axes_names):
        rows = [row for row in results if row["axis"] == name]
        for panel, (key, unit, scale) in enumerate(
            (("seconds_per_token", "µs per token", 1e6), ("peak_bytes", "peak memory, MiB", 2**-20))
        ):
            axes = grid[panel][column]
            if key not in rows[0]:
                axes.set_axis_off()
                continue
            values, measured = [row["value"] for row in rows], [scale * row[key] for row in rows]
            slope = exponent(values, measured)
            exponents.setdefault(name, {})[key] = slope
            axes.loglog(values, measured, "o-")
            axes.set(xlabel=name, title=f"exponent {slope:.2f}", ylim=(min(measured) / 3, max(measured) * 3))
            axes.set_ylabel(unit if column == 0 else "")
            axes.set_xticks(values, [f"{round(value, 2):g}" for value in values], rotation=45)
            axes.minorticks_off()
            axes.grid(True, alpha=0.3)
    figure.savefig(path, dpi=110)
    return exponents


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=benchmark.SIZES, default="small" if on_gpu else "tiny")
    parser.add_argument("--batch", type=int, default=64 if on_gpu else 16)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if on_gpu else "fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/scaling"))
    arguments = parser.parse_args()
    device = "cuda" if on_gpu else "cpu"
    base = Setting(arguments.size, 128, 10_000, arguments.batch, arguments.precision, 0.0, device)
    results = sweep(base, arguments.rounds) + over_processes(base, arguments.rounds)
    results += over_workers(arguments.rounds) + over_corpora(arguments.rounds)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    exponents = plot(results, arguments.output_dir / "scaling.png")
    for name, slopes in exponents.items():
        print(f"{name:14}" + ", ".join(f"{key} ~ n^{slope:.2f}" for key, slope in slopes.items()))
    content = {"exponents": exponents, "points": results}
    (arguments.output_dir / "scaling.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
