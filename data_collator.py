"""Span masking: rows of token ids in, a batch of tensors out.

The rows of a batch lie end to end in one flat array, and so do their words: N tokens and W words in B rows.
Every step is an array operation over all of them; the only loops are over rounds.
"""

import json
import unicodedata
import warnings

import numpy as np
import torch
from tokenizers import models
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

IGNORED_LABEL = -100
MAX_WORD_TOKENS = 10  # a longer run without a word break is a script written without spaces, a URL, ...
ATTEMPTS = 32  # of 15,000 rows of 3 to 14 words 1 stays below what it could hold; with 16 attempts 11, with 1 772
# What a random number is for: one address space for each purpose.
LENGTHS, ORDER, REMAINDER, REPLACEMENT, RANDOM_TOKENS, SAMPLING, PARTS = range(1, 8)
# Classes of characters in the word tables. JOINS meets every class, BREAKS meets none.
BREAKS, LETTER, DIGIT, OTHER, JOINS = 0, 1, 2, 4, 7


class DataCollatorForSpanMasking:
    """
    Masks spans of whole words and pads the rows to a batch for masked language modelling.

    Span lengths in words are geometric, cut off at `max_span_words` and renormalised (SpanBERT, section 3.1). The
    number of masked tokens of a row is `round(mask_ratio * its ordinary tokens)`, at least one: met exactly
    where whole words that do not touch can meet it, never exceeded: the last span of a row is cut for that, and single
    words fill it up (in rows of 128 word pieces spans are 3.2 words long on average, not 3.8). Between two spans, and
    between a span and the row's ends, lies at least one visible token. Special tokens are never masked. Documents that
    share a row are masked one by one, each with its part of that number, rounded up or down by chance.

    The masks are a function of the seed, the epoch and the row's own ids: neither the other rows of the batch nor
    the padding nor the number of workers plays a part. Call `set_epoch` before each epoch.

    Args:
        tokenizer: A fast tokenizer with a mask and a pad token: WordPiece, byte-level BPE or SentencePiece.
        mask_ratio: Share of a row's ordinary tokens that is masked.
        span_p: Parameter of the geometric distribution.
        max_span_words: Longest span, in words.
        whole_words: Whether spans are of whole words. If not, every token counts as a word: with `max_span_words=1`
            that is ELECTRA's masking, but that two masked tokens are never neighbours.
        mask_token_share: Share of the spans that become [MASK].
        random_token_share: Share of the spans that become random ordinary tokens. The rest is kept as it is.
            ELECTRA's published runs used 0.85 and 0.
        seed: Any integer.
        pad_to_multiple_of: Pad the batch's length to a multiple of this.

    Raises:
        ValueError: if a value is out of its range, the tokenizer cannot be used, a row is empty or holds an id that
            the tokenizer does not have.

    Example:

    >>> from tokenizers import Tokenizer, models
    >>> from transformers import PreTrainedTokenizerFast
    >>> pieces = "[CLS] [SEP] [PAD] [MASK] [UNK] the qu ##ick fox jump ##s over a lazy dog".split()
    >>> model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    >>> tokenizer = PreTrainedTokenizerFast(
    ...     tokenizer_object=Tokenizer(model), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
    ...     mask_token="[MASK]", unk_token="[UNK]",
    ... )
    >>> collator = DataCollatorForSpanMasking(tokenizer, mask_ratio=0.4)
    >>> batch = collator([{"input_ids": [0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1]}, {"input_ids": [0, 12, 13, 14, 1]}])
    >>> batch["input_ids"]
    tensor([[ 0,  3,  6,  7,  3,  9, 10, 11, 12,  3,  3,  1],
            [ 0,  3, 13, 14,  1,  2,  2,  2,  2,  2,  2,  2]])
    >>> batch["labels"]
    tensor([[-100,    5, -100, -100,    8, -100, -100, -100, -100,   13,   14, -100],
            [-100,   12, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100]])
    >>> batch["attention_mask"]
    tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
    >>> batch["sampling_keys"].shape
    torch.Size([2])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mask_ratio: float = 0.15,
        span_p: float = 0.2,
        max_span_words: int = 10,
        whole_words: bool = True,
        mask_token_share: float = 0.8,
        random_token_share: float = 0.1,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ):
        check_tokenizer(tokenizer)
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio={mask_ratio} is not between 0 and 1 (both excluded); BERT's is 0.15.")
        if not 0 < span_p <= 1:
            raise ValueError(f"span_p={span_p} is not in (0, 1]; SpanBERT's is 0.2, and 1 masks single words.")
        if max_span_words < 1:
            raise ValueError(f"max_span_words={max_span_words} is less than 1; use 1 to mask single words.")
        if min(mask_token_share, random_token_share) < 0 or mask_token_share + random_token_share > 1:
            raise ValueError(
                f"mask_token_share={mask_token_share} and random_token_share={random_token_share} must each be at "
                "least 0 and together at most 1; BERT's are 0.8 and 0.1, and the rest is kept."
            )
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of} is less than 1; leave it out or use 8.")
        self.mask_ratio = mask_ratio
        self.mask_token_share = mask_token_share
        self.random_token_share = random_token_share
        self.pad_to_multiple_of = pad_to_multiple_of
        self.seed = seed
        # A worker keeps the collator it was started with: only shared memory tells it of a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        # The tokenizer itself is not kept: a worker that is spawned would pickle its whole vocabulary.
        self.mask_token_id, self.pad_token_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        self.cls_token_id, self.sep_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.pads_left = tokenizer.padding_side == "left"
        self.opens, self.closes, self.ordinary = word_tables(tokenizer)
        if not whole_words:
            self.opens[:] = BREAKS
        added = list(tokenizer.added_tokens_decoder)
        self.random_token_ids = np.setdiff1d(np.flatnonzero(self.ordinary), added)
        self.length_tables = span_length_tables(span_p, max_span_words)

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a copy's tensor is private

    def set_epoch(self, epoch: int):
        """Give every row new masks from here on, in running workers too; the same epoch gives the same masks."""
        self._epoch.fill_(epoch)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `labels` (the original id where masked, else -100), all int64
        of shape (rows, longest row), and `sampling_keys`, int32 of shape (rows), by which the generator's samples
        are as reproducible as the masks. Where documents share a row (`create_features --pack_documents`) there are
        `position_ids`, too, which begin anew with each: by them the model keeps the documents apart. Of each feature
        only `input_ids`, special tokens included, is read, and `epoch` where a row brings its own, as a stream's rows
        do: a batch of these may be of two epochs."""
        rows = [np.asarray(feature["input_ids"]) for feature in features]
        row_tokens = np.array([len(row) for row in rows])  # (B,)
        if not rows or not row_tokens.all():
            what = f"row {np.argmin(row_tokens)} of the batch has no tokens" if rows else "the batch has no rows"
            raise ValueError(f"{what}: every row needs at least one token id; filter the dataset.")
        input_ids = np.concatenate(rows).astype(np.int64, copy=False)  # (N,)
        if input_ids.min() < 0 or input_ids.max() >= len(self.ordinary):
            wrong = input_ids[(input_ids < 0) | (input_ids >= len(self.ordinary))][0]
            raise ValueError(
                f"input id {wrong} is not in the tokenizer's vocabulary (0 to {len(self.ordinary) - 1}): make the "
                "features again with this tokenizer, or give the collator the one they were made with."
            )
        epoch = int(self._epoch)
        epochs = np.array([feature.get("epoch", epoch) for feature in features], dtype=np.uint64)  # (B,)
        keys = row_keys(input_ids, row_tokens, self.seed, epochs)
        row_starts = np.cumsum(row_tokens) - row_tokens
        starts = self._sequence_starts(input_ids, row_starts)  # (S,), as many as rows where none is shared
        sequence_tokens = np.diff(starts, append=input_ids.size)
        first_sequences = np.searchsorted(starts, row_starts)  # (B,)
        ordinary_tokens = np.add.reduceat(self.ordinary.take(input_ids), starts, dtype=np.int64)
        budgets = sequence_budgets(ordinary_tokens, first_sequences, self.mask_ratio, keys)
        sequence_keys, is_shared = keys, starts.size > row_starts.size
        if is_shared:
            epochs = epochs.repeat(np.diff(first_sequences, append=starts.size))
            sequence_keys = row_keys(input_ids, sequence_tokens, self.seed, epochs)
        corrupted, labels = self._mask(input_ids, sequence_tokens, sequence_keys, budgets)

        width = row_tokens.max()
        if self.pad_to_multiple_of:
            width += -width % self.pad_to_multiple_of
        column = np.arange(width)
        real = column < row_tokens[:, None]  # (B, T)
        if self.pads_left:
            real = real[:, ::-1]
        batch = {"input_ids": (corrupted, self.pad_token_id), "labels": (labels, IGNORED_LABEL)}
        if is_shared:
            batch["position_ids"] = (np.arange(input_ids.size) - starts.repeat(sequence_tokens), 0)
        tensors = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for name, (values, padding) in batch.items():
            padded = np.full(real.shape, padding)
            padded[real] = values
            tensors[name] = torch.from_numpy(padded)
        sampling = random_bits(keys, SAMPLING, np.zeros(len(rows)))
        tensors["sampling_keys"] = torch.from_numpy((sampling >> np.uint64(32)).astype(np.uint32).view(np.int32))
        return tensors

    def _sequence_starts(self, input_ids: np.ndarray, row_starts: np.ndarray) -> np.ndarray:
        """Where sequences begin: each row does, and within it another where [CLS] follows [SEP]."""
        begins = np.zeros(input_ids.size, dtype=bool)
        if self.cls_token_id not in (None, self.sep_token_id):
            begins[1:] = (input_ids[1:] == self.cls_token_id) & (input_ids[:-1] == self.sep_token_id)
        begins[row_starts] = True
        return np.flatnonzero(begins)

    def _mask(self, input_ids, row_tokens, keys, budgets) -> tuple[np.ndarray, np.ndarray]:
        """Mask so many tokens of each row, or sequence: return the corrupted ids and the labels, (N,) each."""
        row_starts = np.cumsum(row_tokens) - row_tokens  # (B,)
        starts = word_starts(input_ids, row_starts, self.opens, self.closes)  # (W,)
        word_tokens = np.diff(starts, append=input_ids.size)
        first_words = np.searchsorted(starts, row_starts)  # (B,)
        row_words = np.diff(first_words, append=starts.size)

        maskable = self.ordinary.take(input_ids.take(starts))  # a special token is a word of its own
        maskable[first_words] = maskable[first_words + row_words - 1] = False  # a span has two visible neighbours
        budgets = np.minimum(budgets, np.add.reduceat(word_tokens * maskable, first_words))

        masked = sample_span_mask(word_tokens, maskable, row_words, budgets, keys, self.length_tables)
        span_words, span_ends = runs(masked)
        span_rows = np.searchsorted(first_words, span_words, side="right") - 1
        span_starts, span_ends = starts[span_words], starts[span_ends]  # the last word is never masked
        return self._replace(input_ids, span_starts, span_ends, keys[span_rows], row_starts[span_rows])

    def _replace(self, input_ids, span_starts, span_ends, keys, row_starts):
        """Replace every span as a whole; `keys` and `row_starts` are those of each span's row."""
        span_tokens = span_ends - span_starts
        positions = np.repeat(span_ends - np.cumsum(span_tokens), span_tokens) + np.arange(span_tokens.sum())
        labels = np.full(input_ids.size, IGNORED_LABEL)
        labels[positions] = input_ids[positions]

        share = (random_bits(keys, REPLACEMENT, span_starts - row_starts) >> 11) * 2.0**-53  # in [0, 1)
        becomes_mask = share < self.mask_token_share
        becomes_random = ~becomes_mask & (share < self.mask_token_share + self.random_token_share)
        corrupted = input_ids.copy()
        corrupted[positions[np.repeat(becomes_mask, span_tokens)]] = self.mask_token_id
        spans = np.repeat(np.arange(span_tokens.size), span_tokens)
        chosen = becomes_random[spans]
        positions, spans = positions[chosen], spans[chosen]
        bits = random_bits(keys[spans], RANDOM_TOKENS, positions - row_starts[spans])
        corrupted[positions] = self.random_token_ids[(bits >> 32) * self.random_token_ids.size >> 32]
        return corrupted, labels


