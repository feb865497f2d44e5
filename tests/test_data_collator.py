"""Span masking: its properties over many rows, its loop-written twin, its independence of workers, its errors."""

import copy
import doctest
import pickle
import re
from itertools import pairwise
from math import floor

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizer_examples import word_end_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from trainer_examples import chained
from transformers import PreTrainedTokenizerFast

from span_electra import data_collator
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.masking import spans as span_sampling
from span_electra.masking.randomness import random_bits, row_keys
from span_electra.masking.spans import candidate_spans, runs, sample_span_mask, span_length_tables, span_lengths
from span_electra.masking.word_boundaries import word_starts, word_tables

SPECIAL = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
TEXT = """We hold these truths to be self-evident, that all men are created equal; don't they say so? In 1776 the
colonies wrote: "When in the course of human events", it's said (see §3, p. 42), they'd had enough. Prices rose 3.5%
to €20 — naïve coöperation won't help; über-cautious folks paid   $1,000 anyway!\n\nПривет мир, как дела? क्या हाल है
Go to https://example.org/a/b?c=d for the rest... 漢字はここにある。"""
MASK64 = 2**64 - 1


def fast(backend, **kwargs):
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(names | kwargs))


def wordpiece_tokenizer(pieces=400, continuing=0.35):
    """A vocabulary of made-up pieces, a third of which continue a word; [CLS] ... [UNK] are ids 0 to 4."""
    vocabulary = SPECIAL + [("##" if i % 100 < 100 * continuing else "") + f"w{i}" for i in range(pieces)]
    model = models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    return fast(Tokenizer(model))


@pytest.fixture(scope="module")
def wordpiece():
    return wordpiece_tokenizer()


@pytest.fixture(scope="module")
def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT] * 3, trainer)
    return fast(backend)


def make_rows(count, shortest=3, longest=128, vocabulary=405, seed=0, special_share=0.02):
    """[CLS], random ordinary tokens with a few [SEP] and [UNK] among them, [SEP]."""
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(shortest, longest + 1, count):
        row = random.integers(len(SPECIAL), vocabulary, length)
        row[random.random(length) < special_share] = random.choice([1, 4])
        row[0], row[-1] = 0, 1
        rows.append(row)
    return rows


def collate(collator, rows):
    return collator([{"input_ids": row} for row in rows])


def masked_rows(collator, rows):
    """For each row whether each of its tokens is masked, without the padding."""
    labels = collate(collator, rows)["labels"].numpy()
    return [labels[i, : len(row)] != -100 for i, row in enumerate(rows)]


def spans_of(mask):
    return list(zip(*(edges.tolist() for edges in runs(mask)), strict=True))


# --- the naive twin: the same random numbers, one row, one word, one span at a time, in Python's own integers -----


def naive_mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK64
    return x ^ (x >> 31)


def naive_bits(key, purpose, counter):
    return naive_mix((naive_mix((key + purpose) & MASK64) + counter * 0x9E3779B97F4A7C15) & MASK64)


def naive_key(row, seed, epoch):
    content = sum((token + 1) * (naive_mix(i + 1) | 1) for i, token in enumerate(row)) & MASK64
    origin = naive_mix((naive_mix(seed) + epoch) & MASK64)
    return naive_mix((naive_mix(content) + origin) & MASK64)


def naive_words(row, opens, closes, longest=10):
    words = []
    for i, token in enumerate(row):
        if i and opens[token] & closes[row[i - 1]]:
            words[-1].append(i)
        else:
            words.append([i])
    return [part for word in words for part in ([word] if len(word) <= longest else [[i] for i in word])]


def naive_attempt(words, maskable, budget, key, tables):
    lengths, parts_inside = tables
    gap = int(parts_inside[naive_bits(key, 1, 0) >> 48])
    free, counter = list(maskable), 1
    while gap < len(words):
        free[gap] = False
        gap += int(lengths[naive_bits(key, 1, counter) >> 48]) + 1
        counter += 1

    candidates = []
    for word in range(len(words)):
        if free[word]:
            if free[word - 1]:
                candidates[-1].append(word)
            else:
                candidates.append([word])
    candidates.sort(key=lambda span: naive_bits(key, 2, span[0]) >> 20)
    masked, left = set(), budget
    for span in candidates:
        if left <= 0:
            break
        room = left
        left -= sum(len(words[word]) for word in span)
        skipped = (naive_bits(key, 8, 0) >> 32) * (1 - left) >> 32 if left < 0 else 0
        before = 0
        for word in span:
            if before >= skipped:
                room -= len(words[word])
                if room < 0:
                    break
                masked.add(word)
            before += len(words[word])
    left = budget - sum(len(words[word]) for word in masked)

    while left:
        fitting = [
            word
            for word in range(len(words))
            if maskable[word] and len(words[word]) <= left and not {word - 1, word, word + 1} & masked
        ]
        if not fitting:
            break
        best = max(fitting, key=lambda word: (len(words[word]) == left, naive_bits(key, 3, word) >> 1))
        masked.add(best)
        left -= len(words[best])
    return masked, left


