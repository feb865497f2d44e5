"""Turn raw text into packed training rows, in parallel. They are saved once and reused, and no token is lost.

python -m span_electra.tokenization.create_features --input corpus/ --tokenizer my_tokenizer --output_dir features
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from span_electra.common.command_line import option, run_command
from span_electra.common.errors import InputError, as_input_error, first_line
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.common.vocabulary import check_tokenizer
from span_electra.tokenization.packing import SHORT_SEQ_PROBABILITY, Packer, make_packer
from span_electra.tokenization.text import DEFAULT_DOCUMENTS, DOCUMENT_RULES, Corpus, TableSettings, corpus_parser

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


@dataclass
class FeatureSettings(TableSettings):
    """How text becomes rows."""

    max_seq_length: int = option(128, "Tokens in a full row, with special tokens.")
    documents: str = option(
        DEFAULT_DOCUMENTS,
        "What ends a document; no row spans two documents. In tables, blank_line means every row.",
        metadata={"choices": DOCUMENT_RULES},
    )
    pack_documents: bool = option(
        False, "Let short documents share a row without seeing each other, which saves padding."
    )
    short_seq_probability: float = option(SHORT_SEQ_PROBABILITY, "The ratio of rows that get a random length.")
    seed: int = option(0, "Seed of the random lengths.")

    def corpus(self, paths: Sequence[str | Path]) -> Corpus:
        return Corpus(paths, self.documents, self.text_column, self.split)

    def packer(self, tokenizer: PreTrainedTokenizerBase) -> Packer:
        return make_packer(tokenizer, self.max_seq_length, self.short_seq_probability, self.seed, self.pack_documents)


def create_features(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | str | Path,
    output_dir: str | Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    **settings: Any,
) -> datasets.Dataset:
    """Tokenize `paths` (see `Corpus`) and pack them into rows of `input_ids`, saved to `output_dir`.

    A row is `[CLS]`, consecutive tokens of one document, `[SEP]`. Rows are `max_seq_length` long, with two exceptions:
    a document's last row holds what remains, and with `short_seq_probability` a row's length is drawn uniformly, which
    keeps the model used to short input (as in BERT and ELECTRA). With `pack_documents`, short documents share a row,
    `[CLS] … [SEP] [CLS] … [SEP]`; the collator and the model keep them apart.

    Args:
        workers: The number of processes. The rows do not depend on it.
        overwrite: Replace other features in `output_dir`. Features of the same files and settings are loaded instead.
        settings: The fields of `FeatureSettings`.

    Raises:
        InputError: The text, the tokenizer or a setting is unusable, or the folder already holds something else.
    """
    if workers < 1:
        raise InputError(f"workers={workers} must be at least 1.")
    chosen, output_dir, tokenizer = FeatureSettings(**settings), Path(output_dir), load_tokenizer(tokenizer)
    corpus, packer = chosen.corpus(paths), chosen.packer(tokenizer)
    made_from = _made_from(corpus, tokenizer, chosen)
    if (rows := _rows_made_from(made_from, output_dir, overwrite)) is not None:
        logger.info("Reusing the features in %s: same text, tokenizer and settings.", output_dir)
        return rows
    check_output_dir(output_dir, "features of other text or settings", FEATURE_FILES, METADATA, overwrite)
    start = time.perf_counter()
    with atomic_folder(output_dir) as folder:
        counts = _write_rows(corpus, packer, workers, _hash(made_from)[:16], folder)
        _check_enough_text(counts, corpus)
        metadata = {**made_from, "tokenizer": str(tokenizer.name_or_path), "counts": counts}
        (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _log_statistics(counts, chosen)
    logger.info("Saved to %s in %.1f s", output_dir, time.perf_counter() - start)
    return datasets.load_from_disk(output_dir)


def cached_features(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | str | Path,
    *,
    cache_dir: str | Path | None = None,
    workers: int = 1,
    **settings: Any,
) -> datasets.Dataset:
    """Call `create_features` with a folder in the cache that is named after text, tokenizer and settings.

    Args:
        cache_dir: Where to keep features. Default: `span_electra` in the cache of `datasets`.
    """
    tokenizer, chosen = load_tokenizer(tokenizer), FeatureSettings(**settings)
    with cache_folder(cache_dir, _made_from(chosen.corpus(paths), tokenizer, chosen)) as folder:
        if _read_metadata(folder) is None:  # damaged, and ours to remove
            shutil.rmtree(folder, ignore_errors=True)
        return create_features(paths, tokenizer, folder, workers=workers, overwrite=True, **settings)


def _made_from(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, settings: FeatureSettings) -> dict[str, Any]:
    """Return what determines the rows."""
    return {
        "format": FORMAT,
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "settings": asdict(settings),
        "sources": corpus.identity(),
    }


@contextmanager
def cache_folder(cache_dir: str | Path | None, named_by: Any) -> Iterator[Path]:
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
        from transformers import AutoTokenizer  # imports torch, which the help does without

        fix = "Give a folder that train_tokenizer wrote, or a name on the Hub."
        with as_input_error(f"The tokenizer {tokenizer}", fix):
            tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
    check_tokenizer(tokenizer, "cls", "sep", "pad", "mask")
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash that is equal for tokenizers that give the same ids, wherever they come from."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("padding")
    state.pop("truncation")
    return _hash(state)


def _write_rows(corpus: Corpus, packer: Packer, workers: int, fingerprint: str, folder: Path) -> dict[str, Any]:
    from accelerate.utils import patch_environment  # imports torch, too

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


def _check_enough_text(counts: dict[str, Any], corpus: Corpus) -> None:
    if counts["tokens"] < FEWEST_TOKENS:
        raise InputError(
            f"{', '.join(map(str, corpus.paths))}: only {counts['tokens']} tokens, fewer than one span may need "
            f"({FEWEST_TOKENS}). Give more text."
        )


def _log_statistics(counts: dict[str, Any], settings: FeatureSettings) -> None:
    logger.info(
        "%(documents)d documents, %(lines)d lines, %(tokens)d tokens (%(unknown_tokens)d unknown) in %(rows)d rows, "
        "%(mean_row_length).1f long on average",
        counts,
    )
    if counts["unknown_tokens"] > MOST_UNKNOWN * counts["tokens"]:
        logger.warning(
            "%.1f %% of the tokens are unknown to the tokenizer, so the model learns nothing from them. Train a "
            "tokenizer on this text with train_tokenizer: `--tokenizer_type BPE` encodes any text, and `BERT` more of "
            "it with a larger `--vocab_size`.",
            100 * counts["unknown_tokens"] / counts["tokens"],
        )
    is_half_empty = counts["mean_row_length"] < settings.max_seq_length / 2
    if is_half_empty and settings.documents != "file" and not settings.pack_documents:
        logger.warning(
            "The rows are %.1f tokens long on average, of at most %d, because the documents are short. If blank lines "
            "only separate paragraphs, or a text is spread over many rows of a table, use `--documents file` to fill "
            "rows across them. `--pack_documents` lets short documents share a row without seeing each other.",
            counts["mean_row_length"],
            settings.max_seq_length,
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
    """Read what `create_features` wrote beside the rows: `settings`, `counts`, `sources` and the tokenizer."""
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = corpus_parser("Turn raw text into training rows of token ids, once.", FeatureSettings)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="The number of processes.")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    create_features(options.pop("input"), options.pop("tokenizer"), options.pop("output_dir"), **options)


if __name__ == "__main__":
    run_command(main)
