"""Turn raw text into packed training rows, in parallel. They are saved once and reused, and no token is lost.

python -m span_electra.tokenization.create_features --input corpus/ --tokenizer my_tokenizer --output_dir features
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from accelerate.utils import patch_environment
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError, as_input_error, first_line
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.tokenization.packing import SHORT_SEQ_PROBABILITY, Packer, make_packer
from span_electra.tokenization.text import DEFAULT_DOCUMENTS, DOCUMENT_RULES, Corpus, corpus_parser

logger = logging.getLogger(__name__)

METADATA = "features.json"
FEATURE_FILES = (METADATA, "data-*-of-*.arrow", "dataset_info.json", "state.json", "cache-*.arrow")
FORMAT = 4  # raise it when the same settings give different rows
FEWEST_TOKENS = 10  # the longest span
MOST_UNKNOWN = 0.01  # a larger ratio of unknown tokens gets a warning
FEATURES = datasets.Features(
    # Rows of one document have the same number, so that whole documents can be held back for evaluation.
    {"input_ids": datasets.List(datasets.Value("int32")), "document": datasets.Value("int64")}
)


def create_features(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | str | Path,
    output_dir: str | Path,
    *,
    max_seq_length: int = 128,
    documents: str = DEFAULT_DOCUMENTS,
    pack_documents: bool = False,
    short_seq_probability: float = SHORT_SEQ_PROBABILITY,
    seed: int = 0,
    text_column: str = "text",
    split: str = "train",
    workers: int = 1,
    overwrite: bool = False,
) -> datasets.Dataset:
    """Tokenize `paths` (see `Corpus`) and pack them into rows of `input_ids`, saved to `output_dir`.

    A row is [CLS], consecutive tokens of one document, [SEP]. Rows are `max_seq_length` long, with two exceptions: a
    document's last row holds what remains, and with `short_seq_probability` a row's length is drawn uniformly, which
    keeps the model used to short input (as in BERT and ELECTRA).

    With `pack_documents`, short documents share a row, [CLS] … [SEP] [CLS] … [SEP]; the collator and the model keep
    them apart. The rows do not depend on `workers`. If `output_dir` holds features of the same files and settings,
    they are loaded instead.

    Raises:
        InputError: The text, the tokenizer or a setting is unusable, or the folder already holds something else.
    """
    tokenizer = load_tokenizer(tokenizer)
    corpus = Corpus(paths, documents, text_column, split)
    settings = {
        "max_seq_length": max_seq_length,
        "documents": documents,
        "pack_documents": pack_documents,
        "short_seq_probability": short_seq_probability,
        "seed": seed,
        "text_column": text_column,
        "split": split,
    }
    packer = make_packer(tokenizer, max_seq_length, short_seq_probability, seed, pack_documents)
    if workers < 1:
        raise InputError(f"workers={workers} must be at least 1.")
    output_dir = Path(output_dir)
    made_from = {
        "format": FORMAT,
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "settings": settings,
        "sources": corpus.identity(),
    }
    if (rows := _rows_made_from(made_from, output_dir, overwrite)) is not None:
        logger.info("Reusing the features in %s: same text, tokenizer and settings.", output_dir)
        return rows
    check_output_dir(output_dir, "features of other text or settings", FEATURE_FILES, METADATA, overwrite)

    start = time.perf_counter()
    with atomic_folder(output_dir) as folder:
        counts = _write_rows(corpus, packer, workers, _hash(made_from)[:16], folder)
        _check_enough_text(counts, paths)
        metadata = {**made_from, "tokenizer": str(tokenizer.name_or_path), "counts": counts}
        (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _log_statistics(counts, max_seq_length, documents, pack_documents, time.perf_counter() - start, output_dir)
    return datasets.load_from_disk(output_dir)


def cached_features(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | str | Path,
    *,
    cache_dir: str | Path | None = None,
    **settings: Any,
) -> datasets.Dataset:
    """Call `create_features` with a folder in the cache that is named after text, tokenizer and settings.

    Args:
        cache_dir: Where to keep features. Default: `span_electra` in the cache of `datasets`.
        settings: The keyword arguments of `create_features`.
    """
    tokenizer = load_tokenizer(tokenizer)
    reading = {name: settings[name] for name in ("documents", "text_column", "split") if name in settings}
    identity = Corpus(paths, **reading).identity()
    named_by = {name: value for name, value in settings.items() if name not in ("workers", "overwrite")}
    with cache_folder(cache_dir, [FORMAT, tokenizer_fingerprint(tokenizer), identity, named_by]) as folder:
        if _read_metadata(folder) is None:  # damaged, and ours to remove
            shutil.rmtree(folder, ignore_errors=True)
        return create_features(paths, tokenizer, folder, **settings | {"overwrite": True})


@contextmanager
def cache_folder(cache_dir: str | Path | None, named_by: list) -> Iterator[Path]:
    """Yield the folder in the cache for what is made from `named_by`. A run's other processes wait for the first."""
    key = _hash(named_by)[:16]
    cache_dir = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "span_electra")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f"{key}.lock"):
        for leftover in cache_dir.glob(f".{key}.*"):  # a process was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield cache_dir / key