def naive_collate_row(row, collator, epoch=0, budget=None):
    """Return the corrupted row and its labels; `budget` is how many tokens to mask, if it is not the row's own."""
    row = [int(token) for token in row]
    key = naive_key(row, collator.seed, epoch)
    if budget is None:
        (budget,) = naive_budgets([row], collator, epoch)
    words = naive_words(row, collator.opens, collator.closes, min(max(budget, 1), 10))
    ordinary = [bool(collator.ordinary[row[word[0]]]) for word in words]
    maskable = [o and 0 < i < len(words) - 1 for i, o in enumerate(ordinary)]
    budget = min(budget, sum(len(word) for word, m in zip(words, maskable, strict=True) if m))

    masked, left = naive_attempt(words, maskable, budget, key, collator.length_tables)
    for attempt in range(1, span_sampling.ATTEMPTS):
        if left:
            new_key = naive_mix((key + attempt) & MASK64)
            again, still_left = naive_attempt(words, maskable, budget, new_key, collator.length_tables)
            if still_left < left:
                masked, left = again, still_left

    corrupted, labels, kind = list(row), [-100] * len(row), None
    for i, word in enumerate(words):
        if i in masked:
            if i - 1 not in masked:
                share = (naive_bits(key, 4, word[0]) >> 11) * 2.0**-53
                shares = collator.mask_token_share, collator.mask_token_share + collator.random_token_share
                kind = "mask" if share < shares[0] else "random" if share < shares[1] else "keep"
            for token in word:
                labels[token] = row[token]
                if kind == "mask":
                    corrupted[token] = collator.mask_token_id
                if kind == "random":
                    ids = collator.random_token_ids
                    corrupted[token] = int(ids[(naive_bits(key, 5, token) >> 32) * len(ids) >> 32])
    return corrupted, labels


@pytest.mark.parametrize(("ratio", "max_words"), [(0.15, 10), (0.5, 10), (0.9, 3)])
def test_batches_equal_the_loop_written_twin_bit_for_bit(wordpiece, ratio, max_words):
    collator = DataCollatorForSpanMasking(wordpiece, mask_ratio=ratio, max_span_words=max_words, seed=5)
    collator.set_epoch(3)
    rows = make_rows(200, shortest=1, longest=60)
    batch = collate(collator, rows)
    for i, row in enumerate(rows):
        corrupted, labels = naive_collate_row(row, collator, epoch=3)
        assert batch["input_ids"][i, : len(row)].tolist() == corrupted
        assert batch["labels"][i, : len(row)].tolist() == labels


def naive_budgets(documents, collator, epoch):
    """How many tokens to mask in each document of a row."""
    ordinary = [sum(bool(collator.ordinary[token]) for token in document) for document in documents]
    total = sum(ordinary)
    chance = (naive_bits(naive_key(chained(documents), collator.seed, epoch), 7, 0) >> 48) / 2**16
    share = max(collator.mask_ratio * total, 1)
    ends = [floor(sum(ordinary[:i]) * share / max(total, 1) + chance) for i in range(len(documents) + 1)]
    return [end - start for start, end in pairwise(ends)]


def naive_collate_shared(documents, collator, epoch=0):
    """Return the corrupted ids and the labels of a row of several documents, each document's apart."""
    parts = naive_budgets(documents, collator, epoch)
    return [
        naive_collate_row(document, collator, epoch, part) for document, part in zip(documents, parts, strict=True)
    ]


# --- properties ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.6])
def test_budgets_are_exact_on_ordinary_rows(wordpiece, ratio):
    rows = make_rows(4000, shortest=40)
    collator = DataCollatorForSpanMasking(wordpiece, mask_ratio=ratio)
    ordinary = np.array([collator.ordinary[row].sum() for row in rows])
    counts = np.array([mask.sum() for mask in masked_rows(collator, rows)])
    rounded_up = counts - np.floor(ratio * ordinary)
    assert (rounded_up <= 1).all()
    assert (rounded_up < 0).sum() <= (0 if ratio < 0.5 else 8)
    assert counts.sum() == pytest.approx(ratio * ordinary.sum(), rel=0.003)


def best_by_search(sizes, maskable, budget, max_words):
    """The largest number of tokens, at most the budget, in whole words of which no more than max_words adjoin."""
    best, states = 0, {(0, 0)}  # (tokens, masked words just before)
    for size, allowed in zip(sizes, maskable, strict=True):
        states = {(t, 0) for t, _ in states} | {
            (t + size, run + 1) for t, run in states if allowed and run < max_words and t + size <= budget
        }
        best = max(best, *(t for t, _ in states))
    return best


