"""Span masking: rows of token ids in, a batch of tensors out.

The rows of a batch lie end to end in one flat array, and so do their words: N tokens and W words in B rows.
masking/word_boundaries.py finds where words begin, and masking/spans.py chooses which of them are masked.
"""

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from span_electra.common.vocabulary import check_tokenizer
from span_electra.masking.randomness import RANDOM_TOKENS, REPLACEMENT, SAMPLING, random_bits, row_keys
from span_electra.masking.spans import runs, sample_span_mask, sequence_budgets, span_length_tables
from span_electra.masking.word_boundaries import BREAKS, MAX_WORD_TOKENS, word_starts, word_tables

IGNORED_LABEL = -100


class DataCollatorForSpanMasking:
    """
    Masks spans of whole words and pads the rows to a batch for masked language modelling.

    Span lengths in words follow a geometric distribution, cut off at `max_span_words` and renormalised (SpanBERT,
    section 3.1). The share `mask_ratio` of a row's ordinary tokens is masked, rounded up or down at random, but at
    least one token. This number is never exceeded, and it is met wherever whole words that do not touch can meet it:
    the last span of a row is cut, and single words fill what is left. Spans are therefore shorter than the
    distribution alone would make them: in rows of 128 word pieces, 3.2 words on average instead of 3.8.

    At least one visible token lies between two spans, and between a span and the ends of the row. Special tokens are
    never masked. Documents that share a row are masked separately, each with its part of the number. A word of more
    than ten tokens, or of more tokens than there are to mask, is masked token by token. A word of nearly as many
    tokens is masked less often than others: half as often, if it has 4 tokens and its row of 32 masks 4 or 5.

    The masks depend on the seed, the epoch and the row's own ids only, not on the other rows of the batch, the padding
    or the number of workers. Call `set_epoch` before each epoch.

    Args:
        tokenizer: A fast tokenizer with a mask and a pad token: WordPiece, byte-level BPE or SentencePiece.
        mask_ratio: Share of a row's ordinary tokens that is masked.
        span_p: Parameter of the geometric distribution.
        max_span_words: Longest span, in words.
        whole_words: Whether spans consist of whole words. If not, every token counts as a word. With
            `max_span_words=1` this is ELECTRA's masking, except that two masked tokens are never neighbours.
        mask_token_share: Share of the spans that become `[MASK]`.
        random_token_share: Share of the spans that become random ordinary tokens. The rest is kept as it is.
            ELECTRA's published runs used 0.85 and 0.
        seed: Any integer.
        pad_to_multiple_of: Pad the batch's length to a multiple of this.
        pack_documents: Whether several documents may share a row. If True, every batch has `position_ids`, so that
            all batches have the same form and a model is compiled once. If False, no batch has them. Default: a batch
            has them if documents share any of its rows.

    Raises:
        ValueError: A value is out of its range, the tokenizer cannot be used, or a row is empty, holds an id that the
            tokenizer does not have, or is something else than the ids of one row.

    Examples:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> pieces = "[CLS] [SEP] [PAD] [MASK] [UNK] the qu ##ick fox jump ##s over a lazy dog".split()
        >>> model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
        >>> tokenizer = PreTrainedTokenizerFast(
        ...     tokenizer_object=Tokenizer(model), cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        ...     mask_token="[MASK]", unk_token="[UNK]",
        ... )
        >>> collator = DataCollatorForSpanMasking(tokenizer, mask_ratio=0.4)
        >>> rows = [[0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1], [0, 12, 13, 14, 1]]
        >>> batch = collator([{"input_ids": row} for row in rows])
        >>> batch["input_ids"]
        tensor([[ 0,  5,  6,  7,  3,  9, 10,  3, 12,  3,  3,  1],
                [ 0,  3, 13, 14,  1,  2,  2,  2,  2,  2,  2,  2]])
        >>> batch["labels"]
        tensor([[-100, -100, -100, -100,    8, -100, -100,   11, -100,   13,   14, -100],
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
        pack_documents: bool | None = None,
    ):
        check_tokenizer(tokenizer, "mask", "pad")
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
        self.mask_ratio = mask_ratio
        self.span_p = span_p
        self.max_span_words = max_span_words
        self.whole_words = whole_words
        self.pack_documents = pack_documents
        self.mask_token_share = mask_token_share
        self.random_token_share = random_token_share
        self.pad_to_multiple_of = pad_to_multiple_of
        self.seed = seed
        # A worker keeps the collator that it was started with. Only shared memory tells it of a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        # The tokenizer is not kept, because a spawned worker would pickle its whole vocabulary.
        self.mask_token_id, self.pad_token_id = tokenizer.mask_token_id, tokenizer.pad_token_id
        self.cls_token_id, self.sep_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
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
        """Mask rows as in this epoch from here on, in running workers too."""
        self._epoch.fill_(epoch)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """Mask rows and pad them to a batch.

        Args:
            features: Rows with `input_ids`, special tokens included. An `attention_mask` marks padding, which is
                removed. An `epoch` takes the place of the collator's, as in the rows of a stream, of which a batch
                may hold two epochs. Nothing else is read.

        Returns:
            `input_ids`, `attention_mask` and `labels` (the original id where masked, -100 elsewhere), int64 of shape
            (rows, longest row), and `sampling_keys`, int32 of shape (rows), which make the generator's samples as
            reproducible as the masks. If documents share rows (`create_features --pack_documents`), also
            `position_ids`, which start over with each document, so that the model keeps the documents apart.
        """
        input_ids, row_tokens = self._read(features)  # (N,) and (B,)
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
        real = column < row_tokens[:, None]  # (B, T): padding comes last, whatever the tokenizer's side
        batch = {"input_ids": (corrupted, self.pad_token_id), "labels": (labels, IGNORED_LABEL)}
        if is_shared if self.pack_documents is None else self.pack_documents:
            batch["position_ids"] = (np.arange(input_ids.size) - starts.repeat(sequence_tokens), 0)
        tensors = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
        for name, (values, padding) in batch.items():
            padded = np.full(real.shape, padding)
            padded[real] = values
            tensors[name] = torch.from_numpy(padded)
        sampling = random_bits(keys, SAMPLING, np.zeros(row_tokens.size))
        tensors["sampling_keys"] = torch.from_numpy((sampling >> np.uint64(32)).astype(np.uint32).view(np.int32))
        return tensors

    def _read(self, features: list[dict]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all rows, end to end, and the number of each row's tokens."""
        rows = [real_tokens(feature, i) for i, feature in enumerate(features)]
        row_tokens = np.array([row.size for row in rows])
        if not rows or not row_tokens.all():
            what = f"row {np.argmin(row_tokens)} of the batch has no tokens" if rows else "the batch has no rows"
            raise ValueError(f"{what}: every row needs at least one token id; filter the dataset.")
        input_ids = np.concatenate(rows).astype(np.int64, copy=False)
        if input_ids.min() < 0 or input_ids.max() >= len(self.ordinary):
            wrong = input_ids[(input_ids < 0) | (input_ids >= len(self.ordinary))][0]
            raise ValueError(
                f"input id {wrong} is unknown to the tokenizer, which has ids from 0 to {len(self.ordinary) - 1} (so "
                f"a model needs a `vocab_size` of {len(self.ordinary)}). Make the features again with this "
                "tokenizer, or give the collator the one that they were made with."
            )
        return input_ids, row_tokens

    def _sequence_starts(self, input_ids: np.ndarray, row_starts: np.ndarray) -> np.ndarray:
        """Return where sequences begin: at the start of each row, and wherever [CLS] follows [SEP]."""
        begins = np.zeros(input_ids.size, dtype=bool)
        if self.pack_documents is not False and self.cls_token_id not in (None, self.sep_token_id):
            begins[1:] = (input_ids[1:] == self.cls_token_id) & (input_ids[:-1] == self.sep_token_id)
        begins[row_starts] = True
        return np.flatnonzero(begins)

    def _mask(self, input_ids, row_tokens, keys, budgets) -> tuple[np.ndarray, np.ndarray]:
        """Mask the budget of each row or sequence; return the corrupted ids and the labels, (N,) each."""
        row_starts = np.cumsum(row_tokens) - row_tokens  # (B,)
        longest = np.clip(budgets, 1, MAX_WORD_TOKENS)
        starts = word_starts(input_ids, row_starts, self.opens, self.closes, longest)  # (W,)
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
        """Replace each span as a whole. `keys` and `row_starts` hold a value of each span's row."""
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


def real_tokens(feature: dict, row: int) -> np.ndarray:
    """Return the ids of a feature, the `row`th of its batch, without padding."""
    ids, mask = np.asarray(feature["input_ids"]), feature.get("attention_mask")
    if ids.ndim != 1:
        raise ValueError(
            f"row {row} of the batch has `input_ids` of shape {ids.shape}: the ids of one row are needed, (tokens,). "
            "Leave return_tensors out of the tokenizer's call, or take the batch apart."
        )
    # Some libraries number the sequences that share a row: 1, 1, 2, 2.
    return ids if mask is None else ids[np.asarray(mask) != 0]


def largest_masked_share(mask_ratio: float, max_seq_length: int) -> float:
    """Return the largest ratio of a full row's tokens that may be masked, as numbers are rounded up."""
    return mask_ratio + 1 / max_seq_length
