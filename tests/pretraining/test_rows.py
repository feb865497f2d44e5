"""Rows that are held back for evaluation, and how many are evaluated."""

import logging
import os
import re
from types import SimpleNamespace

import datasets
import numpy as np
import pytest

from span_electra.pretraining.arguments import DataArguments, PretrainingArguments
from span_electra.pretraining.rows import are_full, build_rows, resolve_rows, rows_to_evaluate, rows_to_hold_back
from span_electra.tokenization.create_features import load_tokenizer
from span_electra.tokenization.train_tokenizer import train_tokenizer

STORIES, LINES = 40, 12  # a word of its own in every line tells which story a row is from


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("rows")
    (home / "text").mkdir()
    for story in range(STORIES):
        lines = [f"story{story:03} " + "the old man went to the sea " * (1 + line % 3) for line in range(LINES)]
        (home / "text" / f"{story}.txt").write_text("\n".join(lines))
    train_tokenizer([home / "text"], home / "tokenizer", vocab_size=300)
    return home


def read_rows(home, cache, **options):
    data = DataArguments(
        train_file=[str(home / "text")], features_cache_dir=str(cache), **{"documents": "file"} | options
    )
    data.max_seq_length = 16
    resolve_rows(data, SimpleNamespace(max_position_embeddings=64, _attn_implementation="sdpa"))
    training = PretrainingArguments(output_dir="out", report_to="none", use_cpu=True)
    return build_rows(data, load_tokenizer(home / "tokenizer"), training)


def stories_of(rows, tokenizer):
    texts = tokenizer.batch_decode([row["input_ids"] for row in rows])
    return {name for text in texts for name in re.findall(r"story\d{3}", text)}


def test_held_back_rows_come_from_documents_of_their_own(home, tmp_path):
    tokenizer = load_tokenizer(home / "tokenizer")
    seen = []
    for workers in (1, 2):
        train_rows, eval_rows = read_rows(
            home, tmp_path / str(workers), validation_split_percentage=10.0, preprocessing_num_workers=workers
        )
        held_back = stories_of(eval_rows, tokenizer)
        assert 1 <= len(held_back) <= 8 and not held_back & stories_of(train_rows, tokenizer)
        assert 0 < len(eval_rows) <= 0.1 * (len(train_rows) + len(eval_rows)) + 1
        assert train_rows.column_names == eval_rows.column_names == ["input_ids"]
        seen.append([row["input_ids"].tolist() for row in eval_rows])
    assert seen[0] == seen[1]


def rows_of(sizes):
    return datasets.Dataset.from_dict({"document": np.repeat(np.arange(len(sizes)), sizes)})


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ([10, 1, 1, 88], 0.01, {1}),  # one of the two that fit
        ([5] * 20, 0.01, {5}),  # none fits, so a whole document, the smallest
        ([60, 40], 0.01, {1}),  # nor is a document a tenth or less, so the end of the text
        ([100], 0.05, {5}),
        ([2], 0.99, {1}),
    ],
)
def test_whole_documents_are_held_back_unless_they_are_large(sizes, share, expected):
    is_held_back = rows_to_hold_back(rows_of(sizes), share)
    assert {int(is_held_back.sum())} == expected and not is_held_back.all()


def test_a_single_document_gives_the_end_of_its_rows_and_the_log_says_so(caplog):
    assert np.flatnonzero(rows_to_hold_back(rows_of([50]), 0.1)).tolist() == [45, 46, 47, 48, 49]
    assert "the last 5 of 50 rows" in caplog.text and "--validation_file" in caplog.text


def test_features_that_do_not_tell_documents_apart_give_the_end_of_their_rows(caplog):
    older = datasets.Dataset.from_dict({"input_ids": [[0, 5, 1]] * 10})
    assert np.flatnonzero(rows_to_hold_back(older, 0.2)).tolist() == [8, 9]
    assert "earlier version" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6400),  # 1,000 updates of 128 rows
        ({"max_steps": 20}, 128),
        ({"eval_strategy": "no", "max_steps": 100_000}, 640_000),
        ({"eval_strategy": "epoch"}, 50_000),
        ({"eval_steps": 0.1, "max_steps": 10_000}, 6400),
        ({"gradient_accumulation_steps": 2}, 12_800),
    ],
)
def test_evaluation_stays_a_twentieth_of_the_training(options, expected):
    training = PretrainingArguments(output_dir="out", report_to="none", use_cpu=True, **options)
    rows = range(1_000_000)
    assert rows_to_evaluate(training, rows) == expected


def test_the_log_says_how_many_rows_are_evaluated(home, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "span_electra"):
        _, eval_rows = read_rows(home, tmp_path, validation_file=[str(home / "text")])
    assert len(eval_rows) == 128
    assert re.search(r"128 of the 6\d\d .*--max_eval_samples", caplog.text)
    _, asked = read_rows(home, tmp_path, validation_file=[str(home / "text")], max_eval_samples=300)
    assert len(asked) == 300


def test_the_folder_of_features_stays_as_it_is(home, tmp_path):
    read_rows(home, tmp_path, validation_split_percentage=10.0)
    names = sorted(os.listdir(next(path for path in tmp_path.iterdir() if path.is_dir())))
    assert not [name for name in names if name.startswith(("cache", "tmp"))]


@pytest.mark.parametrize(("rows", "expected"), [([[1, 2, 3], [4, 5, 6]], True), ([[1, 2, 3], [4, 5]], False)])
def test_rows_are_full_if_none_is_shorter(rows, expected):
    assert are_full(datasets.Dataset.from_dict({"input_ids": rows}).with_format("numpy"), 3) is expected
