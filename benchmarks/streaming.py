"""What a stream takes: memory over tokens, twice killed and resumed, and the seconds until a resumed run has a batch.

    python benchmarks/streaming.py --train_file corpus/ --tokenizer my_tokenizer --output_dir stream_figures

A run of `run_pretraining --streaming` with a tiny model is watched from outside. Its memory is that of all its
processes: their resident sizes added up (RSS), and with a page that several share counted once (PSS). Linux only. A
second run of the same seed is killed twice, resumed, and has to end with the same weights. Writes `memory.json` and
`memory.png`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from span_electra.common.command_line import run_command
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.stream import POSITION, TextStream
from span_electra.pretraining.streaming_trainer import collate_with_position
from span_electra.tokenization.create_features import load_tokenizer
from span_electra.tokenization.packing import make_packer
from span_electra.tokenization.text import Corpus

ROWS, LENGTH = 32, 128
MODEL = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MODEL |= {"intermediate_size": 64, "generator_hidden_size": 16, "generator_num_attention_heads": 1}
LOG_STEPS = 20
KILLED_AT = (0.3, 0.6)  # of the run


def command(options: argparse.Namespace, folder: Path, steps: int) -> list[str]:
    config = folder.parent / "model.json"
    config.write_text(json.dumps(MODEL))
    settings = {"config": config, "tokenizer": options.tokenizer, "output_dir": folder, "streaming": True}
    settings |= {"max_steps": steps, "max_seq_length": LENGTH, "per_device_train_batch_size": ROWS, "use_cpu": True}
    settings |= {"dataloader_num_workers": options.workers, "logging_steps": LOG_STEPS, "save_steps": steps // 10}
    settings |= {"save_total_limit": 2, "disable_tqdm": True, "report_to": "none"}
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "span_electra.run_pretraining", *words, "--train_file", *options.train_file]


def memory(process: psutil.Process) -> tuple[int, int]:
    """Bytes of a process and all below it: RSS, PSS."""
    resident = proportional = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            sizes = member.memory_full_info()
        except psutil.Error:  # it has just ended
            continue
        resident, proportional = resident + sizes.rss, proportional + sizes.pss
    return resident, proportional


def watch(command: list[str], first_step: int, kill_at: int | None = None) -> tuple[int, list[tuple[int, int, int]]]:
    """Run `command`; return the last step it has logged, and (tokens, RSS, PSS) at every log. Kill it at a step."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    process, step, samples = psutil.Process(child.pid), first_step, []
    for line in child.stdout:
        if "'grad_norm'" not in line:
            continue
        step += LOG_STEPS
        samples.append((step * ROWS * LENGTH, *memory(process)))
        if kill_at is not None and step >= kill_at:
            for member in [*process.children(recursive=True), process]:
                member.kill()
            break
    if child.wait() and kill_at is None:
        raise SystemExit(f"The run ended with status {child.returncode}; its message is above.")
    return step, samples


def bench_memory(options: argparse.Namespace, folder: Path) -> dict:
    """Memory over tokens of a run that is left alone, and of one that is killed and resumed twice."""
    steps = options.tokens // (ROWS * LENGTH) // LOG_STEPS * LOG_STEPS
    whole, parts = folder / "whole", folder / "parts"
    result = {"uninterrupted": watch(command(options, whole, steps), 0)[1]}
    begin, resume = 0, []
    for number, kill_at in enumerate([*(round(share * steps) for share in KILLED_AT), None]):
        _, result[f"part {number + 1}"] = watch(command(options, parts, steps) + resume, begin, kill_at)
        begin = max(int(path.name.split("-")[1]) for path in parts.glob("checkpoint-*"))
        resume = ["--resume_from_checkpoint", "true"]
    weights = [(run / "model.safetensors").read_bytes() for run in (whole, parts)]
    return {"same weights": weights[0] == weights[1], "samples": result}


def bench_resume(options: argparse.Namespace, counts: tuple[int, ...] = (100, 400, 1600)) -> list[dict]:
    """Seconds from a new stream to its next batch, after so many: from the saved position, and by reading again."""
    tokenizer = load_tokenizer(options.tokenizer)

    def new_stream() -> TextStream:
        packer = make_packer(tokenizer, LENGTH)
        return TextStream(Corpus(options.train_file, streaming=True), packer, batch_size=ROWS, workers=1)

    def loader(stream: TextStream) -> DataLoader:
        collate = partial(collate_with_position, DataCollatorForSpanMasking(tokenizer))
        return DataLoader(stream, batch_size=None, collate_fn=collate, num_workers=1)

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            stream, begin = new_stream(), time.perf_counter()
            iterator = iter(loader(stream))
            for batch in itertools.islice(iterator, count):
                stream.passed(batch[POSITION])
            expected, reread = next(iterator), time.perf_counter() - begin
            stream.save(folder)
            stream, begin = new_stream(), time.perf_counter()
            stream.load(folder)
            batch, resumed = next(iter(loader(stream))), time.perf_counter() - begin
            same = bool((batch["input_ids"] == expected["input_ids"]).all())
            results.append({"batches": count, "position": resumed, "reading again": reread, "same": same})
    return results


def around(samples: list, tokens: int, width: int, kind: int) -> float:
    """The mean RSS (1) or PSS (2) within `width` of so many tokens: between two blocks of text it goes up and down."""
    return statistics.mean(sample[kind] for sample in samples if abs(sample[0] - tokens) <= width)


def plot(samples: dict[str, list], path: Path) -> None:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in samples.items():
        style = {"linewidth": 2.5, "alpha": 0.5} if name == "uninterrupted" else {"linewidth": 1.2}
        for kind in (1, 2):
            sizes = [sample[kind] / 2**20 for sample in values]
            line = axes.plot([sample[0] / 1e6 for sample in values], sizes, label=name if kind == 1 else None, **style)
            style["color"] = line[0].get_color()
    axes.set(xlabel="million tokens", ylabel="MiB, all processes (above: RSS, below: PSS)", ylim=(0, None))
    axes.set_title("Memory of a streaming run, and of one killed and resumed twice")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", nargs="+", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    resumes = bench_resume(options)
    for row in resumes:
        same = "the same batch" if row["same"] else "ANOTHER BATCH"
        seconds = f"{row['position']:.1f} s by the position, {row['reading again']:.1f} s by reading again"
        print(f"resumed after {row['batches']} batches: {seconds}, {same}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = bench_memory(options, Path(folder))
    whole, early_tokens = result["samples"]["uninterrupted"], options.tokens // 10
    for kind, name in ((1, "RSS"), (2, "PSS")):
        early, late = (around(whole, tokens, early_tokens // 2, kind) for tokens in (early_tokens, options.tokens))
        growth = f"from {early / 2**20:.0f} to {late / 2**20:.0f} MiB, {late / early - 1:+.1%}"
        print(f"{name} around {early_tokens:,} and {options.tokens:,} tokens: {growth}")
    print("resumed twice: the same weights" if result["same weights"] else "resumed twice: OTHER WEIGHTS")
    (options.output_dir / "memory.json").write_text(json.dumps({**result, "resumes": resumes}) + "\n")
    plot(result["samples"], options.output_dir / "memory.png")


if __name__ == "__main__":
    run_command(main)
