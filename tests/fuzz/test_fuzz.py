"""Any text, any row, any option: no token is lost, no special token is asked for, and what is refused is refused in
our own words."""

import json
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_examples import unigram_tokenizer
from tokenizers.models import Unigram
from trainer_examples import sequences_of

from span_electra.common.command_line import read_settings
from span_electra.common.errors import InputError
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.finetuning.arguments import parse_arguments as parse_finetuning
from span_electra.pretraining.arguments import parse_arguments
from span_electra.pretraining.model_files import read_overrides
from span_electra.tokenization.packing import make_packer, separated
from span_electra.tokenization.text import Corpus
from span_electra.tokenization.train_tokenizer import train_tokenizer

TEXT = """We hold these truths to be self-evident, that all men are created equal; don't they say so? In 1776 the
colonies wrote it down. Привет мир, как дела? क्या हाल है 漢字はここにある。 naïve coöperation 👩‍👩‍👧 שלום עולם
"""
# Beside any character: what tokenizers and readers have stumbled over.
ODD = [
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u2028",
    "\x85",
    "\x0b",
    "\x1c",
    "\r",
    "\r\n",
    "\u202e",
    "e\u0301\u0301",
    "👩‍👩‍👧‍👦",
]
ODD += ["[MASK]", "[CLS]", "[PAD]", "<mask>", "<s>", "</s>", "##s", "Ġ", "▁", "a" * 300]
ODD += ["\U0010ffff", "\ufffd", "שלום", "क्षि", "  ", "\t"]
SPECIAL_PIECE = re.compile("<(mask|/?s|pad|unk)>")
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.lists(st.one_of(st.text(characters, max_size=20), st.sampled_from(ODD)), max_size=12).map("".join)


