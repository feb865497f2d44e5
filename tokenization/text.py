"""Read a corpus in blocks of whole lines: text files, JSON lines, CSV, Parquet or a `datasets` name.

No row of training data crosses the end of a *document*. Files are read in bounded pieces, so memory stays flat
whatever their size. Errors in the text are found here, and their messages name the file and the line.
"""

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import HfArgumentParser

from span_electra.common.command_line import option
from span_electra.common.errors import InputError, InputNotFoundError
from span_electra.common.paths import COMPRESSION_SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES, looks_like_path
from span_electra.common.private_datasets import fingerprint
from span_electra.common.tables import csv_rows, json_rows, load_named_dataset
from span_electra.common.text_files import LONGEST_LINE, read_text

logger = logging.getLogger(__name__)

DOCUMENT_RULES = ("blank_line", "file", "line")
DEFAULT_DOCUMENTS = "blank_line"
ACCEPTED = "text (.txt, .text, .raw, .tokens or no suffix), .jsonl, .json or .csv, each plain, .gz or .zst; .parquet"

BLOCK_SIZE = 1 << 20  # characters; a worker gets a block at a time
Source: TypeAlias = Path | datasets.Dataset | datasets.IterableDataset
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class TableSettings:
    """Where the text is in tables and `datasets`."""

    text_column: str = option("text", "The text column of JSON, CSV, Parquet or `datasets`.")
    split: str = option("train", "The split of a `datasets` name.")


class Block(NamedTuple):
    """About `BLOCK_SIZE` characters of text. A longer document is cut between lines."""

    text: str  # lines, joined with "\n"
    document_lines: list[int]  # how many lines each document (or part of one) has
    documents: int  # how many documents that hold text end in this block


class Document(NamedTuple):
    lines: list[str]
    is_whole: bool  # False if the document is longer than a block and this is not its last part


@dataclass
class Corpus:
    """The text in `paths`.

    Args:
        paths: Files, folders, globs or `datasets` names (`name` or `name:configuration`). Folders are searched
            recursively: links are followed, hidden files are skipped.
        documents: What ends a document in text files: a line of only white space (`blank_line`), the end of the
            `file`, or the end of each `line`. In tables each row is a document unless this is `file` or `line`.
        text_column: The column of JSON lines, CSV, Parquet and `datasets` that holds the text.
        split: The split of a `datasets` name.
        streaming: Stream a `datasets` name, with a source for each of its shards, instead of downloading it first.

    Raises:
        InputError: A path cannot be used, or (raised by `blocks`) its content cannot.
    """

    paths: Sequence[str | Path]
    documents: str = DEFAULT_DOCUMENTS
    text_column: str = "text"
    split: str = "train"
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.documents not in DOCUMENT_RULES:
            raise InputError(f"documents={self.documents!r} is not one of {', '.join(DOCUMENT_RULES)}.")
        if isinstance(self.paths, str | Path):
            self.paths = [self.paths]
        if not self.paths:
            raise InputError("no input: give at least one file, folder, glob or `datasets` name.")

    @cached_property
    def sources(self) -> list[Source]:
        """The files in reading order, with a loaded `Dataset` or a stream's shards in place of a `datasets` name."""
        return [source for path in self.paths for source in self._resolve(str(path))]

    def identity(self) -> list[dict[str, Any]]:
        """Describe the sources as JSON, which is equal if and only if they have not changed."""
        return [_identity(source) for source in self.sources]

    def blocks(self) -> Iterator[Block]:
        """Yield all the text in order. The blocks depend only on the sources and `documents`."""
        has_text = False
        for block in _group(self._all_documents()):
            has_text = has_text or block.documents > 0
            yield block
        if not has_text:
            names = ", ".join(str(path) for path in self.paths)
            raise InputError(f"{names}: empty, there is no text to read. Give files that hold text.")

    def source_blocks(self, source: Source) -> Iterator[Block]:
        """Yield the text of one of `sources`."""
        return _group(self._documents(source))

    def lines(self) -> Iterator[list[str]]:
        """Yield all the text as batches of lines."""
        for block in self.blocks():
            yield block.text.split("\n")

    def _resolve(self, path: str) -> list[Source]:
        found = Path(path).expanduser()
        if found.is_dir():
            return [*_files_in(found)]
        if found.is_file():
            _file_format(found)
            return [found]
        if glob.has_magic(path):
            files = [Path(name) for name in sorted(glob.glob(str(found), recursive=True)) if Path(name).is_file()]
            if not files:
                raise InputNotFoundError(f"{path}: no file matches. Check the pattern.")
            for file in files:
                _file_format(file)
            return [*files]
        if looks_like_path(path):
            raise InputNotFoundError(
                f"{path}: no such file or folder. Give a file, a folder, a glob or a `datasets` name."
            )
        dataset = load_named_dataset(path, self.split, self.streaming)
        if isinstance(dataset, datasets.Dataset):
            _check_column(path, self.text_column, dataset.column_names)
            return [dataset]
        # Some streams know their columns only from the first row.
        _check_column(path, self.text_column, dataset.column_names or next(iter(dataset), {}))
        return [dataset.shard(dataset.num_shards, index) for index in range(dataset.num_shards)]

    def _all_documents(self) -> Iterator[Document]:
        for source in self.sources:
            is_empty = True
            for document in self._documents(source):
                is_empty = False
                yield document
            if is_empty:
                logger.warning("%s is empty.", source)

    def _documents(self, source: Source) -> Iterator[Document]:
        if isinstance(source, Path) and _file_format(source) == "text":
            lines = (text.split("\n") for _, text in read_text(source))
            return _split_documents(lines, self.documents)
        rows = _read_rows(source, self.text_column)
        row_lines = (row.replace("\r\n", "\n").split("\n") for row in rows)
        if self.documents == "blank_line":
            return (document for lines in row_lines for document in _split_documents([lines], "file"))
        return _split_documents(row_lines, self.documents)


