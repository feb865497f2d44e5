"""The text reader and the tokenizer trainer: what comes in, what is refused, what is written."""

import gzip
import io
import json
import signal
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from transformers import AutoTokenizer

from span_electra.common import text_files
from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError, InputNotFoundError
from span_electra.common.output_folder import atomic_folder
from span_electra.tokenization import text as text_module
from span_electra.tokenization.text import Corpus
from span_electra.tokenization.train_tokenizer import broken_up, main, train_tokenizer

TEXT = "The old man went to the sea.\nHe saw the old boat.\n\nThe boat was old; the man was not: Café.\n" * 20


@pytest.fixture
def corpus_file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def documents_of(corpus):
    found = []
    for block in corpus.blocks():
        lines = iter(block.text.split("\n"))
        found += [[next(lines) for _ in range(count)] for count in block.document_lines]
        assert next(lines, None) is None
    return found


# What is read


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("blank_line", [["", "a", "b", ""], ["", "c"]]),
        ("file", [["", "a", "b", "", "", "c"]]),
        ("line", [["", "a"], ["b"], ["", "", "c"]]),
    ],
)
def test_documents_end_where_the_rule_says(tmp_path, rule, expected):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\na\r\nb\n\n\nc\n")
    assert documents_of(Corpus([path], rule)) == expected


def test_every_format_holds_the_same_text(tmp_path):
    rows = ["one\ntwo", 'three, "four"', "日本"]
    plain = "\n\n".join(rows).encode()
    json_lines = "".join(json.dumps({"id": 1, "text": row}) + "\n" for row in rows).encode()
    (tmp_path / "a.txt").write_bytes(plain)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "c.txt.zst").write_bytes(zstandard.compress(plain[:9]) + zstandard.compress(plain[9:]))
    (tmp_path / "d.jsonl").write_bytes(json_lines)
    (tmp_path / "e.json.zst").write_bytes(zstandard.compress(json_lines))
    (tmp_path / "f.csv").write_text('id,text\n1,"one\ntwo"\n2,"three, ""four"""\n3,日本\n', encoding="utf-8")
    pq.write_table(pa.table({"text": [*rows, None]}), tmp_path / "g.parquet")
    expected = [row.split("\n") for row in rows]
    for path in sorted(tmp_path.iterdir()):
        read = [[line for line in document if line] for document in documents_of(Corpus([path]))]
        assert read == expected, path


def test_a_zst_file_with_a_window_beyond_the_default_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True, compression_level=1)
    path = tmp_path / "a.txt.zst"
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path.write_bytes(compressor.compress(b"some text\n" * 10) + compressor.flush())
    assert documents_of(Corpus([path])) == [["some text"] * 10]


