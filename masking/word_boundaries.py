"""Find where words begin in a row of token ids, from each pair of neighbouring tokens.

This works for WordPiece, byte-level BPE, and vocabularies that mark the start of a word (SentencePiece's ▁) or its end
(a trailing ▁, or `</w>`).
"""

import json
import unicodedata
import warnings
from collections.abc import Callable, Iterable

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from span_electra.common.vocabulary import vocabulary_size

MAX_WORD_TOKENS = 10  # a longer run without a word break is a script written without spaces, a URL, ...
SPACE_MARK = "▁"  # SentencePiece's space

# Classes of characters in the word tables. JOINS matches every class, BREAKS matches none.
BREAKS, LETTER, DIGIT, OTHER, JOINS = 0, 1, 2, 4, 7


def word_tables(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays over the vocabulary: `opens`, `closes`, and whether a token is ordinary (text, not special).

    `opens` and `closes` hold the character classes at a token's start and end. A token continues its left neighbour's
    word if its `opens` and the neighbour's `closes` have a bit in common.
    """
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
    opens, closes = np.zeros((2, vocabulary_size(tokenizer)), dtype=np.uint8)
    ordinary = np.zeros(opens.size, dtype=bool)
    classes = edge_classes(tokenizer.backend_tokenizer, vocabulary)
    for token, i in vocabulary.items():
        ordinary[i] = i not in special
        if i not in added:
            opens[i], closes[i] = classes(token)
    return opens, closes, ordinary


def edge_classes(backend: Tokenizer, vocabulary: Iterable[str]) -> Callable[[str], tuple[int, int]]:
    """Return the function that maps a token's text to its `opens` and `closes`, for this kind of tokenizer."""
    model = backend.model
    if end := getattr(model, "end_of_word_suffix", None):
        return lambda token: (JOINS, BREAKS if token.endswith(end) else JOINS)
    parts = [json.loads(part.__getstate__()) for part in (backend.pre_tokenizer, backend.decoder) if part]
    if '"ByteLevel"' in json.dumps(parts):
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        # A character outside this table stands for itself.
        return lambda token: byte_level_classes(
            b"".join(bytes([byte_of[c]]) if c in byte_of else c.encode("utf-8", "replace") for c in token)
        )
    if prefix := getattr(model, "continuing_subword_prefix", None):
        return lambda token: (JOINS if token.startswith(prefix) else BREAKS, JOINS)
    begin_words = sum(token.startswith(SPACE_MARK) for token in vocabulary)
    end_words = sum(token.endswith(SPACE_MARK) for token in vocabulary)
    if end_words > begin_words:  # SentencePiece with `treat_whitespace_as_suffix`
        return lambda token: (JOINS, BREAKS if token.endswith(SPACE_MARK) else JOINS)
    if begin_words:
        return lambda token: (BREAKS if token.startswith(SPACE_MARK) else JOINS, JOINS)
    if not isinstance(model, models.WordLevel):
        warnings.warn(
            f"Cannot tell where words start in this {type(model).__name__} tokenizer (no continuing prefix, no "
            "byte level, no ▁, no end-of-word suffix), so every token counts as a word. Train one with "
            "span_electra.tokenization.train_tokenizer to mask whole words.",
            stacklevel=4,
        )
    return lambda token: (BREAKS, BREAKS)


def byte_level_classes(token: bytes) -> tuple[int, int]:
    """Return the classes of a token's two ends, by which words are the pieces that GPT-2's pre-tokenizer cuts."""
    text = token.decode("utf-8", errors="replace")
    if not text:
        return BREAKS, BREAKS
    opens, closes = character_class(text[0]), character_class(text[-1])
    if text[-1] == " ":
        closes = JOINS  # a lone space belongs to the word after it
    if text in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"):
        closes = BREAKS  # the pre-tokenizer cuts after a contraction
    return opens, closes


def character_class(character: str) -> int:
    category = unicodedata.category(character)[0]
    if character.isspace() or category == "Z":
        return BREAKS
    # Marks are the vowel signs of many scripts. GPT-2 cuts words at them, and we do not. U+FFFD is part of a character
    # whose bytes are split over several tokens. It joins the other parts, and most such characters are letters.
    return LETTER if category in "LM" or character == "\ufffd" else DIGIT if category == "N" else OTHER


def word_starts(
    input_ids: np.ndarray, row_starts: np.ndarray, opens: np.ndarray, closes: np.ndarray, longest: np.ndarray
) -> np.ndarray:
    """Return the indices of the tokens that start a word.

    `longest`, (B,), is the largest number of tokens in a word of each row. A longer word is split into single tokens.
    """
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