def load_features(folder: str | Path, tokenizer: PreTrainedTokenizerBase | str | Path) -> datasets.Dataset:
    """Load the rows that `create_features` saved to `folder`.

    Raises:
        InputError: The folder holds no features, or they were made with another tokenizer.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    tokenizer = load_tokenizer(tokenizer)
    if metadata["tokenizer_fingerprint"] != tokenizer_fingerprint(tokenizer):
        raise InputError(
            f"{folder}: these features were made with another tokenizer ({metadata['tokenizer']}) than "
            f"{tokenizer.name_or_path}. Give that tokenizer, or make the features again: python -m "
            f"span_electra.tokenization.create_features --input ... --tokenizer {tokenizer.name_or_path}."
        )
    return _load_rows(folder, metadata)


def load_tokenizer(tokenizer: PreTrainedTokenizerBase | str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer unless it is loaded, and check that span masking can use it."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        fix = "Give a folder that train_tokenizer wrote, or a name on the Hub."
        with as_input_error(f"The tokenizer {tokenizer}", fix):
            tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
    if not tokenizer.is_fast:
        raise InputError(f"{tokenizer.name_or_path}: a slow tokenizer. Give one with a tokenizer.json.")
    names = ("cls_token", "sep_token", "pad_token", "mask_token")
    missing = [name for name in names if getattr(tokenizer, name) is None]
    if missing:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no {', no '.join(missing)}, which span masking needs. Use "
            "BERT's or ELECTRA's tokenizer, or train one with `python -m span_electra.tokenization.train_tokenizer`."
        )
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash that is equal for tokenizers that give the same ids, wherever they come from."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("padding")
    state.pop("truncation")
    return _hash(state)


def _write_rows(corpus: Corpus, packer: Packer, workers: int, fingerprint: str, folder: Path) -> dict[str, Any]:
    # Workers are processes. The tokenizer's own threads would compete with them, and do not survive a fork.
    with tempfile.TemporaryDirectory(dir=folder) as work, patch_environment(tokenizers_parallelism="false"):
        blocks, counts = _write_blocks(corpus, Path(work, "blocks.arrow"))
        workers = min(workers, len(blocks))
        rows = blocks.with_format("arrow").map(
            packer,
            batched=True,
            batch_size=1,
            with_indices=True,
            remove_columns=blocks.column_names,
            features=FEATURES,
            num_proc=workers if workers > 1 else None,
            cache_file_name=str(Path(work, "rows.arrow")),
            load_from_cache_file=False,
            new_fingerprint=fingerprint,
            desc="Creating features",
        )
        rows = rows.with_format(None)
        if len(rows):
            rows.save_to_disk(folder)
        ids = [chunk.flatten().to_numpy() for chunk in rows.data.column("input_ids").chunks]
        ids_with_specials = sum(map(len, ids))
        unknown = _count(packer.unk_token_id, ids)
        sequences = _count(packer.prefix[0], ids) if packer.pack_documents else len(rows)
    tokens = ids_with_specials - sequences * (len(packer.prefix) + len(packer.suffix))
    mean_row_length = round(ids_with_specials / max(len(rows), 1), 2)
    counts |= {"tokens": tokens, "unknown_tokens": unknown, "rows": len(rows), "mean_row_length": mean_row_length}
    return counts


def _count(token: int | None, ids: list[np.ndarray]) -> int:
    return sum(int((part == token).sum()) for part in ids)  # None is no id


def _write_blocks(corpus: Corpus, path: Path) -> tuple[datasets.Dataset, dict[str, Any]]:
    """Write the text as a dataset with a row per block, so that all of it is checked before any is tokenized."""
    columns = {"text": pa.large_string(), "document_lines": pa.list_(pa.int64()), "first_document": pa.int64()}
    schema = pa.schema(columns)
    lines = documents = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for block in corpus.blocks():
            # A document that continues in the next block has not ended, so its number stays the same.
            row = {"text": [block.text], "document_lines": [block.document_lines], "first_document": [documents]}
            writer.write_batch(pa.record_batch(row, schema=schema))
            lines += sum(block.document_lines)
            documents += block.documents
    return datasets.Dataset.from_file(str(path)), {"documents": documents, "lines": lines}


def _check_enough_text(counts: dict[str, Any], paths: Sequence[str | Path]) -> None:
    if counts["tokens"] < FEWEST_TOKENS:
        names = ", ".join(map(str, [paths] if isinstance(paths, str | Path) else paths))
        raise InputError(
            f"{names}: only {counts['tokens']} tokens, fewer than one span may need ({FEWEST_TOKENS}). Give more text."
        )


def _log_statistics(
    counts: dict[str, Any], max_seq_length: int, documents: str, packed: bool, seconds: float, output_dir: Path
) -> None:
    logger.info(
        "%(documents)d documents, %(lines)d lines, %(tokens)d tokens (%(unknown_tokens)d unknown) in %(rows)d rows, "
        "%(mean_row_length).1f long on average",
        counts,
    )
    logger.info("Saved to %s in %.1f s", output_dir, seconds)
    if counts["unknown_tokens"] > MOST_UNKNOWN * counts["tokens"]:
        logger.warning(
            "%.1f %% of the tokens are unknown to the tokenizer, so the model learns nothing from them. Train a "
            "tokenizer on this text with train_tokenizer: `--tokenizer_type BPE` encodes any text, and `BERT` more of "
            "it with a larger `--vocab_size`.",
            100 * counts["unknown_tokens"] / counts["tokens"],
        )
    if counts["mean_row_length"] < max_seq_length / 2 and documents != "file" and not packed:
        logger.warning(
            "The rows are %.1f tokens long on average, of at most %d, because the documents are short. If blank lines "
            "only separate paragraphs, or a text is spread over many rows of a table, use `--documents file` to fill "
            "rows across them. `--pack_documents` lets short documents share a row without seeing each other.",
            counts["mean_row_length"],
            max_seq_length,
        )


def _rows_made_from(made_from: dict[str, Any], folder: Path, overwrite: bool) -> datasets.Dataset | None:
    """Load the rows in `folder` if they were made from the same. Damaged ones are None if they may be overwritten."""
    metadata = _read_metadata(folder)
    if metadata is None or any(metadata.get(key) != value for key, value in made_from.items()):
        return None
    try:
        return _load_rows(folder, metadata)
    except InputError:
        if overwrite:
            return None
        raise


def _load_rows(folder: Path, metadata: dict[str, Any]) -> datasets.Dataset:
    try:
        rows, expected = datasets.load_from_disk(folder), metadata["counts"]["rows"]
        if len(rows) != expected:  # Arrow may read a truncated file without an error
            raise ValueError(f"{len(rows)} of {expected} rows")
        return rows
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: damaged ({first_line(error)}). Make the features again with --overwrite."
        ) from error


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read what `create_features` wrote beside the rows: `settings`, `counts`, `sources` and the tokenizer.

    Raises:
        InputError: The folder holds no features.
    """
    metadata = _read_metadata(folder)
    if metadata is None:
        raise InputError(
            f"{folder}: not a folder of features ({METADATA} is missing, or create_features did not write it). Make "
            "one with `python -m span_electra.tokenization.create_features`."
        )
    return metadata