def test_short_rows_meet_their_budget_wherever_whole_words_can():
    tables = span_length_tables(0.2, 10)
    random = np.random.default_rng(1)
    row_words = random.integers(3, 15, 5000)
    first = np.cumsum(row_words) - row_words
    sizes = random.choice([1, 2, 3, 4], row_words.sum(), p=[0.4, 0.3, 0.2, 0.1])
    maskable = random.random(sizes.size) < 0.95
    maskable[first] = maskable[first + row_words - 1] = False
    budgets = np.maximum(1, np.rint(0.15 * np.add.reduceat(sizes, first))).astype(int)
    masked = sample_span_mask(sizes, maskable, row_words, budgets, np.arange(5000, dtype=np.uint64), tables)
    counts = np.add.reduceat(sizes * masked, first)
    best = [
        best_by_search(sizes[f : f + n], maskable[f : f + n], b, 10)
        for f, n, b in zip(first, row_words, budgets, strict=True)
    ]
    assert (counts <= best).all()
    assert (counts < best).sum() <= 2  # chance did not find it in all its attempts


def test_masks_are_whole_words_between_visible_tokens_and_spare_special_tokens(wordpiece):
    rows = make_rows(4000, shortest=1, special_share=0.05)
    rows += [row[1:-1] for row in make_rows(2000, seed=1)]  # no special tokens at the ends
    collator = DataCollatorForSpanMasking(wordpiece)
    for row, mask in zip(rows, masked_rows(collator, rows), strict=True):
        assert not mask[0] and not mask[-1]
        assert not mask[row < len(SPECIAL)].any()
        budget = max(1, floor(0.15 * collator.ordinary[row].sum()))
        for word in naive_words(row, collator.opens, collator.closes, min(budget, 10)):
            assert mask[word].all() or not mask[word].any()


def test_no_span_is_longer_than_ten_words(wordpiece):
    collator = DataCollatorForSpanMasking(wordpiece, mask_ratio=0.5)
    rows = make_rows(500, shortest=100)
    for row, mask in zip(rows, masked_rows(collator, rows), strict=True):
        starts = {word[0] for word in naive_words(row, collator.opens, collator.closes)}
        assert all(len(starts & set(range(*span))) <= 10 for span in spans_of(mask))


def test_single_words_are_masked_when_the_longest_span_is_one_word(wordpiece):
    collator = DataCollatorForSpanMasking(wordpiece_tokenizer(continuing=0), max_span_words=1)
    masks = masked_rows(collator, make_rows(300))
    assert {end - start for mask in masks for start, end in spans_of(mask)} == {1}


def test_single_tokens_are_masked_when_words_count_for_nothing():
    tokenizer = wordpiece_tokenizer(continuing=0.5)
    collator = DataCollatorForSpanMasking(tokenizer, max_span_words=1, whole_words=False)
    opens, closes, _ = word_tables(tokenizer)
    rows = make_rows(300, shortest=40)
    parts_of_words = 0
    for row, mask in zip(rows, masked_rows(collator, rows), strict=True):
        assert {end - start for start, end in spans_of(mask)} == {1}
        words = [set(word) for word in naive_words(row, opens, closes)]
        masked = set(np.flatnonzero(mask))
        parts_of_words += sum(bool(word & masked) and not word <= masked for word in words)
    assert parts_of_words > 1000


def test_labels_are_the_original_ids_and_visible_tokens_are_unchanged(wordpiece):
    rows = make_rows(500)
    batch = collate(DataCollatorForSpanMasking(wordpiece), rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "sampling_keys"}
    dtypes = {name: tensor.dtype for name, tensor in batch.items()}
    assert dtypes.pop("sampling_keys") == torch.int32 and set(dtypes.values()) == {torch.int64}
    for i, row in enumerate(rows):
        labels = batch["labels"][i].numpy()
        mask = labels != -100
        assert (labels[mask] == row[mask[: len(row)]]).all()
        visible = ~mask[: len(row)]
        assert (batch["input_ids"][i, : len(row)].numpy()[visible] == row[visible]).all()
        assert batch["attention_mask"][i].tolist() == [1] * len(row) + [0] * (len(labels) - len(row))
        assert (batch["input_ids"][i, len(row) :] == 2).all() and not mask[len(row) :].any()


def test_drawn_lengths_follow_the_truncated_geometric_distribution():
    tables = span_length_tables(0.2, 10)
    keys = row_keys(np.arange(1000), np.ones(1000, dtype=int), seed=0, epoch=0)
    drawn = span_lengths(random_bits(keys[:, None], 1, np.arange(100)), tables[0]).ravel()
    probability = 0.2 * 0.8 ** np.arange(10.0)
    probability /= probability.sum()
    assert drawn.mean() == pytest.approx(3.8, abs=0.03)
    assert stats.chisquare(np.bincount(drawn, minlength=11)[1:], probability * drawn.size).pvalue > 1e-3


