"""New pieces in a tokenizer: which they are, how they are used, and what stays as it was."""

import json
from itertools import chain

import numpy as np
import pytest
from tokenizer_examples import unigram_tokenizer, word_end_tokenizer
from tokenizers import models
from trainer_examples import word_tokenizer
from transformers import AutoTokenizer, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

from span_electra.common.errors import InputError
from span_electra.common.vocabulary import NEW_PIECES, new_rows
from span_electra.masking.word_boundaries import word_starts, word_tables
from span_electra.tokenization.extend_tokenizer import extend_tokenizer, main
from span_electra.tokenization.train_tokenizer import train_tokenizer

GENERAL = "The old man sat in the card room, and the logic of it was a list of biology.\n" * 40
DOMAIN = "The cardiologist saw a cardiology list: cardiologists' cardiograms, the cardio room.\n" * 40
KINDS = ("WordPiece", "BPE", "Unigram", "BERT's", "RoBERTa's", "XLM-R's", "a mask beside the pieces", "w_end")


def tokenizer_of(kind, folder):
    """A tokenizer of general text that knows every character of the domain's."""
    text = folder / "general.txt"
    text.write_text(GENERAL + "gzuw:'.,-", encoding="utf-8")
    if kind in ("WordPiece", "BPE", "BERT's", "RoBERTa's"):
        trained = "BERT" if kind in ("WordPiece", "BERT's") else "BPE"
        tokenizer = train_tokenizer([text], folder / "trained", tokenizer_type=trained, vocab_size=305)
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        names = {name: getattr(tokenizer, name) for name in ("cls_token", "sep_token", "pad_token", "mask_token")}
        names["unk_token"] = tokenizer.unk_token
        if kind == "BERT's":
            tokenizer = BertTokenizer(vocab=model["vocab"], **names)
            tokenizer.backend_tokenizer.enable_truncation(8)  # as sentence-transformers save it
            return tokenizer
        if kind == "RoBERTa's":
            merges = [tuple(merge) for merge in model["merges"]]
            return RobertaTokenizer(vocab=model["vocab"], merges=merges, bos_token="[CLS]", eos_token="[SEP]", **names)
        return tokenizer
    if kind == "w_end":
        return word_end_tokenizer(GENERAL + "gzuw:'.,-", "</w>", vocab_size=90)
    tokenizer = unigram_tokenizer(GENERAL + "gzuw:'.,-")
    if kind == "Unigram":
        return tokenizer
    vocab = [tuple(piece) for piece in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]]
    if kind == "XLM-R's":
        return XLMRobertaTokenizer(vocab=vocab)
    backend = tokenizer.backend_tokenizer  # as in DeBERTaV3's: the mask has an id after those of the pieces
    backend.model = models.Unigram(vocab[:-1], unk_id=3)
    beside = type(tokenizer)(tokenizer_object=backend, unk_token="<unk>", cls_token="<s>", sep_token="</s>")
    beside.add_special_tokens({"mask_token": "<mask>", "pad_token": "<pad>"})
    return beside


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "domain.txt").write_text(DOMAIN, encoding="utf-8")
    (home / "words.txt").write_text("cardiologist\n\nbiology\ncardiograms\nolds\n", encoding="utf-8")
    for kind in KINDS:
        (home / kind).mkdir()
        tokenizer_of(kind, home / kind).save_pretrained(home / kind / "old")
    return home


