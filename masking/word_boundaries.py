"""Where words begin in a row of token ids, told by two neighbouring tokens: for WordPiece, byte-level BPE and
SentencePiece."""

import json
import unicodedata
import warnings

import numpy as np
from tokenizers import models
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

MAX_WORD_TOKENS = 10  # a longer run without a word break is a script written without spaces, a URL, ...

# Classes of characters in the word tables. JOINS meets every class, BREAKS meets none.
BREAKS, LETTER, DIGIT, OTHER, JOINS = 0, 1, 2, 4, 7


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
        # A character that is no byte's comes from elsewhere, and is the character that it looks like.
        return lambda token: byte_level_classes(
            b"".join(bytes([byte_of[c]]) if c in byte_of else c.encode("utf-8", "replace") for c in token)
        )
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
    if not text:
        return BREAKS, BREAKS
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


def word_starts(
    input_ids: np.ndarray, row_starts: np.ndarray, opens: np.ndarray, closes: np.ndarray, longest: np.ndarray
) -> np.ndarray:
    """Return the indices of the tokens that start a word. `longest`, (B,): how many tokens a word of each row has at
    most; every token of a longer one is a word of its own."""
    is_start = np.empty(input_ids.size, dtype=bool)
    is_start[1:] = (opens.take(input_ids[1:]) & closes.take(input_ids[:-1])) == 0
    is_start[row_starts] = True
    starts = np.flatnonzero(is_start)
    word_tokens = np.diff(starts, append=input_ids.size)
    row_words = np.diff(np.searchsorted(starts, row_starts), append=starts.size)
    too_long = word_tokens > longest.repeat(row_words)
    if not too_long.any():
        return starts
    return np.flatnonzero(is_start | np.repeat(too_long, word_tokens))