def test_final_spans_are_hardly_shorter_than_drawn_ones_on_long_rows():
    collator = DataCollatorForSpanMasking(wordpiece_tokenizer(continuing=0))
    masks = masked_rows(collator, make_rows(500, shortest=512, longest=512, special_share=0))
    lengths = [end - start for mask in masks for start, end in spans_of(mask)]
    assert 3.5 < np.mean(lengths) < 3.8  # the budget cuts one span in each row


@pytest.mark.parametrize("words", [30, 64])
def test_all_words_are_masked_with_nearly_equal_probability(words):
    collator = DataCollatorForSpanMasking(wordpiece_tokenizer(continuing=0))
    rows = make_rows(10_000, shortest=words + 2, longest=words + 2, special_share=0)
    share = np.mean(masked_rows(collator, rows), axis=0)[1:-1]
    assert share.mean() == pytest.approx(0.15, rel=0.003)
    # Ten words at either end and the middle agree within five standard errors of a tenth of a row.
    error = 5 * np.sqrt(0.15 * 0.85 / 10_000 / 10 * 3.8)
    middle = words // 2
    for part in (share[:10], share[:2], share[middle - 5 : middle + 5], share[-10:], share[-2:]):
        assert abs(part.mean() - 0.15) < error * np.sqrt(10 / part.size)


@pytest.mark.parametrize("documents", [1, 6])
def test_neither_end_of_a_short_row_or_document_is_masked_much_more_than_its_middle(documents):
    collator = DataCollatorForSpanMasking(wordpiece_tokenizer(continuing=0))
    row = 10 * documents
    rows = make_rows(6000, shortest=row, longest=row, special_share=0)
    for ids in rows:
        ids[::10], ids[9::10] = 0, 1  # ten tokens each, with [CLS] and [SEP]
    share = np.mean(masked_rows(collator, rows), axis=0).reshape(documents, 10)[:, 1:-1].mean(axis=0)
    assert share.mean() == pytest.approx(0.15, rel=0.01)
    assert share.max() < 1.25 * 0.15 and share.min() > 0.75 * 0.15


def test_candidates_cover_every_word_with_equal_probability():
    row_words = np.full(20_000, 30)
    maskable = np.tile(np.r_[False, np.ones(28, bool), False], 20_000)
    keys = row_keys(np.arange(20_000), np.ones(20_000, dtype=int), 0, 0)
    starts, ends = candidate_spans(maskable, np.arange(20_000) * 30, row_words, keys, span_length_tables(0.2, 10))
    covered = np.cumsum(np.bincount(starts, minlength=600_000) - np.bincount(ends, minlength=600_000))
    share = covered.reshape(20_000, 30).mean(0)[1:-1]
    mean = 3.797 / 4.797  # a span of 3.8 words, then a gap of one
    assert np.abs(share - mean).max() < 5 * np.sqrt(mean * (1 - mean) / 20_000)


def test_spans_are_replaced_as_a_whole_by_80_10_10(wordpiece):
    rows = make_rows(4000, shortest=64)
    collator = DataCollatorForSpanMasking(wordpiece)
    batch = collate(collator, rows)
    counts = {"mask": 0, "random": 0, "keep": 0}
    drawn = []
    for row, ids, labels in zip(rows, batch["input_ids"].numpy(), batch["labels"].numpy(), strict=True):
        for start, end in spans_of(labels[: len(row)] != -100):
            new, old = ids[start:end], row[start:end]
            kind = "mask" if (new == 3).all() else "keep" if (new == old).all() else "random"
            counts[kind] += 1
            if kind == "random":
                assert 3 not in new
                drawn.extend(new)
    total = sum(counts.values())
    assert stats.binomtest(counts["mask"], total, 0.8).pvalue > 1e-3
    assert stats.binomtest(counts["random"], total, 0.1).pvalue > 1e-3
    assert min(drawn) >= len(SPECIAL) and max(drawn) == 404
    frequency = np.bincount(drawn, minlength=405)[5:]
    assert stats.chisquare(frequency).pvalue > 1e-3


def test_shares_can_be_those_of_electra(wordpiece):
    batch = collate(DataCollatorForSpanMasking(wordpiece, mask_token_share=1, random_token_share=0), make_rows(50))
    assert (batch["input_ids"][batch["labels"] != -100] == 3).all()


def test_added_tokens_are_never_drawn_and_added_special_tokens_never_masked():
    tokenizer = wordpiece_tokenizer(pieces=10)
    tokenizer.add_tokens(["covid"])
    tokenizer.add_special_tokens({"bos_token": "<doc>"})
    collator = DataCollatorForSpanMasking(tokenizer)
    covid, doc = tokenizer.convert_tokens_to_ids(["covid", "<doc>"])
    assert collator.ordinary[covid] and not collator.ordinary[doc]
    assert collator.random_token_ids.tolist() == list(range(5, 15))