@pytest.fixture(scope="session", params=["BPE", "BERT", "Unigram"])
def any_tokenizer(request, tmp_path_factory):
    if request.param == "Unigram":
        return unigram_tokenizer(TEXT)
    home = tmp_path_factory.mktemp(request.param)
    (home / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    return train_tokenizer([home / "text.txt"], home / "it", tokenizer_type=request.param, vocab_size=420)


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("text") / "text.txt"


@given(
    data=st.one_of(st.binary(max_size=200), texts.map(str.encode)), documents=st.sampled_from(["blank_line", "line"])
)
@example(data=b"\xed\xa0\x80", documents="line")  # a surrogate
@example(data=b"\xff\xfea\0", documents="line")  # UTF-16
@example(data=b"\xef\xbb\xbf", documents="blank_line")  # a byte order mark alone
def test_any_bytes_are_read_as_they_are_or_refused(file, data, documents):
    file.write_bytes(data)
    try:
        blocks = list(Corpus([file], documents).blocks())
    except InputError as error:
        assert str(file) in str(error)
        return
    lines = [line for block in blocks for line in block.text.split("\n")]
    assert sum(sum(block.document_lines) for block in blocks) == len(lines)
    expected = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8").replace("\r\n", "\n").split("\n")
    kept, wanted = ("".join("".join(part).split()) for part in (lines, expected))
    assert kept == wanted


@given(lines=st.lists(texts.map(lambda text: text.replace("\n", " ")), min_size=1, max_size=6), data=st.data())
def test_no_token_is_lost_between_text_and_rows(any_tokenizer, lines, data):
    length = data.draw(st.integers(8, 40))
    ends = data.draw(st.integers(0, len(lines)))
    packer = make_packer(any_tokenizer, length)
    documents = [count for count in (ends, len(lines) - ends) if count]
    rows = packer.pack("\n".join(lines), documents, 0).to_pylist()
    whole_words = separated(lines, documents, packer.line_start)
    assert [line.removeprefix(" ") for line in whole_words] == [line.removeprefix(" ") for line in lines]
    encoded = any_tokenizer(whole_words, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = {any_tokenizer.cls_token_id, any_tokenizer.sep_token_id, any_tokenizer.mask_token_id}
    assert all(len(row) <= length and row[0] == any_tokenizer.cls_token_id for row in rows)
    assert all(row[-1] == any_tokenizer.sep_token_id and not special & set(row[1:-1]) for row in rows)
    # A Unigram model's own pieces are its special tokens, too.
    if type(any_tokenizer.backend_tokenizer.model) is not Unigram or not SPECIAL_PIECE.search("".join(lines)):
        assert [token for row in rows for token in row[1:-1]] == [token for line in encoded for token in line]
    packer.pack_documents = True
    shared = packer.pack("\n".join(lines), documents, 0).to_pylist()
    assert all(len(row) <= length for row in shared)
    assert sorted(sequences_of(shared, any_tokenizer.cls_token_id)) == sorted(rows)


@given(data=st.data(), ratio=st.floats(0.01, 0.99), longest=st.integers(1, 12), whole=st.booleans())
def test_any_rows_are_masked_within_their_bounds(any_tokenizer, collators, data, ratio, longest, whole):
    size = len(any_tokenizer)
    rows = data.draw(st.lists(st.lists(st.integers(0, size - 1), min_size=1, max_size=40), min_size=1, max_size=5))
    collator = collators(any_tokenizer, ratio, longest, whole)
    batch = collator([{"input_ids": row} for row in rows])
    again = collator([{"input_ids": row} for row in rows])
    for i, row in enumerate(rows):
        ids, labels = batch["input_ids"][i, : len(row)].numpy(), batch["labels"][i].numpy()
        masked = labels[: len(row)] != -100
        ordinary = collator.ordinary[row]
        assert (labels[len(row) :] == -100).all() and not (masked & ~ordinary).any()
        assert (labels[: len(row)][masked] == np.array(row)[masked]).all()
        assert (ids[~masked] == np.array(row)[~masked]).all()
        edges = (any_tokenizer.sep_token_id, any_tokenizer.cls_token_id)  # between documents that share a row
        begins = [place for place in range(1, len(row)) if (row[place - 1], row[place]) == edges]
        share, words = max(1, ratio * ordinary.sum()), max(1, ordinary.sum())
        assert masked.sum() < share + 1  # rounded up or down
        for part, part_words in zip(np.split(masked, begins), np.split(ordinary, begins), strict=True):
            assert part.sum() < share * part_words.sum() / words + 1
        assert not masked[0] and not masked[-1]  # so runs of masked tokens have two visible neighbours
    assert all((batch[name] == again[name]).all() for name in batch)


@pytest.fixture(scope="session")
def collators():
    """A collator with other settings without the tables made again."""
    made = {}

    def collator(tokenizer, ratio, longest, whole):
        key = (id(tokenizer), longest, whole)
        if key not in made:
            made[key] = DataCollatorForSpanMasking(tokenizer, max_span_words=longest, whole_words=whole)
        made[key].mask_ratio = ratio
        return made[key]

    return collator


OPTIONS = ["config", "config_overrides", "tokenizer", "mask_ratio", "max_span_words", "max_seq_length"]
OPTIONS += ["documents", "split", "max_steps", "learning_rate", "warmup_steps", "save_steps", "seed", "objective"]
OPTIONS += ["per_device_train_batch_size", "gradient_accumulation_steps", "streaming", "probe_file", "optim", "bf16"]
OPTIONS += ["eval_strategy", "logging_steps", "hub_model_id", "weight_decay", "num_train_epochs", "unknown", ""]
values = st.one_of(
    st.sampled_from(
        ["nan", "inf", "-1", "0", "1e400", "true", "None", "[]", "{}", "a.yaml", "../x", "99999999999999999"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.floats().map(str),
    st.integers().map(str),
)


@pytest.mark.parametrize("parse", [parse_arguments, parse_finetuning], ids=["pretraining", "fine-tuning"])
@given(chosen=st.lists(st.tuples(st.sampled_from(OPTIONS), values), max_size=3))
@example(chosen=[("logging_steps", "inf")])
@example(chosen=[("save_steps", "inf")])
def test_any_options_are_taken_or_refused_in_words(tmp_path_factory, capsys, parse, chosen):
    arguments = ["--train_file", "a.txt", "--output_dir", str(tmp_path_factory.getbasetemp() / "out"), "--use_cpu"]
    arguments += (
        ["--config", "tiny"] if parse is parse_arguments else ["--model_name_or_path", "a", "--task", "regression"]
    )
    for name, value in chosen:
        arguments += [f"--{name}", value]
    try:
        groups = parse(arguments)
        if parse is parse_arguments:
            read_overrides(groups[0].config_overrides)
    except InputError as error:
        assert str(error).strip()
    except SystemExit as error:  # argparse's own refusal, or --help
        assert error.code in (0, 2)
    capsys.readouterr()


@given(
    content=st.one_of(
        texts, st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
    )
)
@example(content="a: [")
@example(content="{a: !!python/object/apply:os.system ['touch owned']}")
def test_any_recipe_is_read_or_refused_in_words(tmp_path_factory, content):
    for suffix in (".yaml", ".json"):
        path = tmp_path_factory.getbasetemp() / f"recipe{suffix}"
        path.write_text(content, encoding="utf-8")
        try:
            assert isinstance(read_settings(path), dict)
        except InputError as error:
            assert path.name in str(error)
