"""Words with a tag each, as for named entities: check them, and find them among a text's tokens."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np

from span_electra.common.errors import InputError
from span_electra.common.tables import Column, name_of

TAGGED_COLUMNS = {"tokens": Column(("tokens", "words")), "ner_tags": Column(("ner_tags", "tags", "labels"))}


def word_tags(examples: datasets.Dataset, name: str) -> Iterator[tuple[int, int, Any]]:
    """Yield each word's row, its position and its tag, which may be anything. Rows and positions count from 1.

    Raises:
        InputError: A row has not as many tags as words, or a word is not text. The message calls the data `name`.
    """
    names = tag_names(examples)
    for row, example in enumerate(examples, 1):
        words, tags = example["tokens"], example["ner_tags"]
        if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
            raise InputError(
                f"{name}, row {row}: tokens and ner_tags must be lists of the same length; they are "
                f"{brief(words)} and {brief(tags)}."
            )
        for position, (word, tag) in enumerate(zip(words, tags, strict=True), 1):
            if not isinstance(word, str):
                raise InputError(
                    f"{name}, row {row}, token {position}: {word!r} is not text. Give each token as text."
                )
            if names is not None and isinstance(tag, int):
                tag = name_of(tag, names, f"{name}, row {row}, tag {position}")
            yield row, position, tag


def first_tokens(offsets: list[tuple[int, int]], words: list[str], is_first: bool) -> dict[int, int]:
    """Map each word that begins in a window to the position of its first token.

    Args:
        offsets: For each token of the window, where it begins and ends in the joined words. Special tokens have an
            empty range.
        words: The words of the whole document.
        is_first: Whether this is the document's first window. Other windows may begin within a word.
    """
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    positions: dict[int, int] = {}
    before = -1 if is_first else None  # the previous token's word
    for position, (begin, end) in enumerate(offsets):
        if begin == end:
            continue
        word = int(np.searchsorted(starts, end - 1, side="right")) - 1
        if end == starts[word + 1]:  # only a space
            continue
        # A token may begin with the space before its word, and the tokenizer may drop a word's first character.
        if word != before and (before is not None or begin <= starts[word]):
            positions[word] = position
        before = word
    return positions


def tag_names(examples: datasets.Dataset) -> list[str] | None:
    """Return the names of the tags if the data has them beside ids, as datasets on the Hub do."""
    return getattr(getattr(examples.features["ner_tags"], "feature", None), "names", None)


def brief(value: Any) -> str:
    return f"{len(value)} long" if isinstance(value, list) else repr(value)