# --- words --------------------------------------------------------------------------------------------------------


def words_of(tokenizer, text):
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    opens, closes, _ = word_tables(tokenizer)
    starts = word_starts(ids, np.array([0]), opens, closes, np.array([10]))
    return [tokenizer.decode(part) for part in np.split(ids, starts[1:])]


def test_byte_level_words_are_the_pieces_of_the_gpt2_pre_tokenizer(byte_level):
    text = "It's 1776: they'd say \"don't!\" (see p. 42);  naïve folks paid   $1,000.50, don'tcha"
    expected = [text[slice(*span)] for _, span in pre_tokenizers.ByteLevel(False).pre_tokenize_str(text)]
    assert words_of(byte_level, text) == expected


def test_byte_level_words_are_the_same_if_a_space_goes_before_the_text(byte_level):
    spaced = copy.deepcopy(byte_level)  # what train_tokenizer writes
    space_first = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False)
    spaced.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([space_first, pre_tokenizers.ByteLevel(False)])
    text = "It's 1776: they'd say \"don't!\" (see p. 42);  naïve folks"
    assert words_of(spaced, text) == words_of(byte_level, f" {text}")


def test_byte_level_words_keep_characters_of_many_bytes_and_vowel_signs_together(byte_level):
    assert words_of(byte_level, "мир क्या") == ["мир", " क्या"]


def test_tokens_that_are_no_bytes_have_words_too():
    pieces = ["a", "\u0120a", "\u2581a", " ", ""]  # the third and the fourth are of another kind of tokenizer
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*SPECIAL, *pieces])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    opens, closes, _ = word_tables(fast(backend))
    starts = word_starts(np.array([6, 5, 8, 5, 7, 9, 5]), np.array([0]), opens, closes, np.array([10]))
    assert starts.tolist() == [0, 2, 4, 5, 6]


def test_wordpiece_words_follow_the_continuing_prefix():
    pieces = [*SPECIAL, "un", "@@able", "able", ",", "."]
    model = models.WordPiece(
        {piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]", continuing_subword_prefix="@@"
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    opens, closes, _ = word_tables(fast(backend))
    ids = np.array(fast(backend)("Unable, able..")["input_ids"])
    assert ids.tolist() == [5, 6, 8, 7, 9, 9]
    assert word_starts(ids, np.array([0]), opens, closes, np.array([10])).tolist() == [0, 2, 3, 4, 5]


def test_sentencepiece_words_start_at_the_marker():
    pieces = [*SPECIAL, "▁he", "llo", "▁", "w"]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=4))
    opens, closes, _ = word_tables(fast(backend))
    assert word_starts(np.array([5, 6, 7, 8, 6, 5]), np.array([0]), opens, closes, np.array([10])).tolist() == [
        0,
        2,
        5,
    ]


@pytest.mark.parametrize("kind", ["Unigram", "BPE", "</w>"])
def test_words_end_where_the_vocabulary_marks_their_ends(kind):
    text = "the older house by the river and the oldest boat"
    tokenizer = word_end_tokenizer("\n".join([text, "a house", "an older boat rowed"] * 5), kind, vocab_size=42)
    words = [word.strip() for word in words_of(tokenizer, text)]
    assert len(tokenizer.tokenize(text)) > len(words)
    assert words == text.split()
    collator, row = DataCollatorForSpanMasking(tokenizer, mask_ratio=0.4), tokenizer(text)["input_ids"]
    (mask,) = masked_rows(collator, [np.array(row)])
    flags = iter(mask[1:-1])
    by_word = [{bool(next(flags)) for _ in tokenizer.tokenize(word)} for word in text.split()]
    assert all(len(found) == 1 for found in by_word) and {True} in by_word


def test_byte_level_tokens_that_mark_the_end_of_words_are_read_by_that_mark():
    pieces = ["the</w>", "ho", "use</w>", ".</w>", "!</w>"]  # CLIP's kind
    model = models.BPE({piece: i for i, piece in enumerate([*SPECIAL, *pieces])}, [], end_of_word_suffix="</w>")
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    opens, closes, _ = word_tables(fast(backend))
    starts = word_starts(np.array([5, 6, 7, 8, 9]), np.array([0]), opens, closes, np.array([10]))
    assert starts.tolist() == [0, 1, 3, 4]


def test_a_run_of_more_than_ten_tokens_counts_every_token_as_a_word(wordpiece):
    opens, closes, _ = word_tables(wordpiece)
    word, part = 5 + 50, 5  # w50 and ##w0
    row = np.array([word, *[part] * 9, word, *[part] * 10, word, part])
    starts = word_starts(row, np.array([0]), opens, closes, np.array([10]))
    assert starts.tolist() == [0, *range(10, 21), 21]


