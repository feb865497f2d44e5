"""Read labelled examples, with a task's own column names, from a file or by a `datasets` name."""

import csv
import difflib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from datasets import Value

from span_electra.common.errors import InputError, InputNotFoundError, first_line
from span_electra.common.paths import TABLE_SUFFIXES, looks_like_path
from span_electra.common.text_files import LONGEST_LINE, numbered_lines

logger = logging.getLogger(__name__)

SAMPLE_SEED = 0  # not the run's, so that runs with different seeds see the same rows
TEXTS = (Value("string"), Value("large_string"))


class Column(NamedTuple):
    """A column that a task reads."""

    names: tuple[str, ...]  # the first of these that the data has is used
    is_required: bool = True


SENTENCE_COLUMNS = {
    "sentence1": Column(("sentence1", "text", "sentence")),
    "sentence2": Column(("sentence2",), is_required=False),
    "label": Column(("label",)),
}


def read_examples(
    name: str, split: str, columns: Mapping[str, Column], renamed: Mapping[str, str] | None = None
) -> datasets.Dataset:
    """Read the rows of a file or of a split of a `datasets` name, with only the task's `columns`, by its own names.

    `renamed` maps the task's names to those in the data, from --columns. It is None if there is no such option.
    """
    return task_columns(read_table(name, split), name, columns, renamed)


def task_columns(
    rows: datasets.Dataset, name: str, columns: Mapping[str, Column], renamed: Mapping[str, str] | None = None
) -> datasets.Dataset:
    """Return `rows` with only the task's columns, by the task's names. The arguments are those of `read_examples`."""
    if not len(rows):
        raise InputError(f"{name}: no rows. Give data that holds examples.")
    found: dict[str, str] = {}
    for role, column in columns.items():
        accepted = (renamed[role],) if renamed and role in renamed else column.names
        present = [candidate for candidate in accepted if candidate in rows.column_names]
        if present and present[0] in found:
            raise InputError(
                f"{name}: the column {present[0]!r} cannot be both {found[present[0]]} and {role}. Name another with "
                f"--columns {role}=NAME."
            )
        if present:
            found[present[0]] = role
        elif column.is_required or (renamed and role in renamed):
            fix = "Rename the right one" if renamed is None else f"Name it with --columns {role}=NAME"
            raise InputError(
                f"{name}: no column {' or '.join(map(repr, accepted))}. The columns are: "
                f"{', '.join(rows.column_names)}. {fix}."
            )
    texts = [name for name, kind in rows.features.items() if kind in TEXTS]
    unread = [column for column in texts if column not in found]
    for role in columns.keys() - found.values() if unread and renamed is not None else ():
        logger.warning(f"{name} has no {role}. If that is {unread[0]}, give --columns {role}={unread[0]}.")
    return rows.select_columns(list(found)).rename_columns({old: new for old, new in found.items() if old != new})


def check_texts(examples: datasets.Dataset, name: str, columns: Iterable[str]) -> None:
    """Refuse values that are not text."""
    for column in columns:
        for number, value in enumerate(examples[column], start=1):
            if not isinstance(value, str):
                raise InputError(
                    f"{name}, row {number}: {column} is {value!r}, which is not text. Give text in every row, or "
                    "another column."
                )


def name_of(label: int, names: list[str], where: str) -> str:
    """Return the name of a numbered label, from the `names` in the data."""
    if not 0 <= label < len(names):
        raise InputError(
            f"{where}: the label is {label}; accepted are 0 to {len(names) - 1} ({', '.join(names)}). Remove the row "
            "or correct its label (-1 often means that there is none)."
        )
    return names[label]


def parse_columns(columns: Sequence[str], roles: Iterable[str]) -> dict[str, str]:
    """Turn `--columns sentence1=premise label=gold` into a dictionary, and check it against the task's names."""
    renamed = {}
    for item in columns:
        role, _, column = item.partition("=")
        if role not in roles or not column:
            close = difflib.get_close_matches(role, list(roles), n=1)
            hint = f"{(close or list(roles))[0]}=NAME"
            raise InputError(f"--columns {item}: give one of {', '.join(roles)} and its column, as in {hint}.")
        renamed[role] = column
    return renamed