def _identity(source: Source) -> dict[str, Any]:
    if isinstance(source, Path):
        stat = source.stat()
        return {"file": str(source.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return {
        "dataset": source.info.dataset_name,
        "split": str(source.split),
        "fingerprint": fingerprint(source),
    }


def _file_format(path: Path) -> str:
    """Return text, .jsonl, .csv or .parquet, by the file's name."""
    suffix = path.suffix.lower()
    is_compressed = suffix in COMPRESSION_SUFFIXES
    if is_compressed:
        suffix = Path(path.stem).suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return "text"
    if suffix not in TABLE_SUFFIXES or (suffix == ".parquet" and is_compressed):
        raise InputError(f"{path}: unknown suffix {path.suffix}. Accepted: {ACCEPTED}. Rename or convert the file.")
    return ".jsonl" if suffix == ".json" else suffix


def _files_in(folder: Path) -> list[Path]:
    files, others = [], 0
    for path in sorted(_visible_files(folder)):
        if path.name == "state.json" and path.with_name("dataset_info.json").is_file():
            raise InputError(
                f"{path.parent}: rows that `datasets` saved, not text. run_pretraining.py takes features as "
                "--train_file. Of other data, give the text as a file, made with "
                f"datasets.load_from_disk({str(path.parent)!r}).to_parquet('text.parquet')."
            )
        try:
            _file_format(path)
            files.append(path)
        except InputError:
            others += 1
    if not files:
        raise InputError(f"{folder}: a folder with no text files ({others} of other kinds). Accepted: {ACCEPTED}.")
    if others:
        logger.info("%s: %d text files; skipped %d files of other kinds.", folder, len(files), others)
    return files


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield all files under `folder` except hidden ones. Links are followed, and each folder is read once."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in names if not name.startswith(".") and (path := Path(root, name)).is_file())


def _read_rows(source: Source, column: str) -> Iterator[str]:
    """Yield the text column of a table row by row."""
    rows: Iterator[tuple[str, Any]]
    if not isinstance(source, Path):
        batches = source.select_columns([column]).with_format(None).iter(batch_size=1000)
        rows = ((str(source.info.dataset_name), value) for batch in batches for value in batch[column])
    else:
        rows = (_read_parquet if _file_format(source) == ".parquet" else _read_lines)(source, column)
    for where, value in rows:
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputError(f"{where}: column {column!r} holds {type(value).__name__}, not text.")
        if not value.isascii() and (half := LONE_SURROGATE.search(value)):
            raise InputError(
                f"{where}: holds half of a character, U+{ord(half[0]):04X}, which is not text. Clean the data with "
                "text.encode('utf-8', 'replace').decode()."
            )
        if len(value) > LONGEST_LINE and max(map(len, value.split("\n"))) > LONGEST_LINE:
            raise InputError(f"{where}: a line longer than {LONGEST_LINE >> 20} MiB. Break the text into lines.")
        yield value


def _read_lines(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    for where, row in (csv_rows if _file_format(path) == ".csv" else json_rows)(path):
        _check_column(where, column, row)
        yield where, row[column]


def _read_parquet(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            _check_column(path, column, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1000, columns=[column]):
                yield from ((str(path), value) for value in batch.column(0).to_pylist())
    except (pa.ArrowException, OSError) as error:  # a damaged page raises an OSError
        raise InputError(f"{path}: not a Parquet file ({error}).") from error


def _check_column(where: str | Path, column: str, columns: Iterable[str]) -> None:
    if column not in columns:
        names = ", ".join(columns) or "none"
        raise InputError(f"{where}: no column {column!r}. The columns are: {names}. Choose one with --text_column.")


def _split_documents(batches: Iterable[list[str]], rule: str) -> Iterator[Document]:
    """Split lines into documents. A blank line belongs to the document it ends, and alone is no document."""
    lines: list[str] = []
    size, has_text = 0, False
    for batch in batches:
        for line in batch:
            lines.append(line)
            size += len(line) + 1
            if not line or line.isspace():
                is_end = has_text and rule == "blank_line"
            else:
                has_text = True
                is_end = rule == "line"
            if is_end or size >= BLOCK_SIZE:
                yield Document(lines, is_end)
                lines, size = [], 0
                has_text = has_text and not is_end
    if lines or has_text:
        yield Document(lines, has_text)


def _group(documents: Iterable[Document]) -> Iterator[Block]:
    """Group documents into blocks."""
    lines: list[str] = []
    document_lines: list[int] = []
    size = ended = 0
    for document in documents:
        document_size = sum(map(len, document.lines)) + len(document.lines)
        if lines and size + document_size > BLOCK_SIZE:
            yield Block("\n".join(lines), document_lines, ended)
            lines, document_lines, size, ended = [], [], 0, 0
        lines.extend(document.lines)
        document_lines.append(len(document.lines))
        size += document_size
        ended += document.is_whole
    if lines or ended:
        yield Block("\n".join(lines), document_lines, ended)


def corpus_parser(
    description: str, settings: type = TableSettings, needs_input: bool = True, needs_tokenizer: bool = True
) -> HfArgumentParser:
    """Make the parser of a command that reads a corpus and writes a folder. `settings` is a dataclass of options."""
    tokenizer = "--tokenizer TOKENIZER " if needs_tokenizer else ""
    usage = f"%(prog)s {tokenizer}--input TEXT [TEXT ...] --output_dir FOLDER [--option value ...]"
    parser = HfArgumentParser(settings, usage=usage, description=description)  # type: ignore[arg-type]
    if needs_tokenizer:
        parser.add_argument("--tokenizer", required=True, help="A tokenizer's or model's folder, or its Hub name.")
    names = "Files, folders, globs or `datasets` names (name or name:configuration)."
    parser.add_argument("--input", nargs="+", required=needs_input, help=names)
    parser.add_argument("--output_dir", required=True, help="A new or empty folder.")
    parser.add_argument("--overwrite", action="store_true", help="Replace this command's earlier output there.")
    return parser