def test_words_are_masked_however_many_tokens_they_have_and_however_few_there_are_to_mask():
    tokenizer = wordpiece_tokenizer(continuing=0.6)
    collator = DataCollatorForSpanMasking(tokenizer)
    rows = make_rows(5000, shortest=32, longest=32, special_share=0)
    masked, total = np.zeros((2, 33))
    for row, mask in zip(rows, masked_rows(collator, rows), strict=True):
        for word in naive_words(row, collator.opens, collator.closes):
            masked[len(word)] += mask[word].sum()
            total[len(word)] += len(word)
    shares = masked[1:10] / total[1:10]  # 4 or 5 tokens of a row are masked
    assert shares.min() > 0.05, shares


@pytest.mark.slow
def test_a_row_masks_its_share_on_average_where_rounding_would_always_go_one_way(wordpiece):
    row = np.array([0, *range(50, 80), 1])  # 0.15 times 30 is 4.5
    counts = {}
    for seed in range(1000):
        (mask,) = masked_rows(DataCollatorForSpanMasking(wordpiece, seed=seed), [row])
        counts[int(mask.sum())] = counts.get(int(mask.sum()), 0) + 1
    assert set(counts) == {4, 5} and 420 < counts[4] < 580


def test_a_tokenizer_without_word_breaks_gets_a_warning():
    tokenizer = fast(Tokenizer(models.BPE({piece: i for i, piece in enumerate([*SPECIAL, "a"])}, [])))
    with pytest.warns(UserWarning, match="Cannot tell where words start in this BPE tokenizer"):
        DataCollatorForSpanMasking(tokenizer)


# --- the address of randomness ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_masks_do_not_depend_on_the_batch_its_order_or_its_padding(wordpiece):
    rows = make_rows(300)
    unpadded = DataCollatorForSpanMasking(wordpiece)
    for side in ("right", "left"):
        tokenizer = wordpiece_tokenizer()
        tokenizer.padding_side = side
        collator = DataCollatorForSpanMasking(tokenizer, pad_to_multiple_of=64)
        together = collate(collator, rows[::-1])
        assert together["labels"].shape[1] == 128
        assert together["attention_mask"][:, 0].all()  # padding comes last, whatever the tokenizer says
        for name in ("input_ids", "labels"):
            for row, values, real in zip(rows[::-1], together[name], together["attention_mask"].bool(), strict=True):
                alone = collate(unpadded, [row])
                assert torch.equal(alone[name][0], values[real])


def test_masks_differ_between_epochs_and_seeds_and_repeat_for_the_same_ones(wordpiece):
    rows = make_rows(300, shortest=64)

    def mask(seed, epoch):
        collator = DataCollatorForSpanMasking(wordpiece, seed=seed)
        collator.set_epoch(epoch)
        return np.concatenate(masked_rows(collator, rows))

    base = mask(0, 0)
    assert (base == mask(0, 0)).all()
    for other in (mask(0, 1), mask(1, 0), mask(1, 1), mask(-1, 0)):
        overlap = (base & other).sum() / base.sum()
        assert 0.12 < overlap < 0.18  # two independent masks share 15 % of their tokens


def test_sampling_keys_are_of_the_row_the_seed_and_the_epoch(wordpiece):
    rows = make_rows(300)

    def keys(rows, seed=0, epoch=0):
        collator = DataCollatorForSpanMasking(wordpiece, seed=seed)
        collator.set_epoch(epoch)
        return collate(collator, rows)["sampling_keys"].tolist()

    base = keys(rows)
    assert len(set(base)) == 300 and min(base) < -(2**30) and max(base) > 2**30
    assert keys(rows[:7]) == base[:7]
    assert not set(base) & set(keys(rows, seed=1)) and not set(base) & set(keys(rows, epoch=1))


def features(count=96):
    return [{"input_ids": row, "text": "ignored"} for row in make_rows(count, longest=40)]


