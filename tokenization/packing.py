"""Cut tokenized text into rows. No token is lost, and no row crosses the end of a document."""

import json
import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError

SHORT_SEQ_PROBABILITY = 0.05  # that a row has a random length
FEWEST_TOKENS_IN_ROW = 3  # a span of one token and its two boundaries


@dataclass
class Packer:
    """Turns blocks of text into rows of token ids."""

    backend: Tokenizer
    prefix: list[int]  # [CLS]
    suffix: list[int]  # [SEP]
    max_seq_length: int
    short_seq_probability: float
    seed: int
    pack_documents: bool = False
    line_start: str = ""  # put before a line, so that its first word does not merge with the previous line
    unk_token_id: int | None = None

    def __call__(self, blocks: pa.Table, indices: list[int]) -> pa.Table:
        text, document_lines = blocks["text"][0].as_py(), blocks["document_lines"][0].values.to_numpy()
        rows, documents = self._pack(text, document_lines, indices[0])
        return pa.table({"input_ids": rows, "document": documents + blocks["first_document"][0].as_py()})

    def pack(self, text: str, document_lines: Sequence[int], number: int) -> pa.ListArray:
        """Return the rows of a `Block` of text, the `number`-th of its corpus or shard."""
        return self._pack(text, document_lines, number)[0]

    def _pack(self, text: str, document_lines: Sequence[int], number: int) -> tuple[pa.ListArray, np.ndarray]:
        """Return the rows, and for each its document's position in the block."""
        # "[MASK]" in a text is plain text. The setting is made here because pickling loses it.
        self.backend.encode_special_tokens = True
        lines = text.split("\n")
        if self.line_start:
            lines = separated(lines, document_lines, self.line_start)
        encodings = self.backend.encode_batch_fast(lines, add_special_tokens=False)
        line_tokens = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
        tokens = np.fromiter(
            chain.from_iterable(encoding.ids for encoding in encodings),
            dtype=np.int32,
            count=line_tokens.sum(),
        )
        line_ends = np.concatenate([[0], line_tokens.cumsum()])  # tokens before line i
        document_ends = line_ends[np.cumsum(document_lines)]
        capacity = self.max_seq_length - len(self.prefix) - len(self.suffix)
        # The seed and the block determine the lengths, whichever process draws them.
        generator = random.Random(f"{self.seed}-{number}")
        row_ends = cut_rows(document_ends.tolist(), capacity, self.short_seq_probability, generator)
        rows = add_special_tokens(tokens, row_ends, self.prefix, self.suffix)
        documents = np.searchsorted(document_ends, row_ends)
        if not self.pack_documents:
            return rows, documents
        shared = assign_rows(rows.value_lengths().to_pylist(), self.max_seq_length)
        return join_sequences(rows, shared), connect_documents(documents, shared)


def separated(lines: list[str], document_lines: Sequence[int], line_start: str) -> list[str]:
    """Put `line_start` before each line, except a document's first and those that already begin with a space.

    >>> separated(["the old", "man", "", "the sea"], document_lines=[3, 1], line_start=" ")
    ['the old', ' man', '', 'the sea']
    """
    result: list[str] = []
    for count in document_lines:
        has_text = False
        for line in lines[len(result) : len(result) + count]:
            result.append(line_start + line if has_text and line and not line[0].isspace() else line)
            has_text = has_text or bool(line.strip())
    return result


def cut_rows(document_ends: list[int], capacity: int, short_probability: float, generator: random.Random) -> list[int]:
    """Cut documents, given by their ends, into rows of at most `capacity` tokens; return the end of each row.

    >>> cut_rows([5, 6], capacity=3, short_probability=0.0, generator=random.Random(0))
    [3, 5, 6]
    """
    row_ends, position = [], 0
    for document_end in document_ends:
        while position < document_end:
            is_short = generator.random() < short_probability
            length = generator.randint(1, capacity) if is_short else capacity
            position = min(position + length, document_end)
            row_ends.append(position)
    return row_ends


def add_special_tokens(tokens: np.ndarray, row_ends: list[int], prefix: list[int], suffix: list[int]) -> pa.ListArray:
    """Build the rows `prefix + tokens[start:end] + suffix` as one Arrow array, with no Python object per token.

    >>> add_special_tokens(np.arange(5, 10, dtype=np.int32), [3, 5], [0], [1]).to_pylist()
    [[0, 5, 6, 7, 1], [0, 8, 9, 1]]
    """
    specials = len(prefix) + len(suffix)
    ends = np.asarray(row_ends, dtype=np.int64)  # without rows, NumPy could not infer the type
    rows = np.arange(len(ends))
    content_lengths = np.diff(ends, prepend=0)
    offsets = np.concatenate([[0], ends + specials * (rows + 1)])
    values = np.empty(offsets[-1], dtype=np.int32)
    values[np.arange(len(tokens)) + np.repeat(rows * specials + len(prefix), content_lengths)] = tokens
    for position, token in enumerate(prefix):
        values[offsets[:-1] + position] = token
    for position, token in enumerate(suffix):
        values[offsets[1:] - len(suffix) + position] = token
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), pa.array(values))