def tokens(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def count_of_words(tokenizer, text):
    opens, closes, _ = word_tables(tokenizer)
    ids = np.array(tokenizer.encode(text, add_special_tokens=False))
    return len(word_starts(ids, np.array([0]), opens, closes, np.array([1000])))


@pytest.mark.parametrize("kind", KINDS)
def test_new_pieces_shorten_the_text_and_leave_all_others_as_they_were(home, tmp_path, kind):
    old = AutoTokenizer.from_pretrained(home / kind / "old")
    extend_tokenizer(old, tmp_path / "new", paths=[home / "domain.txt"], size=6)
    new = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert type(new) is type(old) and len(new) == len(old) + 6
    ids = new.get_vocab()
    assert {token: ids[token] for token in old.get_vocab()} == old.get_vocab()
    assert (new.mask_token_id, new.all_special_ids) == (old.mask_token_id, old.all_special_ids)
    made_of = new.init_kwargs[NEW_PIECES]
    assert made_of.keys() == ids.keys() - old.get_vocab().keys() and not made_of.keys() & {*new.all_special_tokens}
    before, after = tokens(old, DOMAIN), tokens(new, DOMAIN)
    assert made_of.keys() & {*after} and len(after) < 0.75 * len(before)
    assert [*chain.from_iterable(made_of.get(token, [token]) for token in after)] == before
    assert count_of_words(new, DOMAIN) == count_of_words(old, DOMAIN)
    assert new.decode(new.encode(DOMAIN)) == old.decode(old.encode(DOMAIN))
    assert tokens(new, "a [MASK] room".replace("[MASK]", new.mask_token)).count(new.mask_token) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_file_become_one_piece_that_serves_longer_words_too(home, tmp_path, kind):
    old = AutoTokenizer.from_pretrained(home / kind / "old")
    new = extend_tokenizer(old, tmp_path / "new", words=home / "words.txt")
    made_of = new.init_kwargs[NEW_PIECES]
    words = ("cardiologist", "cardiograms", "biology", "olds")
    parts, cut = ([tokens(each, f"a {word}")[1:] for word in words] for each in (new, old))
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    if kind not in ("BPE", "RoBERTa's", "w_end"):  # which has pieces on the way to them
        assert made_of == {new[0]: old for new, old in zip(parts, cut, strict=True) if len(old) > 1}
    if kind != "w_end":
        assert tokens(new, "a cardiologists")[1] == parts[0][0]


def test_words_and_text_give_pieces_that_are_made_of_old_ones(home, tmp_path):
    old = AutoTokenizer.from_pretrained(home / "BPE" / "old")
    source = {"paths": [home / "domain.txt"], "words": home / "words.txt"}
    new = extend_tokenizer(old, tmp_path / "new", size=3, **source)
    alone = extend_tokenizer(old, tmp_path / "words", words=home / "words.txt")
    made_of = new.init_kwargs[NEW_PIECES]
    assert len(made_of) == len(alone.init_kwargs[NEW_PIECES]) + 3
    assert {*chain.from_iterable(made_of.values())} <= old.get_vocab().keys()
    again = extend_tokenizer(old, tmp_path / "again", size=3, **source)
    assert again.get_vocab() == new.get_vocab()
    rows = new_rows(new, old)
    assert [*rows] == [*range(len(old), len(new))] and max(chain.from_iterable(rows.values())) < len(old)
    assert new_rows(new, alone) == {i: parts for i, parts in rows.items() if i >= len(alone)}
    added = AutoTokenizer.from_pretrained(home / "BPE" / "old")
    added.add_tokens(["cardio"])  # which is made of nothing
    assert new_rows(added, old) is None
    assert new_rows(old, old) == {} and new_rows(old, new) is None
    assert new_rows(new, AutoTokenizer.from_pretrained(home / "WordPiece" / "old")) is None


def test_no_piece_spans_words_or_holds_an_unknown_character_or_a_special_token(home, tmp_path):
    (tmp_path / "text.txt").write_text("the ☃ [MASK] broom the☃broom, [SEP]broom\n" * 40, encoding="utf-8")
    for kind in ("WordPiece", "BPE", "Unigram"):
        new = extend_tokenizer(home / kind / "old", tmp_path / kind, paths=[tmp_path / "text.txt"], size=1)
        (piece,) = new.init_kwargs[NEW_PIECES]
        assert "[" not in piece and "<" not in piece and len(piece.split()) == 1
    (tmp_path / "text.txt").write_text("☃☃x\n" * 40, encoding="utf-8")
    in_bytes = AutoTokenizer.from_pretrained(home / "Unigram" / "old")
    pieces = json.loads(in_bytes.backend_tokenizer.to_str())["model"]["vocab"]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in "☃x".encode()]
    in_bytes.backend_tokenizer.model = models.Unigram([*map(tuple, pieces)], unk_id=3, byte_fallback=True)
    for tokenizer in (home / "Unigram" / "old", in_bytes):
        with pytest.raises(InputError, match="needs only 0 new pieces"):
            extend_tokenizer(tokenizer, tmp_path / "none", paths=[tmp_path / "text.txt"], size=1)


def test_tokens_beside_the_pieces_of_byte_pair_encoding_keep_their_ids(home, tmp_path):
    old = AutoTokenizer.from_pretrained(home / "BPE" / "old")
    old.add_special_tokens({"mask_token": "<mask>"})  # as ModernBERT has its special tokens
    new = extend_tokenizer(old, tmp_path / "new", paths=[home / "domain.txt"], size=6)
    assert new.mask_token_id == old.mask_token_id == len(old) - 1 and len(new) == len(old) + 6


REFUSED = {
    "no pieces": (["--size", "0"], r"size is 0\. .*1 or more"),
    "fewer pieces": (["--size", "-3"], r"size is -3\. .*1 or more"),
    "no text": (["--size", "3", "--input", "{home}/missing.txt"], r"missing\.txt: no such file"),
    "nothing to read": (["--size", "3"], r"no input: give at least one file"),
    "a text that needs fewer": (
        ["--size", "9000", "--input", "{home}/domain.txt"],
        r"The text needs only \d+ new pieces, not 9000.*Ask for no more than that, or give more text",
    ),
    "no such words": (["--words", "{home}/missing.txt"], r"missing\.txt"),
    "words that are cut": (["--words", "{home}/cut.txt"], r"cut\.txt, line 2: .* always cuts 'old-man' \(old - man\)"),
    "words that are pieces": (["--words", "{home}/old.txt"], r"old\.txt: holds no word that the tokenizer cuts"),
    "unknown words": (["--words", "{home}/snow.txt"], r"line 1: 'snow☃' .*characters that the tokenizer does not"),
    "an invisible word": (["--words", "{home}/nothing.txt"], r"nothing\.txt, line 2: '\\u200b' .*characters"),
    "a tokenizer of words": (["--size", "3", "--tokenizer", "{home}/words"], r"a WordLevel tokenizer.*BPE, WordPiece"),
    "a model's folder": (["--size", "3", "--output_dir", "{home}/model"], r"model: already holds something else"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(home, tmp_path, case):
    files = {"cut.txt": "cardio\nold-man\n", "old.txt": "old\n", "snow.txt": "snow☃\n", "domain.txt": DOMAIN}
    files["nothing.txt"] = "cardio\n\u200b\n"  # the tokenizer drops this space without a width
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    word_tokenizer().save_pretrained(tmp_path / "words")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("weights")
    options, message = REFUSED[case]
    before = sorted(tmp_path.rglob("*"))
    defaults = ["--tokenizer", str(home / "WordPiece" / "old"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises((InputError, FileNotFoundError), match=message):
        main([*defaults, *(option.replace("{home}", str(tmp_path)) for option in options)])
    assert sorted(tmp_path.rglob("*")) == before