def epoch_of(loader):
    return [batch["labels"] for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes")
@pytest.mark.parametrize("workers", [2, 8])
def test_masks_are_the_same_with_any_number_of_workers(wordpiece, workers):
    collator = DataCollatorForSpanMasking(wordpiece)
    alone = epoch_of(DataLoader(features(), batch_size=6, collate_fn=collator))
    shared = epoch_of(DataLoader(features(), batch_size=6, collate_fn=collator, num_workers=workers))
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_persistent_workers_see_a_new_epoch(wordpiece, context):
    collator = DataCollatorForSpanMasking(wordpiece)
    loader = DataLoader(
        features(),
        batch_size=6,
        collate_fn=collator,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    for epoch in (0, 1, 2):
        collator.set_epoch(epoch)
        fresh = DataCollatorForSpanMasking(wordpiece)
        fresh.set_epoch(epoch)
        expected = epoch_of(DataLoader(features(), batch_size=6, collate_fn=fresh))
        assert all(torch.equal(a, b) for a, b in zip(epoch_of(loader), expected, strict=True))


def test_a_copy_has_an_epoch_of_its_own(wordpiece):
    collator = DataCollatorForSpanMasking(wordpiece)
    collator.set_epoch(4)
    for twin in (copy.deepcopy(collator), pickle.loads(pickle.dumps(collator))):
        assert twin._epoch == 4 and twin._epoch.is_shared()
        twin.set_epoch(5)
        assert collator._epoch == 4


# --- rows in, tensors out -----------------------------------------------------------------------------------------


def test_the_docstring_shows_what_really_comes_out():
    assert doctest.testmod(data_collator).failed == 0
    assert doctest.testmod(data_collator).attempted > 5


def test_lists_arrays_and_tensors_give_the_same_batch(wordpiece):
    rows = make_rows(20)
    collator = DataCollatorForSpanMasking(wordpiece)
    expected = collate(collator, rows)
    for kind in (list, torch.tensor, lambda row: row.astype(np.int32), lambda row: row.astype(np.uint16)):
        batch = collate(collator, [kind(row) for row in rows])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_places_begin_anew_where_documents_share_a_row(wordpiece):
    cls, sep, ids = wordpiece.cls_token_id, wordpiece.sep_token_id, list(range(10, 15))
    collator = DataCollatorForSpanMasking(wordpiece)
    shared, alone = [cls, *ids, sep, cls, *ids[:2], sep], [cls, *ids, sep]
    batch = collator([{"input_ids": alone}, {"input_ids": shared}])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]]
    assert "position_ids" not in collator([{"input_ids": alone}, {"input_ids": alone}])


def shared_rows(count, longest_document=30, seed=0):
    """Rows of several documents each: [CLS], random ordinary tokens, [SEP]."""
    draw = np.random.default_rng(seed)
    return [
        [[0, *draw.integers(5, 405, draw.integers(1, longest_document + 1)).tolist(), 1] for _ in range(documents)]
        for documents in draw.integers(1, 7, count)
    ]


def test_rows_of_two_epochs_in_which_documents_share_a_row_are_masked_each_for_its_own(wordpiece):
    documents = [wordpiece.cls_token_id, *range(20, 30), wordpiece.sep_token_id] * 2
    collator = DataCollatorForSpanMasking(wordpiece)
    rows = [{"input_ids": documents, "epoch": epoch} for epoch in (3, 0)]
    mixed = collator(rows)["labels"]
    for row, labels in zip(rows, mixed, strict=True):
        assert torch.equal(collator([row])["labels"][0], labels)
    assert not torch.equal(*mixed)


def test_documents_that_share_a_row_equal_the_loop_written_twin_bit_for_bit(wordpiece):
    collator = DataCollatorForSpanMasking(wordpiece, seed=3)
    rows = shared_rows(200)
    batch = collator([{"input_ids": chained(documents), "epoch": 2} for documents in rows])
    for i, documents in enumerate(rows):
        corrupted, labels = map(chained, zip(*naive_collate_shared(documents, collator, epoch=2), strict=True))
        assert batch["input_ids"][i, : len(corrupted)].tolist() == corrupted
        assert batch["labels"][i, : len(labels)].tolist() == labels
    assert len(batch["sampling_keys"]) == 200


def test_a_row_of_documents_masks_what_a_row_does_however_short_they_are(wordpiece):
    collator = DataCollatorForSpanMasking(wordpiece)
    for words in range(1, 28):
        documents = [[0, *range(50, 50 + words), 1]] * 12
        labels = collator([{"input_ids": chained(documents)}])["labels"]
        assert abs((labels != -100).sum() - 0.15 * 12 * words) < 1


@pytest.mark.slow
def test_no_document_of_a_row_is_masked_more_than_another_of_its_length(wordpiece):
    document = [0, *range(50, 54), 1]
    counts = np.zeros(6)
    for seed in range(2000):
        labels = DataCollatorForSpanMasking(wordpiece, seed=seed)([{"input_ids": document * 6}])["labels"]
        masked = (labels.view(6, len(document)) != -100).sum(1).numpy()
        assert masked.sum() in (3, 4) and masked.max() == 1
        counts += masked
    assert np.abs(counts / 2000 - 0.6).max() < 5 * np.sqrt(0.24 / 2000)


def test_a_second_separator_begins_no_sequence(wordpiece):
    cls, sep = wordpiece.cls_token_id, wordpiece.sep_token_id
    collator = DataCollatorForSpanMasking(wordpiece)
    assert "position_ids" not in collator([{"input_ids": [cls, 10, 11, sep, 12, 13, sep]}])
    collator.cls_token_id = collator.sep_token_id  # a tokenizer with one token for both
    assert "position_ids" not in collator([{"input_ids": [sep, 10, sep, sep, 12, sep]}])


