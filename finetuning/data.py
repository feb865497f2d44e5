"""Read the examples of a task, with its own column names, from a file or by a `datasets` name."""

import difflib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from datasets import Value

from span_electra.tokenization.text import (
    InputError,
    InputNotFoundError,
    first_line,
    load_named_dataset,
    looks_like_path,
)

logger = logging.getLogger(__name__)

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SAMPLE_SEED = 0  # not the run's: runs with different seeds see the same rows


class Column(NamedTuple):
    """A column that a task reads: the names under which it is looked for, the first that is there wins."""

    names: tuple[str, ...]
    is_required: bool = True


def read_examples(
    name: str, split: str, columns: Mapping[str, Column], renamed: Mapping[str, str]
) -> datasets.Dataset:
    """The rows that `name` holds.

    Args:
        name: A file, or a `datasets` name (`name:configuration`).
        split: The split of a `datasets` name.
        columns: The task's columns by its own name for them.
        renamed: That name -> the name in the data, where the user says so.

    Returns:
        Rows with the task's names for its columns, and no other columns.

    Raises:
        InputError: what is not there, cannot be read, holds no rows or lacks a column.
    """
    rows = read_table(name, split)
    if not len(rows):
        raise InputError(f"{name}: no rows. Give data that holds examples.")
    found: dict[str, str] = {}
    for role, column in columns.items():
        accepted = (renamed[role],) if role in renamed else column.names
        present = [candidate for candidate in accepted if candidate in rows.column_names]
        if present and present[0] in found:
            raise InputError(
                f"{name}: the column {present[0]!r} would be both {found[present[0]]} and {role}. Name another: "
                f"--columns {role}=NAME."
            )
        if present:
            found[present[0]] = role
        elif column.is_required or role in renamed:
            raise InputError(
                f"{name}: no column {' or '.join(map(repr, accepted))}. The columns are: "
                f"{', '.join(rows.column_names)}. Name the one that holds it: --columns {role}=NAME."
            )
    texts = [name for name, kind in rows.features.items() if kind in (Value("string"), Value("large_string"))]
    unread = [column for column in texts if column not in found]
    for role in columns.keys() - found.values() if unread else ():
        logger.warning(f"{name}: there is no {role}. If that is {unread[0]}: --columns {role}={unread[0]}.")
    return rows.select_columns(list(found)).rename_columns({old: new for old, new in found.items() if old != new})


def parse_columns(columns: Sequence[str], roles: Iterable[str]) -> dict[str, str]:
    """`--columns sentence1=premise label=gold` as a dictionary, checked against the names that the task knows."""
    renamed = {}
    for item in columns:
        role, _, column = item.partition("=")
        if role not in roles or not column:
            close = difflib.get_close_matches(role, list(roles), n=1)
            hint = f"{(close or list(roles))[0]}=NAME"
            raise InputError(f"--columns {item}: names one of {', '.join(roles)}, then its column; write {hint}.")
        renamed[role] = column
    return renamed


def read_table(name: str, split: str) -> datasets.Dataset:
    path = Path(name).expanduser()
    if path.is_file():
        return read_file(path)
    if looks_like_path(name) or path.exists():
        raise InputNotFoundError(
            f"{name}: no such file. Give a {', '.join(BUILDERS)} file, or a `datasets` name (name:configuration)."
        )
    return load_named_dataset(name, split)


def read_file(path: Path) -> datasets.Dataset:
    if path.suffix not in BUILDERS:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; accepted are {', '.join(BUILDERS)}.")
    if path.suffix == ".json" and (articles := squad_articles(path)) is not None:
        return datasets.Dataset.from_list(list(squad_rows(articles, path)))
    # Without this, texts like "null" and "NA" would be read as missing.
    settings = {"keep_default_na": False} if path.suffix == ".csv" else {}
    try:
        return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", **settings)
    except Exception as error:  # every kind of failure to read a file has its own class
        reason = first_line(error.__cause__ or error)
        raise InputError(
            f"{path}: cannot be read as {BUILDERS[path.suffix].upper()}, or has no rows ({reason})"
        ) from error


def squad_articles(path: Path) -> list | None:
    """The articles in a file of SQuAD's format, None if the file is of another kind (JSON lines, say)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content.get("data") if isinstance(content, dict) else None


def squad_rows(articles: list, path: Path) -> Iterator[dict]:
    """A row for each question of SQuAD's nested format: id, question, context, answers."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question["answers"]
                    yield {
                        "id": question["id"],
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
                    }
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not in SQuAD's format ({type(error).__name__}: {error}). Expected: data, a list of articles "
            "with paragraphs, each with a context and qas, each with id, question and answers, each with text and "
            "answer_start."
        ) from error


def sample(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    """`count` of the rows, drawn at random but always the same, in their order; all if there are no more."""
    if count is None or count >= len(rows):
        return rows
    chosen = np.random.default_rng(SAMPLE_SEED).permutation(len(rows))[:count]
    return rows.select(np.sort(chosen))
