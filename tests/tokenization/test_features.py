"""Features: no token lost, the same rows for any workers, saved whole, reused, refused when they misfit."""

import copy
import json
import os
import random
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from tokenizer_examples import unigram_tokenizer
from tokenizers import decoders, pre_tokenizers, processors
from trainer_examples import sequences_of
from transformers import PreTrainedTokenizerFast

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError
from span_electra.tokenization import text as text_module
from span_electra.tokenization.create_features import cached_features, create_features, load_features, main
from span_electra.tokenization.packing import (
    add_special_tokens,
    assign_rows,
    connect_documents,
    cut_rows,
    join_sequences,
    make_packer,
)
from span_electra.tokenization.train_tokenizer import train_tokenizer


def make_text():
    generator = random.Random(0)
    words = ["the", "old", "man", "boat", "sea", "went", "saw", "été", "[MASK]", "<unk>", "日本"]
    lines = []
    for _ in range(400):
        is_blank = generator.random() < 0.2
        lines.append(" " * generator.randint(0, 2) if is_blank else " ".join(generator.choices(words, k=25)))
    return "\n".join(lines)


TEXT = make_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def corpus_file(folder):
    path = folder / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizers(folder, corpus_file):
    kinds = ("BPE", "BERT")
    made = {kind: train_tokenizer([corpus_file], folder / kind, tokenizer_type=kind, vocab_size=300) for kind in kinds}
    return made | {"Unigram": unigram_tokenizer(TEXT)}


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks from little text."""
    monkeypatch.setattr(text_module, "BLOCK_SIZE", 2000)


def test_documents_are_cut_into_full_rows_and_a_tail():
    assert cut_rows([7, 7, 9], 3, 0.0, random.Random(0)) == [3, 6, 7, 9]


def test_rows_get_the_template_around_their_tokens():
    rows = add_special_tokens(np.array([7, 8, 9, 7], dtype=np.int32), [3, 4], [0, 5], [1])
    assert rows.to_pylist() == [[0, 5, 7, 8, 9, 1], [0, 5, 7, 1]]


@pytest.mark.parametrize("kind", ["BPE", "BERT", "Unigram"])
@pytest.mark.parametrize("documents", ["blank_line", "file", "line"])
def test_no_token_is_lost(tmp_path, corpus_file, tokenizers, small_blocks, kind, documents):
    tokenizer = tokenizers[kind]
    rows = create_features([corpus_file], tokenizer, tmp_path / "out", max_seq_length=16, documents=documents)
    ids = [token for row in rows["input_ids"] for token in row[1:-1]]
    if kind == "BERT":
        plain = [tokenizer(line, add_special_tokens=False, split_special_tokens=True) for line in TEXT.split("\n")]
        assert ids == [token for line in plain for token in line["input_ids"]]
    else:  # BPE separates lines by spaces
        assert "".join(tokenizer.decode(ids).split()) == "".join(TEXT.split())
    assert {(row[0], row[-1]) for row in rows["input_ids"]} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert max(map(len, rows["input_ids"])) == 16 and min(map(len, rows["input_ids"])) >= 3
    counts = json.loads((tmp_path / "out" / "features.json").read_text())["counts"]
    assert counts["tokens"] == len(ids) and counts["rows"] == len(rows) and counts["lines"] == 400
    assert str(rows.features["input_ids"].feature.dtype) == "int32"


def test_rows_never_cross_documents_and_special_tokens_in_text_are_text(tmp_path, tokenizers):
    path = tmp_path / "a.jsonl"
    rows = ["the old [MASK] man [SEP] [PAD] [CLS]", "the sea\nthe boat went"]
    path.write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    tokenizer = tokenizers["BPE"]
    features = create_features(path, tokenizer, tmp_path / "out", text_column="body", short_seq_probability=0)
    decoded = [tokenizer.decode(ids[1:-1]) for ids in features["input_ids"]]
    assert decoded == [rows[0], rows[1].replace("\n", " ")]
    special = {0, 1, 2, 3}
    assert not any(special & set(ids[1:-1]) for ids in features["input_ids"])


@pytest.mark.parametrize("known", ["<s>", "s"])  # the characters of "<s>", or not "<" and ">"
def test_special_pieces_in_text_are_text_for_unigram_models_too(tmp_path, known):
    tokenizer = unigram_tokenizer(f"the old man {known}")
    tokenizer.add_tokens(["old man"])  # the id after the last piece's, and stays that
    path, names = tmp_path / "a.txt", ["<s>", "</s>", "<mask>", "<pad>"]
    path.write_text(f"the {' '.join(names)} old man\nthe</s><s>man\n")
    (row,) = create_features(path, tokenizer, tmp_path / "out", short_seq_probability=0)["input_ids"]
    assert not set(tokenizer.convert_tokens_to_ids(names)) & set(row[1:-1])
    assert (row[0], row[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id) and len(tokenizer) - 1 in row
    plain, *_ = make_packer(tokenizer, 32).pack("the man", [1], 0).to_pylist()
    assert plain == tokenizer("the man")["input_ids"]


def test_words_do_not_grow_together_over_the_end_of_a_line(tmp_path, tokenizers):
    path = tmp_path / "a.txt"
    path.write_text("the old\nman\n the sea\n\n\nthe boat\nwent saw été\n")
    for name in ("BPE", "BERT"):
        features = create_features(path, tokenizers[name], tmp_path / name, short_seq_probability=0)
        decoded = [tokenizers[name].decode(ids[1:-1]) for ids in features["input_ids"]]
        assert decoded == ["the old man the sea", "the boat went saw été"]
        first_ids = [ids[1] for ids in features["input_ids"]]
        assert first_ids == [tokenizers[name].encode("the")[1]] * 2  # a text begins as elsewhere


def without_prefix_space(tokenizer):
    """`tokenizer` as earlier versions of `train_tokenizer` wrote it."""
    old = copy.deepcopy(tokenizer)
    old.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    old.backend_tokenizer.decoder = decoders.ByteLevel()
    return old


@pytest.mark.parametrize("make", [lambda tokenizer: tokenizer, without_prefix_space], ids=["new", "old"])
def test_every_line_of_byte_level_text_begins_a_word_and_a_document_as_the_tokenizer_does(tmp_path, tokenizers, make):
    path, tokenizer = tmp_path / "a.txt", make(tokenizers["BPE"])
    path.write_text("the old\nman saw [MASK].\n the sea\n\nthe boat\nwent and saw\n")
    rows = create_features(path, tokenizer, tmp_path / "out", short_seq_probability=0)["input_ids"]
    for row, text in zip(rows, ("the old man saw [MASK]. the sea", "the boat went and saw"), strict=True):
        assert row == tokenizer(text, split_special_tokens=True)["input_ids"]


def test_features_without_their_rows_are_damaged(tmp_path, tokenizers):
    path, out, tokenizer = tmp_path / "a.txt", tmp_path / "out", tokenizers["BPE"]
    path.write_text("the old man and the sea\n" * 20)
    rows = create_features(path, tokenizer, out)["input_ids"][:]
    next(out.glob("data-*.arrow")).unlink()
    for use in (load_features, partial(create_features, path)):
        folder_and_tokenizer = (out, tokenizer) if use is load_features else (tokenizer, out)
        with pytest.raises(InputError, match=r"out: damaged \(.*\)\. Make .* again with --overwrite"):
            use(*folder_and_tokenizer)
    assert create_features(path, tokenizer, out, overwrite=True)["input_ids"][:] == rows


def test_features_with_fewer_rows_than_were_written_are_damaged(tmp_path, corpus_file, tokenizers):
    rows = create_features([corpus_file], tokenizers["BPE"], tmp_path / "out")
    rows.select(range(3)).save_to_disk(tmp_path / "fewer")
    (tmp_path / "fewer" / "features.json").write_text((tmp_path / "out" / "features.json").read_text())
    with pytest.raises(InputError, match=rf"fewer: damaged \(3 of {len(rows)} rows\)"):
        load_features(tmp_path / "fewer", tokenizers["BPE"])


@pytest.mark.parametrize("damage", ["no rows", "no metadata", "no counts", "[]"])
def test_the_cache_makes_damaged_features_anew_and_removes_what_was_not_finished(
    tmp_path, corpus_file, tokenizers, damage
):
    rows = cached_features([corpus_file], tokenizers["BPE"], cache_dir=tmp_path)["input_ids"][:]
    (entry,) = (path for path in tmp_path.iterdir() if path.is_dir())
    metadata = json.loads((entry / "features.json").read_text())
    if damage == "no rows":
        next(entry.glob("data-*.arrow")).unlink()
    elif damage == "no metadata":
        (entry / "features.json").unlink()
    else:
        left = [] if damage == "[]" else {key: value for key, value in metadata.items() if key != "counts"}
        (entry / "features.json").write_text(json.dumps(left))
    for name in (f".{entry.name}.0123abcd.tmp", ".another.0123abcd.tmp"):
        (tmp_path / name).mkdir()
    again = cached_features([corpus_file], tokenizers["BPE"], cache_dir=tmp_path)
    assert again["input_ids"][:] == rows
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {entry.name, ".another.0123abcd.tmp"}


def test_sequences_share_the_row_that_they_fill_best():
    sequences = [[0, 5, 5, 5, 1], [0, 6, 6, 1], [0, 7, 1], [0, 8, 1], [0, 9, 9, 9, 9, 9, 1], []]
    shared = join_sequences(pa.array(sequences), assign_rows([*map(len, sequences)], 8)).to_pylist()
    assert shared == [
        [0, 5, 5, 5, 1, 0, 7, 1],
        [0, 6, 6, 1, 0, 8, 1],
        [0, 9, 9, 9, 9, 9, 1],
    ]
    assert join_sequences(pa.array([], type=pa.list_(pa.int32())), assign_rows([], 8)).to_pylist() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_share_rows_whole_and_no_token_is_lost(tmp_path, corpus_file, tokenizers, small_blocks, workers):
    tokenizer, settings = tokenizers["BPE"], {"max_seq_length": 200, "documents": "line", "workers": workers}
    alone = create_features([corpus_file], tokenizer, tmp_path / "alone", **settings)["input_ids"]
    shared = create_features([corpus_file], tokenizer, tmp_path / "shared", pack_documents=True, **settings)
    assert sorted(sequences_of(shared["input_ids"], tokenizer.cls_token_id)) == sorted(alone)
    assert max(map(len, shared["input_ids"])) <= 200 and len(shared) < 0.7 * len(alone)
    counts = [json.loads((tmp_path / name / "features.json").read_text())["counts"] for name in ("alone", "shared")]
    assert counts[0]["tokens"] == counts[1]["tokens"] and counts[1]["rows"] == len(shared)


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_numbered_by_document_across_blocks(tmp_path, tokenizers, small_blocks, workers):
    stories = ["\n".join(f"word{story} " * 9 for _ in range(lines)) for story, lines in enumerate((90, 2, 1, 70, 5))]
    for story, text in enumerate(stories):
        (tmp_path / f"{story}.txt").write_text(text + "\n\n  \n")
    rows = create_features(
        [tmp_path / f"{story}.txt" for story in range(len(stories))],
        tokenizers["BERT"],
        tmp_path / "out",
        **{"documents": "file", "max_seq_length": 32, "workers": workers},
    )
    lengths = {}
    for row in rows:
        lengths[row["document"]] = lengths.get(row["document"], 0) + len(row["input_ids"]) - 2
    expected = [len(tokenizers["BERT"](text, add_special_tokens=False)["input_ids"]) for text in stories]
    assert list(lengths.values()) == expected


def test_documents_that_share_rows_have_one_number():
    for seed in range(200):
        generator = np.random.default_rng(seed)
        documents = np.sort(generator.integers(0, 20, 25))
        rows = np.unique(generator.integers(0, 18, 25), return_inverse=True)[1]
        groups = {row: {row} for row in rows}
        for document in set(documents):
            joined = set().union(*(groups[row] for row in rows[documents == document]))
            groups |= dict.fromkeys(joined, joined)
        found = connect_documents(documents, rows)
        assert [[a == b for b in found] for a in found] == [
            [a in groups[b] for b in range(len(found))] for a in range(len(found))
        ]


@pytest.mark.parametrize("template", ["[SEP] $A [CLS]", "[MASK] [CLS] $A [SEP]", "[CLS] $A [MASK]"])
def test_documents_share_no_rows_where_nothing_tells_where_they_begin(tmp_path, corpus_file, tokenizers, template):
    tokenizer = copy.deepcopy(tokenizers["BPE"])
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]", "[MASK]")]
    processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = processor
    with pytest.raises(InputError, match=r"cls_token .* sep_token .* Leave out --pack_documents"):
        create_features([corpus_file], tokenizer, tmp_path / "out", pack_documents=True)


def test_rows_are_the_same_for_any_number_of_workers(tmp_path, corpus_file, tokenizers, small_blocks):
    made = [
        create_features([corpus_file], tokenizers["BPE"], tmp_path / str(n), max_seq_length=16, workers=n)["input_ids"]
        for n in (1, 2, 3)
    ]
    assert list(made[0]) == list(made[1]) == list(made[2])
    assert "TOKENIZERS_PARALLELISM" not in os.environ or os.environ["TOKENIZERS_PARALLELISM"] == "false"
    other = create_features([corpus_file], tokenizers["BPE"], tmp_path / "4", max_seq_length=16, seed=1)
    assert list(other["input_ids"]) != list(made[0])


def test_five_percent_of_rows_have_a_uniformly_drawn_length():
    ends = cut_rows([10**6], 100, 0.05, random.Random(0))
    lengths = np.diff(ends, prepend=0)
    short = lengths[lengths < 100]
    assert 0.04 < len(short) / len(lengths) < 0.06
    assert abs(short.mean() - 50) < 4 and short.min() >= 1


def test_features_of_the_same_text_are_reused_and_others_are_not_replaced(tmp_path, corpus_file, tokenizers, caplog):
    caplog.set_level("INFO")
    out, tokenizer = tmp_path / "out", tokenizers["BPE"]
    first = create_features([corpus_file], tokenizer, out, max_seq_length=16)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not any(name.startswith(("work", "tmp", "cache")) for name in before)
    again = create_features([corpus_file], tokenizer, out, max_seq_length=16, workers=2)
    assert "Reusing the features" in caplog.text and list(again["input_ids"]) == list(first["input_ids"])
    with pytest.raises(InputError, match=r"already holds features of other text or settings.*--overwrite"):
        create_features([corpus_file], tokenizer, out, max_seq_length=32)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    longer = create_features([corpus_file], tokenizer, out, max_seq_length=32, overwrite=True)
    assert len(longer) < len(first)
    (out / "notes.md").write_text("mine")
    with pytest.raises(InputError, match=r"already holds something else \(notes.md\)"):
        create_features([corpus_file], tokenizer, out, max_seq_length=16, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_changed_file_is_not_reused(tmp_path, tokenizers):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    create_features([path], tokenizers["BPE"], tmp_path / "out")
    path.write_text(TEXT + "\nmore", encoding="utf-8")
    with pytest.raises(InputError, match="other text or settings"):
        create_features([path], tokenizers["BPE"], tmp_path / "out")


def test_bad_text_leaves_nothing_behind(tmp_path, tokenizers):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode() + b"\n\xff")
    with pytest.raises(InputError, match=r"line 401, byte 1: 0xff"):
        create_features([path], tokenizers["BPE"], tmp_path / "new" / "out")
    path.write_text("the sea")
    with pytest.raises(InputError, match=r"only [1-9] tokens, .*\(10\)"):
        create_features([path], tokenizers["BPE"], tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_cached_features_are_made_once_for_each_setting(tmp_path, corpus_file, tokenizers, caplog):
    caplog.set_level("INFO")
    rows = cached_features([corpus_file], tokenizers["BPE"], cache_dir=tmp_path, max_seq_length=16)
    assert "Reusing" not in caplog.text
    again = cached_features([corpus_file], tokenizers["BPE"], cache_dir=tmp_path, max_seq_length=16, workers=2)
    assert "Reusing" in caplog.text and len(again) == len(rows)
    assert len(cached_features([corpus_file], tokenizers["BPE"], cache_dir=tmp_path, max_seq_length=32)) < len(rows)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_features_are_loaded_only_with_their_tokenizer(tmp_path, folder, corpus_file, tokenizers):
    create_features([corpus_file], tokenizers["BPE"], tmp_path / "out")
    assert len(load_features(tmp_path / "out", folder / "BPE")) > 0
    with pytest.raises(InputError, match=r"made with another tokenizer \(.*BPE\) than .*BERT\. Give"):
        load_features(tmp_path / "out", folder / "BERT")
    with pytest.raises(InputError, match="not a folder of features"):
        load_features(folder / "BERT", folder / "BERT")
    with pytest.raises(InputError, match="not a folder of features"):
        load_features(tmp_path / "missing", folder / "BERT")


def test_tokenizers_that_cannot_serve_are_refused(tmp_path, corpus_file, tokenizers):
    backend = tokenizers["BPE"].backend_tokenizer
    maskless = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]")
    with pytest.raises(InputError, match="the tokenizer has no pad_token, no mask_token"):
        create_features([corpus_file], maskless, tmp_path / "out")
    state = json.loads(backend.to_str())
    state["post_processor"] = None
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    bare = PreTrainedTokenizerFast(tokenizer_object=backend.from_str(json.dumps(state)), **names)
    with pytest.raises(InputError, match="puts no special tokens around a text"):
        create_features([corpus_file], bare, tmp_path / "out")
    with pytest.raises(InputError, match=r"The tokenizer .*: cannot be used"):
        create_features([corpus_file], tmp_path / "missing", tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_length": 4}, "max_seq_length=4 is too short; .* at least 5"),
        ({"short_seq_probability": 1.5}, "short_seq_probability=1.5 is not between 0 and 1"),
        ({"workers": 0}, "workers=0 must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, corpus_file, tokenizers, options, message):
    with pytest.raises(InputError, match=message):
        create_features([corpus_file], tokenizers["BPE"], tmp_path / "out", **options)
    assert not any(tmp_path.iterdir())


def test_short_documents_are_warned_of(tmp_path, corpus_file, tokenizers, caplog):
    create_features([corpus_file], tokenizers["BPE"], tmp_path / "out", max_seq_length=1024)
    assert "`--documents file`" in caplog.text and "`--pack_documents`" in caplog.text


@pytest.mark.parametrize(("unknown", "is_warned"), [(1, False), (3, True)])
def test_more_than_a_hundredth_of_unknown_tokens_is_warned_of(tmp_path, caplog, unknown, is_warned):
    caplog.set_level("INFO")
    (tmp_path / "a.txt").write_text("the old man\n" * 50 + "日\n" * unknown, encoding="utf-8")
    tokenizer = unigram_tokenizer("the old man")
    create_features(tmp_path / "a.txt", tokenizer, tmp_path / "out", documents="file", short_seq_probability=0)
    tokens = 150 + 2 * unknown  # "▁" stands before each
    assert f"{tokens} tokens ({unknown} unknown)" in caplog.text
    assert ("tokens are unknown to the tokenizer" in caplog.text) == is_warned
    assert ("1.9 %" in caplog.text and "`--tokenizer_type BPE`" in caplog.text) == is_warned


def test_the_command_makes_features_and_names_bad_input_in_one_line(tmp_path, folder, corpus_file, tokenizers, capsys):
    main(
        [
            "--input",
            str(corpus_file),
            "--tokenizer",
            str(folder / "BPE"),
            "--output_dir",
            str(tmp_path / "out"),
        ]
    )
    assert len(load_features(tmp_path / "out", folder / "BPE")) > 0
    arguments = ["--tokenizer", str(folder / "BPE"), "--output_dir", str(tmp_path / "other")]
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: main(["--input", "missing.txt", *arguments]))
    error = capsys.readouterr().err
    assert error.startswith("error: missing.txt: no such file") and error.count("\n") == 1


def test_text_that_a_tokenizer_strips_altogether_is_refused_in_words(tmp_path):
    (tmp_path / "text.txt").write_text("words to learn from, some of them twice: words to learn\n" * 9)
    tokenizer = train_tokenizer([tmp_path / "text.txt"], tmp_path / "it", tokenizer_type="BERT", vocab_size=60)
    (tmp_path / "nothing.txt").write_text("\u200b\n\u200b\u200d\n", encoding="utf-8")  # found by fuzzing
    with pytest.raises(InputError, match="only 0 tokens"):
        create_features([tmp_path / "nothing.txt"], tokenizer, tmp_path / "out", max_seq_length=32)
    assert not (tmp_path / "out").exists()