def test_rows_without_a_maskable_word_come_back_as_they_are(wordpiece):
    rows = [np.array(row) for row in ([0], [0, 1], [100], [0, 4, 1], [100, 5])]
    batch = collate(DataCollatorForSpanMasking(wordpiece), rows)
    assert (batch["labels"] == -100).all()
    assert batch["input_ids"][4].tolist() == [100, 5, 2]


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 0}, "mask_ratio=0 is not between 0 and 1 (both excluded); BERT's is 0.15."),
        ({"mask_ratio": 15}, "mask_ratio=15 is not between 0 and 1 (both excluded)"),
        ({"span_p": 0}, "span_p=0 is not in (0, 1]; SpanBERT's is 0.2"),
        ({"max_span_words": 0}, "max_span_words=0 is less than 1; use 1 to mask single words."),
        ({"mask_token_share": 0.95}, "mask_token_share=0.95 and random_token_share=0.1 must each be at least 0"),
        ({"random_token_share": -1}, "together at most 1; BERT's are 0.8 and 0.1"),
    ],
)
def test_a_value_out_of_range_is_named(wordpiece, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DataCollatorForSpanMasking(wordpiece, **arguments)


@pytest.mark.parametrize("role", ["mask", "pad"])
def test_a_tokenizer_without_mask_or_pad_token_is_refused(wordpiece, role):
    tokenizer = wordpiece_tokenizer()
    setattr(tokenizer, f"{role}_token", None)
    with pytest.raises(ValueError, match=f"no {role}_token.*add_special_tokens"):
        DataCollatorForSpanMasking(tokenizer)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"object: a slow tokenizer.*tokenizer\.json"):
        DataCollatorForSpanMasking(object())


@pytest.mark.parametrize("wrong", [405, -1])
def test_an_id_outside_the_vocabulary_is_named(wordpiece, wrong):
    with pytest.raises(ValueError, match=rf"input id {wrong} .* ids from 0 to 404 .*`vocab_size` of 405"):
        collate(DataCollatorForSpanMasking(wordpiece), [[0, 7, 1], [0, wrong, 1]])


def test_empty_batches_and_rows_are_named(wordpiece):
    collator = DataCollatorForSpanMasking(wordpiece)
    with pytest.raises(ValueError, match="the batch has no rows"):
        collator([])
    with pytest.raises(ValueError, match=r"row 1 of the batch has no tokens.*filter the dataset"):
        collate(collator, [[0, 7, 1], []])


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_that_are_padded_already_are_masked_as_they_are_without(side):
    tokenizer, rows = wordpiece_tokenizer(), [row.tolist() for row in make_rows(8)]
    collator = DataCollatorForSpanMasking(tokenizer)
    expected = collator([{"input_ids": row} for row in rows])
    tokenizer.padding_side = side
    padded = tokenizer.pad({"input_ids": rows}, padding="max_length", max_length=130)
    batch = collator([{"input_ids": ids, "attention_mask": mask} for ids, mask in zip(*padded.values(), strict=True)])
    assert batch.keys() == expected.keys() and all(torch.equal(batch[name], expected[name]) for name in batch)


def test_a_mask_that_numbers_sequences_keeps_all_of_them():
    collator, row = DataCollatorForSpanMasking(wordpiece_tokenizer()), make_rows(1)[0].tolist()
    numbers = [1] * 5 + [2] * (len(row) - 5) + [0, 0]
    batch = collator([{"input_ids": [*row, 3, 3], "attention_mask": numbers}])
    expected = collator([{"input_ids": row}])
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            {"input_ids": torch.tensor([[5, 6, 7]])},
            r"row 1 of the batch has `input_ids` of shape \(1, 3\): .* one row",
        ),
        (
            {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3)},
            r"row 1 of the batch has `input_ids` of shape \(2, 3\): .* one row",
        ),
    ],
)
def test_what_is_no_row_is_named(wordpiece, feature, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForSpanMasking(wordpiece)([{"input_ids": [0, 5, 1]}, feature])


def test_batches_have_one_form_where_it_is_known_whether_rows_are_shared(tokenizer):
    alone, shared = [0, *range(5, 12), 1], [0, 5, 6, 7, 1, 0, 8, 9, 10, 1]
    for packed, forms in {True: [True, True], False: [False, False], None: [False, True]}.items():
        collator = DataCollatorForSpanMasking(tokenizer, pack_documents=packed)
        batches = [collator([{"input_ids": row}]) for row in (alone, shared)]
        assert ["position_ids" in batch for batch in batches] == forms
    batch = DataCollatorForSpanMasking(tokenizer, pack_documents=True)([{"input_ids": alone}])
    assert batch["position_ids"].tolist() == [list(range(9))]
    automatic = DataCollatorForSpanMasking(tokenizer)([{"input_ids": alone}])
    assert all(torch.equal(batch[name], automatic[name]) for name in automatic)