def test_folders_are_read_in_order_without_hidden_files_and_globs_match(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/c.txt", ".hidden.txt", ".cache/d.txt", "e.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents_of(Corpus([tmp_path])) == [["a/c.txt"], ["a/z.txt"], ["b.txt"]]
    assert documents_of(Corpus([f"{tmp_path}/**/*.txt"])) == [["a/c.txt"], ["a/z.txt"], ["b.txt"]]


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path):
    for name in ("corpus/a.txt", "real/b.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "corpus" / "twice").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "corpus")
    assert documents_of(Corpus([tmp_path / "corpus"])) == [["corpus/a.txt"], ["real/b.txt"]]


def test_long_text_comes_in_bounded_blocks_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_SIZE", 100)
    monkeypatch.setattr(text_files, "READ_SIZE", 37)
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    blocks = list(Corpus([path]).blocks())
    assert max(len(block.text) for block in blocks) <= 100
    assert "\n".join(block.text for block in blocks) == TEXT.removesuffix("\n")
    assert sum(block.documents for block in blocks) == 21


def test_a_dataset_name_is_loaded_with_its_configuration_and_split(monkeypatch):
    def load_dataset(name, configuration, split, streaming):
        assert (name, configuration, split, streaming) == ("wikitext", "wikitext-2-raw-v1", "validation", False)
        return datasets.Dataset.from_dict({"text": ["a", "", "b"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = Corpus(["wikitext:wikitext-2-raw-v1"], split="validation")
    assert documents_of(corpus) == [["a"], [""], ["b"]]
    assert documents_of(Corpus(["wikitext:wikitext-2-raw-v1"], "file", split="validation")) == [["a", "", "b"]]


# What is refused


def damaged_parquet():
    """A whole Parquet file but for bytes in the middle of its only page."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [f"some text {i}" for i in range(500)]}), sink, compression="snappy")
    content = bytearray(sink.getvalue())
    content[200:2000] = b"\xff" * 1800
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt: empty, there is no text"),
        ("a.txt", b" \n\n", r"a\.txt: empty, there is no text"),
        ("a.txt", b"fine\nnot \0 fine\n", r"a\.txt, line 2: a NUL byte"),
        ("a.txt", b"fine\nfine\ncaf\xe9 au lait\n", r"a\.txt, line 3, byte 4: 0xe9 is not UTF-8.*iconv"),
        ("a.txt", b"fine\n" + b"x" * (11 << 20), r"a\.txt, line 2: longer than 10 MiB"),
        ("a.pdf", b"fine", r"a\.pdf: unknown suffix \.pdf\. Accepted: text"),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz: not a whole \.gz file"),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], r"not a whole \.gz file"),
        ("a.txt.zst", b"not zstd", r"a\.txt\.zst: not a whole \.zst file"),
        (
            "a.txt.zst",
            zstandard.compress(TEXT.encode())[:-9],
            r"not a whole \.zst file \(the end is missing\)",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"line 2: no column 'text'\. The columns are: body"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: not JSON"),
        ("a.json", b'[{"text": "a"}]', r"line 1: a JSON list\. Accepted: one JSON object per line"),
        ("a.jsonl", b'{"text": 3}', r"line 1: column 'text' holds int, not text"),
        (
            "a.csv",
            b"id,text\n1,a\n\n2,Well, this\n",
            r"line 4: 3 fields, but the first line names 2 columns",
        ),
        ("a.csv", b"id,text\n1,a\n2\n", r"line 3: 1 fields, but the first line names 2 columns"),
        ("a.csv", b"id,body\n1,a\n", r"no column 'text'\. The columns are: id, body.*--text_column"),
        ("a.parquet", b"not parquet", r"a\.parquet: not a Parquet file"),
        ("a.parquet", damaged_parquet(), r"a\.parquet: not a Parquet file \(.*snappy"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d b"}\n', r"line 2: holds half of a character, U\+D83D"),
        ("a.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", r"line 1: not JSON \(Exceeds the limit"),
        ("a.jsonl", b"[" * 100_000, r"line 1: not JSON \(maximum recursion"),
        ("a.csv", b'id,text\n1,"he said\n2,b\n', r"line \d: not CSV \(unexpected end of data\)"),
    ],  # Compressed files hold the time, and processes that share the tests must name them alike.
    ids=lambda value: "content" if isinstance(value, bytes) else None,
)
def test_bad_content_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(Corpus([tmp_path / name]).blocks())


def test_a_line_of_100_mb_is_refused_without_being_loaded(tmp_path):
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    with pytest.raises(InputError, match="line 1: longer than 10 MiB"):
        list(Corpus([path]).blocks())


def test_paths_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.py").write_text("")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt: no such file or folder"):
        Corpus(["missing.txt"]).identity()
    with pytest.raises(InputNotFoundError, match="folder/missing: no such file"):
        Corpus(["folder/missing"]).identity()
    with pytest.raises(InputNotFoundError, match="no file matches"):
        Corpus(["*.txt"]).identity()
    with pytest.raises(InputError, match=r"a folder with no text files \(1 of other kinds\)\. Accepted"):
        Corpus(["folder"]).identity()
    with pytest.raises(InputError, match="no input"):
        Corpus([]).identity()
    with pytest.raises(InputError, match="documents='page' is not one of blank_line, file, line"):
        Corpus(["folder"], "page").identity()


def test_a_dataset_saved_to_disk_is_told_from_a_folder_of_text(tmp_path):
    dataset = datasets.Dataset.from_dict({"text": ["the old man"]})
    datasets.DatasetDict(train=dataset).save_to_disk(tmp_path / "it")
    for folder in (tmp_path / "it", tmp_path / "it" / "train"):
        message = r"it/train: rows that .* datasets\.load_from_disk\('.*it/train'\)\.to_parquet\('text\.parquet'\)"
        with pytest.raises(InputError, match=message):
            Corpus([folder]).identity()


def test_features_are_told_from_a_folder_of_text(tmp_path):
    datasets.Dataset.from_dict({"input_ids": [[0, 5, 1]]}).save_to_disk(tmp_path / "text" / "features")
    (tmp_path / "text" / "features" / "features.json").write_text("{}")
    with pytest.raises(InputError, match=r"text/features: rows that .* run_pretraining"):
        Corpus([tmp_path / "text"]).identity()


def test_a_dataset_that_cannot_be_reached_asks_for_local_files():
    with pytest.raises(InputError, match=r"no_such_corpus: neither a file.*nor a dataset.*Give local files"):
        Corpus(["no_such_corpus"]).identity()


def test_an_empty_file_among_others_is_named_in_a_warning(tmp_path, corpus_file, caplog):
    (tmp_path / "empty.txt").write_text("")
    list(Corpus([tmp_path]).blocks())
    assert "empty.txt is empty" in caplog.text


# Tokenizers


@pytest.mark.parametrize(("kind", "files"), [("BPE", {"vocab.json", "merges.txt"}), ("BERT", {"vocab.txt"})])
def test_a_tokenizer_has_its_special_tokens_first_and_adds_them(tmp_path, corpus_file, kind, files):
    train_tokenizer([corpus_file], tmp_path / "out", tokenizer_type=kind, vocab_size=300, min_frequency=1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *files,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    names = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4]
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.model_max_length) == (3, 4, 512)
    pair = tokenizer("old man", "boat")
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in ("old man", "boat"))
    assert pair["input_ids"] == [0, *first, 1, *second, 1]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.decode(tokenizer.encode("old man"), skip_special_tokens=True) == "old man"


def test_byte_level_bpe_gives_back_any_text_but_for_one_space_at_its_beginning(tmp_path, corpus_file):
    tokenizer = train_tokenizer([corpus_file], tmp_path / "out", vocab_size=300)
    for text in ("The  old man .", " don't , 日本 é\t\u00a0\n\n x ", "\tnaïve 🙂 @-@ <unk>", "  x", "", " "):
        decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        assert decoded == text.removeprefix(" ")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("the [MASK] boat", add_special_tokens=False))
    assert tokens[-3:-1] != ["Ġ", "[MASK]"] and "[MASK]" in tokens and "Ġ" not in tokens


@pytest.mark.parametrize("kind", ["BPE", "BERT"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_words_given_one_by_one_get_the_tokens_that_they_have_in_text(tmp_path, corpus_file, kind, lowercase):
    tokenizer = train_tokenizer(
        [corpus_file], tmp_path / "out", tokenizer_type=kind, vocab_size=300, lowercase=lowercase
    )
    for text in ("The old man ' s boat .", "é 日本 12 [MASK] sea !", "The", ""):
        words = text.split()
        encoded = tokenizer(words, is_split_into_words=True)
        assert encoded["input_ids"] == tokenizer(text)["input_ids"]
        assert sorted(set(encoded.word_ids()) - {None}) == [*range(len(words))]
    pair = tokenizer(["old", "man"], ["The", "boat"], is_split_into_words=True)
    assert pair["input_ids"] == tokenizer("old man", "The boat")["input_ids"]


def test_a_byte_level_text_begins_as_its_words_do_and_what_follows_a_mask_does_not(tmp_path, corpus_file):
    tokenizer = train_tokenizer([corpus_file], tmp_path / "out", vocab_size=300)
    words = tokenizer("The old man saw the [MASK].", return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(words["input_ids"])
    assert tokens[1].startswith("ĠT") and tokens[-3:] == ["[MASK]", ".", "[SEP]"]
    assert words["offset_mapping"][1][0] == 0  # the space that was put before is no part of the text
    assert tokenizer("man")["input_ids"] == tokenizer(" man")["input_ids"]


def test_a_word_without_end_is_learnt_from_in_parts():
    long, short = broken_up(["a" * 2500, "word " * 500])
    assert long.split() == ["a" * 1000, "a" * 1000, "a" * 500] and short == "word " * 500


def test_lowercase_wordpiece_strips_accents_and_cased_does_not(tmp_path, corpus_file):
    options = {"tokenizer_type": "BERT", "vocab_size": 300, "min_frequency": 1}
    lower = train_tokenizer([corpus_file], tmp_path / "lower", lowercase=True, **options)
    cased = train_tokenizer([corpus_file], tmp_path / "cased", **options)
    assert lower.encode("CAFÉ") == lower.encode("cafe")
    assert cased.encode("Café") != cased.encode("Cafe")
    assert cased.unk_token_id not in cased.encode("Café")


def test_wordpiece_knows_the_characters_of_chinese_and_spends_no_token_on_them_inside_words(tmp_path):
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 800)))  # of a vocabulary of 1,000
    (tmp_path / "zh.txt").write_text(f"{characters}。\n" * 2, encoding="utf-8")
    tokenizer = train_tokenizer([tmp_path / "zh.txt"], tmp_path / "out", tokenizer_type="BERT", vocab_size=1000)
    assert tokenizer.unk_token_id not in tokenizer.encode(characters + "。")
    assert not any(token.startswith("##") for token in tokenizer.get_vocab())


def test_rare_characters_take_no_more_than_a_tenth_of_a_wordpiece_vocabulary(tmp_path):
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 150)))
    (tmp_path / "a.txt").write_text(f"{'abcdefghi ' * 50}\n" * 800 + rare, encoding="utf-8")
    tokenizer = train_tokenizer([tmp_path / "a.txt"], tmp_path / "out", tokenizer_type="BERT", vocab_size=1200)
    assert sum(token in rare for token in tokenizer.get_vocab()) == 120 - 2 * len("abcdefghi")


def test_a_run_of_text_without_spaces_is_not_one_unknown_word(tmp_path):
    line = "กขคงจฉชซญด" * 30
    (tmp_path / "th.txt").write_text(f"{line}\n" * 3, encoding="utf-8")
    tokenizer = train_tokenizer([tmp_path / "th.txt"], tmp_path / "out", tokenizer_type="BERT", vocab_size=60)
    assert tokenizer.unk_token_id not in tokenizer.encode(line)
    assert tokenizer.decode(tokenizer.encode(line), skip_special_tokens=True) == line


@pytest.mark.slow
def test_training_gives_the_same_files_in_every_process(tmp_path, corpus_file):
    code = """
import sys
from span_electra.tokenization.train_tokenizer import train_tokenizer
for kind in ("BPE", "BERT"):
    train_tokenizer([sys.argv[1]], f"{sys.argv[2]}/a/{kind}", tokenizer_type=kind, vocab_size=290)
"""
    command = [sys.executable, "-c", code, str(corpus_file), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for kind in ("BPE", "BERT"):
        train_tokenizer([corpus_file], tmp_path / "b" / kind, tokenizer_type=kind, vocab_size=290)
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 4 + 3
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.parent.name / path.name).read_bytes(), path.name


def test_a_vocabulary_the_text_cannot_fill_is_named_in_a_warning(tmp_path, corpus_file, caplog):
    tokenizer = train_tokenizer([corpus_file], tmp_path / "out", vocab_size=5000)
    assert f"yields only {len(tokenizer)} tokens, not vocab_size=5000" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 260}, "vocab_size=260 is too small: a BPE tokenizer needs at least 261"),
        ({"vocab_size": 56, "tokenizer_type": "BERT"}, "a BERT tokenizer needs at least 57"),
        ({"tokenizer_type": "bpe"}, "tokenizer_type='bpe' is not one of BPE, BERT"),
        ({"min_frequency": 0}, "min_frequency=0 must be at least 1"),
    ],
)
def test_impossible_tokenizer_settings_are_refused(tmp_path, corpus_file, options, message):
    with pytest.raises(InputError, match=message):
        train_tokenizer([corpus_file], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_mount_point_is_refused_before_the_work(tmp_path, corpus_file, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "volume")
    with pytest.raises(InputError, match=r"volume: is a mount point, which cannot be replaced; give a folder inside"):
        train_tokenizer([corpus_file], tmp_path / "volume", vocab_size=300)


def test_the_current_folder_is_refused_before_the_work(tmp_path, corpus_file, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=r"\.: is the current folder, which cannot be replaced; give a folder inside"):
        train_tokenizer([corpus_file], ".", vocab_size=300)


def test_a_place_where_no_folder_can_be_made_is_refused_before_the_work(tmp_path, corpus_file):
    message = r"corpus\.txt/out: no folder can be made in .*corpus\.txt \(Not a directory\); give another --output_dir"
    with pytest.raises(InputError, match=message):
        train_tokenizer([tmp_path / "never_read.txt"], corpus_file / "out")
    with pytest.raises(InputError, match=r"no folder can be made in .* \(File name too long\)"):
        train_tokenizer([corpus_file], tmp_path / "new" / ("a" * 250))
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


@pytest.mark.parametrize("hides_it", [False, True])
def test_sigterm_leaves_nothing_behind(tmp_path, hides_it):
    def command():
        with atomic_folder(tmp_path / "new" / "out") as folder:
            (folder / "half").write_text("")
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                if hides_it:
                    raise TimeoutError

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        run_command(command)
    assert not any(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) is before


def test_a_folder_with_something_else_is_never_replaced(tmp_path, corpus_file):
    out = tmp_path / "out"
    tokenizer = train_tokenizer([corpus_file], out, vocab_size=280)
    with pytest.raises(InputError, match=r"already holds a tokenizer.*--overwrite"):
        train_tokenizer([corpus_file], out, vocab_size=290)
    assert len(AutoTokenizer.from_pretrained(out)) == len(tokenizer) == 280
    assert len(train_tokenizer([corpus_file], out, vocab_size=290, overwrite=True)) == 290
    (out / "model.safetensors").write_text("weights")
    with pytest.raises(InputError, match=r"already holds something else \(model\.safetensors\)"):
        train_tokenizer([corpus_file], out, vocab_size=280, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        train_tokenizer([corpus_file], corpus_file, vocab_size=280)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "out"]
    assert corpus_file.read_text(encoding="utf-8") == TEXT


def test_the_command_saves_a_tokenizer(tmp_path, corpus_file):
    options = {"input": corpus_file, "output_dir": tmp_path / "mine", "vocab_size": 270}
    main([str(part) for name, value in options.items() for part in (f"--{name}", value)])
    assert len(AutoTokenizer.from_pretrained(tmp_path / "mine")) == 270


def test_the_command_ends_in_one_line_when_the_input_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: main(["--input", "missing.txt", "--output_dir", str(tmp_path / "new" / "out")]))
    error = capsys.readouterr().err
    assert error.startswith("error: missing.txt: no such file") and error.count("\n") == 1
    assert not any(tmp_path.iterdir())