def assign_rows(lengths: Sequence[int], max_seq_length: int) -> np.ndarray:
    """Choose a row for each sequence: the one that it fills best, or a new one if it fits in none.

    >>> assign_rows([3, 5, 3], max_seq_length=6).tolist()
    [0, 1, 0]
    """
    rooms: list[tuple[int, int]] = []  # the room in each row that is not full, and its number; sorted
    rows = np.empty(len(lengths), dtype=np.int64)
    count = 0
    for i, length in enumerate(lengths):
        best = bisect_left(rooms, (length, 0))
        if best < len(rooms):
            room, rows[i] = rooms.pop(best)
        else:
            room, rows[i], count = max_seq_length, count, count + 1
        if room > length:
            insort(rooms, (room - length, int(rows[i])))
    return rows


def join_sequences(sequences: pa.ListArray, rows: np.ndarray) -> pa.ListArray:
    """Join the `sequences` that share a row.

    >>> join_sequences(pa.array([[0, 5, 1], [0, 6, 7, 8, 1], [0, 9, 1]]), rows=np.array([0, 1, 0])).to_pylist()
    [[0, 5, 1, 0, 9, 1], [0, 6, 7, 8, 1]]
    """
    order = rows.argsort(kind="stable")
    ordered = sequences.take(pa.array(order))
    begins = np.flatnonzero(np.diff(rows[order], prepend=-1))
    offsets = ordered.offsets.to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets[np.append(begins, len(rows))]), ordered.values)


def connect_documents(documents: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Number each row so that rows have the same number if documents connect them, directly or through other rows.

    >>> connect_documents(documents=np.array([0, 1, 1, 2]), rows=np.array([0, 0, 1, 2])).tolist()
    [0, 0, 2]
    """
    groups, before = documents, None
    while before is None or (groups != before).any():
        before = groups
        for members in (documents, rows):
            lowest = np.full(members.max(initial=-1) + 1, len(documents) and documents.max())
            np.minimum.at(lowest, members, groups)
            groups = lowest[members]
    return lowest


def make_packer(
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    short_probability: float = SHORT_SEQ_PROBABILITY,
    seed: int = 0,
    pack_documents: bool = False,
) -> Packer:
    """Make the packer that cuts text into rows with these settings."""
    if not 0 <= short_probability <= 1:
        raise InputError(f"short_seq_probability={short_probability} is not between 0 and 1.")
    backend = _without_special_pieces(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    whole = backend.encode("a")  # the tokenizer's own template around some text
    content = [position for position, is_special in enumerate(whole.special_tokens_mask) if not is_special]
    prefix, suffix = (whole.ids[: content[0]], whole.ids[content[-1] + 1 :]) if content else ([], [])
    if not prefix or not suffix:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer puts no special tokens around a text, but span masking needs "
            "one on each side. Give it a post-processor that adds its cls_token and sep_token."
        )
    shortest = len(prefix) + len(suffix) + FEWEST_TOKENS_IN_ROW
    if max_seq_length < shortest:
        raise InputError(
            f"max_seq_length={max_seq_length} is too short; it must be at least {shortest}, special tokens included."
        )
    edges = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    if pack_documents and ((prefix[0], suffix[-1]) != edges or edges[0] == edges[1]):
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer does not put its cls_token and sep_token around a text, and "
            "documents that share a row are told apart by these. Leave out --pack_documents, or use another tokenizer."
        )
    # Tokenizers like GPT-2's recognize the start of a word by the space before it, and a line's first word has none.
    line_start = "" if backend.encode("a").ids == backend.encode(" a").ids else " "
    unk = tokenizer.unk_token_id
    return Packer(backend, prefix, suffix, max_seq_length, short_probability, seed, pack_documents, line_start, unk)


def _without_special_pieces(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Copy the tokenizer's backend, so that no text becomes a special token.

    A Unigram model has `<s>` and `<mask>` among its pieces, with the highest score. The copy gives them names that no
    line of text contains, and keeps their ids.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] == "Unigram":
        pieces = state["model"]["vocab"]
        special = {token for token in tokenizer.all_special_ids if token < len(pieces)}
        for token in special:
            pieces[token][0] = f"\n{token}"
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in special]
    return Tokenizer.from_str(json.dumps(state))