def check_tokenizer(tokenizer: PreTrainedTokenizerBase):
    """Raise a ValueError if spans cannot be masked with this tokenizer."""
    name = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{name} is not a fast tokenizer, and only those say where words start: load it with "
            "AutoTokenizer.from_pretrained, or train one with span_electra.tokenization.train_tokenizer."
        )
    for role in ("mask", "pad"):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise ValueError(
                f"This {name} has no {role} token, which span masking needs: set one with "
                f"tokenizer.add_special_tokens({{'{role}_token': '[{role.upper()}]'}}) and resize the model's "
                "embeddings, or use a tokenizer that has one."
            )


# --- words -----------------------------------------------------------------------------------------------------


def word_tables(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays over the vocabulary: `opens` and `closes`, the character classes by which a token meets
    its left and its right neighbour, and whether a token is ordinary (text, not special).

    A token continues its left neighbour's word if the one's `opens` and the other's `closes` have a bit in common.
    """
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    opens, closes = np.zeros((2, max(vocabulary.values()) + 1), dtype=np.uint8)
    ordinary = np.zeros(opens.size, dtype=bool)
    classes = edge_classes(tokenizer.backend_tokenizer, vocabulary)
    for token, i in vocabulary.items():
        ordinary[i] = i not in special
        if i not in added:
            opens[i], closes[i] = classes(token)
    return opens, closes, ordinary


def edge_classes(backend, vocabulary):
    """Return the function from a token's text to its `opens` and `closes` for this kind of tokenizer."""
    model = backend.model
    prefix = getattr(model, "continuing_subword_prefix", None)
    parts = [json.loads(part.__getstate__()) for part in (backend.pre_tokenizer, backend.decoder) if part]
    if '"ByteLevel"' in json.dumps(parts):
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        return lambda token: byte_level_classes(bytes(byte_of[character] for character in token))
    if prefix:
        return lambda token: (JOINS if token.startswith(prefix) else BREAKS, JOINS)
    if any(token.startswith("▁") for token in vocabulary):
        return lambda token: (BREAKS if token.startswith("▁") else JOINS, JOINS)
    if not isinstance(model, models.WordLevel):
        warnings.warn(
            f"Cannot tell where words start in this {type(model).__name__} tokenizer (no continuing prefix, no "
            "byte level, no ▁), so every token counts as a word. Train one with "
            "span_electra.tokenization.train_tokenizer to mask whole words.",
            stacklevel=4,
        )
    return lambda token: (BREAKS, BREAKS)


def byte_level_classes(token: bytes) -> tuple[int, int]:
    """The classes of a token's edges under which words are the pieces that GPT-2's pre-tokenizer cuts."""
    text = token.decode("utf-8", errors="replace")
    opens, closes = character_class(text[0]), character_class(text[-1])
    if text[-1] == " ":
        closes = JOINS  # a lone space belongs to the word after it
    if text in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"):
        closes = BREAKS  # the pre-tokenizer cuts behind a contraction
    return opens, closes


def character_class(character: str) -> int:
    category = unicodedata.category(character)[0]
    if character.isspace() or category == "Z":
        return BREAKS
    # Marks are the vowel signs of many scripts: GPT-2 tears words apart at them, we do not. A part of a
    # character that a token cannot decode (U+FFFD) meets the other parts, and is mostly of a letter.
    return LETTER if category in "LM" or character == "\ufffd" else DIGIT if category == "N" else OTHER


def word_starts(input_ids: np.ndarray, row_starts: np.ndarray, opens: np.ndarray, closes: np.ndarray) -> np.ndarray:
    """Return the indices of the tokens that start a word."""
    is_start = np.empty(input_ids.size, dtype=bool)
    is_start[1:] = (opens.take(input_ids[1:]) & closes.take(input_ids[:-1])) == 0
    is_start[row_starts] = True
    starts = np.flatnonzero(is_start)
    too_long = (word_tokens := np.diff(starts, append=input_ids.size)) > MAX_WORD_TOKENS
    if not too_long.any():
        return starts
    return np.flatnonzero(is_start | np.repeat(too_long, word_tokens))


# --- random numbers --------------------------------------------------------------------------------------------


def mix64(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014): a bijection on uint64 that passes for random."""
    shifted = x >> 30  # in place from here on: fresh arrays cost more than the arithmetic
    x = np.bitwise_xor(x, shifted, out=shifted)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> 27
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> 31
    return x


def random_bits(keys: np.ndarray, purpose: int, counters: np.ndarray) -> np.ndarray:
    """64 random bits for each counter: a pure function of row key, purpose and counter."""
    counters = counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # the golden ratio, as SplitMix64 steps
    return mix64(mix64(keys + np.uint64(purpose)) + counters)


def row_keys(input_ids: np.ndarray, row_tokens: np.ndarray, seed: int, epoch) -> np.ndarray:
    """One key per row, (B,), from which all its random numbers follow. The epoch is one for all, or each row's, (B,).

    A row is addressed by its content rather than by its place in the dataset: the content stays the same after
    resharding, shuffling, streaming and resuming, and the collator sees nothing else. Equal rows get equal masks.
    """
    origin = mix64(np.array([seed % 2**64], dtype=np.uint64))
    origins = mix64(origin + np.asarray(epoch, dtype=np.uint64))  # (1,) or (B,)
    # A sum of ids times random odd weights (multilinear hashing): one multiplication per token.
    weights = mix64(np.arange(1, row_tokens.max() + 1, dtype=np.uint64)) | np.uint64(1)
    weights = np.concatenate([weights[:n] for n in row_tokens])
    content = np.add.reduceat((input_ids + 1).view(np.uint64) * weights, np.cumsum(row_tokens) - row_tokens)
    return mix64(mix64(content) + origins)


# --- spans -----------------------------------------------------------------------------------------------------


def span_length_tables(p: float, max_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two tables from 16 random bits to a number of words: a span's length, and the part of it inside a row
    that starts at a random place of an endless sequence of spans with one word between neighbours."""
    length = np.arange(max_words + 1)
    probability = np.where(length > 0, p * (1 - p) ** (length - 1.0), 0)
    at_least = probability[::-1].cumsum()[::-1]  # renewal theory: the part inside is r as often as lengths reach r
    quantile = (np.arange(2**16) + 0.5) / 2**16
    cumulated = [(weights / weights.sum()).cumsum() for weights in (probability, at_least)]
    lengths, parts_inside = (np.searchsorted(c, quantile).astype(np.int32) for c in cumulated)
    return lengths, parts_inside


def span_lengths(bits: np.ndarray, table: np.ndarray) -> np.ndarray:
    return table.take((bits >> 48).view(np.int64))


def runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and the ends (excluded) of the runs of true flags; the first and the last flag are false."""
    edges = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    return edges[::2], edges[1::2]


def sequence_budgets(
    ordinary_tokens: np.ndarray, first_sequences: np.ndarray, mask_ratio: float, keys: np.ndarray
) -> np.ndarray:
    """How many tokens to mask in each sequence, (S,).

    A row masks `round(mask_ratio * its ordinary tokens)`, at least one. Sequences that share a row share that number
    in proportion to their `ordinary_tokens` (S,), each part rounded up or down by chance so that the sum is the row's
    (systematic sampling). `first_sequences` and `keys` are those of each row, (B,).
    """
    row_totals = np.add.reduceat(ordinary_tokens, first_sequences)
    row_budgets = np.maximum(np.rint(mask_ratio * row_totals), 1)
    counts = np.diff(first_sequences, append=ordinary_tokens.size)
    before = np.cumsum(row_totals) - row_totals
    within_row = np.cumsum(ordinary_tokens) - before.repeat(counts)  # up to the end of each sequence
    # 16 bits: the sum for a row's end is exact, so that its floor is the row's budget.
    chance = (random_bits(keys, PARTS, np.zeros(keys.size)) >> 48) * 2.0**-16  # in [0, 1)
    exact_ends = within_row * row_budgets.repeat(counts) / np.maximum(row_totals, 1).repeat(counts)
    ends = np.floor(exact_ends + chance.repeat(counts)).astype(np.int64)
    budgets = np.diff(ends, prepend=0)
    budgets[first_sequences] = ends[first_sequences]
    return budgets


def sample_span_mask(word_tokens, maskable, row_words, budgets, keys, length_tables) -> np.ndarray:
    """Choose the words to mask.

    Args:
        word_tokens: Tokens of every word, shape (words of all rows).
        maskable: Whether a word may be masked; false for the first and the last word of a row. Same shape.
        row_words: Words of every row, shape (rows).
        budgets: Tokens to mask in every row.
        keys: Random key of every row, from `row_keys`.
        length_tables: From `span_length_tables`.

    Returns:
        Whether a word is masked, shape (words of all rows). The runs of masked words are the spans.
    """
    masked, missing = fill_budgets(word_tokens, maskable, row_words, budgets, keys, length_tables)
    if missing.any():
        first_words = np.cumsum(row_words) - row_words
        smallest = np.minimum.reduceat(np.where(maskable, word_tokens, word_tokens.sum()), first_words)
        missing[smallest > budgets] = 0  # no other attempt can mask anything either
    for attempt in range(1, ATTEMPTS):
        # A row of few words can get stuck where other spans would fit.
        rows = np.flatnonzero(missing)
        if not rows.size:
            break
        words = np.repeat(missing > 0, row_words)
        new_keys = mix64(keys[rows] + np.uint64(attempt))
        again, still_missing = fill_budgets(
            word_tokens[words], maskable[words], row_words[rows], budgets[rows], new_keys, length_tables
        )
        better = still_missing < missing[rows]
        masked[words] = np.where(np.repeat(better, row_words[rows]), again, masked[words])
        missing[rows] = np.minimum(still_missing, missing[rows])
    return masked


def fill_budgets(word_tokens, maskable, row_words, budgets, keys, length_tables):
    """One attempt at `sample_span_mask`; also returns how many tokens each row is short of its budget."""
    first_words = np.cumsum(row_words) - row_words  # (B,)
    word_rows = np.repeat(np.arange(row_words.size), row_words)  # (W,)
    starts, ends = candidate_spans(maskable, first_words, row_words, keys, length_tables)
    rows = word_rows[starts]

    # A random order within each row: the row is in the upper bits of the sort key.
    bits = random_bits(keys[rows], ORDER, starts - first_words[rows])
    order = np.argsort((rows << 44).view(np.uint64) | (bits >> 20))
    starts, ends = starts[order], ends[order]  # `rows` is sorted already

    word_offsets = np.concatenate([[0], np.cumsum(word_tokens)])  # (W + 1,)
    tokens = word_offsets[ends] - word_offsets[starts]
    before = np.cumsum(tokens) - tokens  # tokens of the candidates before this one, first over all rows
    row_begins = np.searchsorted(rows, np.arange(row_words.size))
    room = budgets[rows] - before + np.append(before, 0)[row_begins][rows]
    accepted = room > 0
    starts, ends, rows, room = starts[accepted], ends[accepted], rows[accepted], room[accepted]
    crossing = np.flatnonzero(tokens[accepted] > room)
    last_offset = word_offsets[starts[crossing]] + room[crossing]
    ends[crossing] = np.searchsorted(word_offsets, last_offset, side="right") - 1  # the longest prefix that fits

    change = np.zeros(maskable.size, dtype=np.int8)
    change[starts] = 1
    change[ends] -= 1
    masked = np.cumsum(change, dtype=np.int8).view(bool)
    tokens = word_offsets[ends] - word_offsets[starts]
    missing = budgets - np.bincount(rows, tokens, row_words.size).astype(np.int64)
    add_single_words(masked, missing, word_tokens, maskable, word_rows, first_words, keys)
    return masked, missing


def candidate_spans(maskable, first_words, row_words, keys, length_tables):
    """Cover every row with spans of random lengths, one word apart, and cut them where words cannot be masked.

    The sequence of spans enters the row at a random place, so that all words are covered with equal probability.
    """
    lengths, parts_inside = length_tables
    most = row_words.max() // 2 + 1  # a span and its gap take two words at least
    bits = random_bits(keys[:, None], LENGTHS, np.arange(most))  # (B, most)
    steps = span_lengths(bits, lengths) + 1
    steps[:, 0] = span_lengths(bits[:, 0], parts_inside)
    gaps = np.cumsum(steps, axis=1, dtype=np.int64)
    free = maskable.copy()
    free[(gaps + first_words[:, None])[gaps < row_words[:, None]]] = False
    return runs(free)


def add_single_words(masked, missing, word_tokens, maskable, word_rows, first_words, keys):
    """Mask single words that touch no span until no budget has room for one; changes `masked` and `missing`.

    A word as large as the row's remainder is preferred; among equals chance decides.
    """
    while missing.any():
        fits = maskable & (word_tokens <= missing[word_rows]) & ~masked
        fits[1:] &= ~masked[:-1]
        fits[:-1] &= ~masked[1:]
        words = np.flatnonzero(fits)
        if not words.size:
            return
        rows = word_rows[words]
        score = random_bits(keys[rows], REMAINDER, words - first_words[rows]) >> 1
        score |= (word_tokens[words] == missing[rows]).astype(np.uint64) << 63
        row_begins = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.maximum.reduceat(score, row_begins)
        chosen = words[score == np.repeat(best, np.diff(row_begins, append=rows.size))]
        masked[chosen] = True
        missing[word_rows[chosen]] -= word_tokens[chosen]