def _read_metadata(folder: Path) -> dict[str, Any] | None:
    """As `read_metadata`, but return None if the folder holds no features."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        settings, rows = metadata["settings"], metadata["counts"]["rows"]
        is_whole = {"documents", "max_seq_length"} <= settings.keys() and "tokenizer_fingerprint" in metadata
        return metadata if is_whole and isinstance(rows, int) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = corpus_parser("create_features", "Turn raw text into training rows of token ids, once.")
    parser.add_argument("--tokenizer", required=True, help="a tokenizer's folder, or its name on the Hub")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens in a full row, with special tokens")
    parser.add_argument(
        "--documents",
        default=DEFAULT_DOCUMENTS,
        choices=DOCUMENT_RULES,
        help="what ends a document; no row spans two documents. In tables, blank_line means every row",
    )
    parser.add_argument(
        "--pack_documents",
        action="store_true",
        help="let short documents share a row without seeing each other, which saves padding",
    )
    parser.add_argument(
        "--short_seq_probability",
        type=float,
        default=SHORT_SEQ_PROBABILITY,
        help="the ratio of rows that get a random length",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random lengths")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of processes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = vars(parse_arguments(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    create_features(options.pop("input"), options.pop("tokenizer"), options.pop("output_dir"), **options)


if __name__ == "__main__":
    run_command(main)