def read_table(name: str, split: str) -> datasets.Dataset:
    path = Path(name).expanduser()
    if path.is_file():
        return read_file(path)
    if looks_like_path(name) or path.exists():
        came = "a folder" if path.is_dir() else "no such file"
        raise InputNotFoundError(
            f"{name}: {came}. Give a {', '.join(TABLE_SUFFIXES)} file, or a `datasets` name (name:configuration)."
        )
    return load_named_dataset(name, split)


def read_file(path: Path) -> datasets.Dataset:
    """Read a table, with its values as they stand in the file.

    `datasets` reads Parquet. It silently turns dates in JSON into timestamps, reads NA in CSV as missing and 01 as 1,
    and fills short CSV rows, so JSON and CSV are read here.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; accepted are {', '.join(TABLE_SUFFIXES)}.")
    try:
        if suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=str(path), split="train")
        return table_of([row for _, row in csv_rows(path)] if suffix == ".csv" else read_json(path), path)
    except InputError:
        raise
    except Exception as error:  # every way in which reading fails has its own class
        kind = "JSON" if suffix == ".jsonl" else suffix[1:].upper()
        reason = first_line(error.__cause__ or error)
        raise InputError(f"{path}: cannot be read as {kind}, or has no rows ({reason}).") from error


def table_of(rows: list[dict], path: Path) -> datasets.Dataset:
    """Build a table in which a row that lacks a column has no value there."""
    table = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            table[name] = pa.array([row.get(name) for row in rows])
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: the column {name!r} holds values of several types ({first_line(error)}). Give it one."
            ) from error
    return datasets.Dataset.from_dict(table)


def read_json(path: Path) -> list[dict]:
    """Read rows from JSON lines, a list of objects, such a list under `data`, or SQuAD's nested format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:  # several values, so JSON lines
        content = [row for _, row in json_rows(path)]
    if isinstance(content, dict):
        content = content.get("data", [content])
        if content and isinstance(content, list) and isinstance(content[0], dict) and "paragraphs" in content[0]:
            content = list(squad_rows(content, path))
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputError(f"{path}: not rows. Accepted: one JSON object per line, or a list of objects.")
    return content


def json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield where each row of a file of JSON lines is, and the row."""
    for number, line in numbered_lines(path):
        if not line or line.isspace():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # not JSON, a number without end, or too deep
            reason = getattr(error, "msg", error)
            raise InputError(f"{where}: not JSON ({reason}). Accepted: one JSON object per line.") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON {type(row).__name__}. Accepted: one JSON object per line.")
        yield where, row


def squad_rows(articles: list, path: Path) -> Iterator[dict]:
    """Yield a row for each question of SQuAD's nested format: id, question, context, answers."""
    try:
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for question in paragraph["qas"]:
                answers = {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")}
                yield {name: question[name] for name in ("id", "question")} | {
                    "context": paragraph["context"],
                    "answers": answers,
                }
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not in SQuAD's format ({type(error).__name__}: {error}). Expected: data, a list of articles "
            "with paragraphs, each with a context and qas, each with id, question and answers, each with text and "
            "answer_start."
        ) from error


def sample(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    """Draw `count` rows at random, always the same ones, and keep their order."""
    if count is None or count >= len(rows):
        return rows
    chosen = np.random.default_rng(SAMPLE_SEED).permutation(len(rows))[:count]
    return rows.select(np.sort(chosen))


def load_named_dataset(name: str, split: str, streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
    """Load a split of the dataset `name`, or `name:configuration`, from the Hub."""
    dataset_name, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(dataset_name, configuration or None, split=split, streaming=streaming)
    except Exception as error:  # every way in which loading fails has its own class
        raise InputNotFoundError(
            f"{name}: neither a file, folder or glob here, nor a dataset that can be loaded (split {split!r}): "
            f"{first_line(error)}. Give local files, or a name like wikitext:wikitext-2-raw-v1 and its --split."
        ) from error


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row of a CSV file is, and the row. The first line names the columns."""
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader((f"{line}\n" for _, line in numbered_lines(path)), strict=True)
    names: list[str] = []
    try:
        for row in filter(None, reader):  # an empty line is no row
            where = f"{path}, line {reader.line_num}"
            if not names:
                names = row
            elif len(row) == len(names):
                yield where, dict(zip(names, row, strict=True))
            else:
                raise InputError(
                    f"{where}: {len(row)} fields, but the first line names {len(names)} columns. Put fields with "
                    'commas or line ends in double quotes ("), or write the file with a CSV library.'
                )
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error
