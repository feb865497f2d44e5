"""How large a model's vocabulary must be for a tokenizer."""

from transformers import PreTrainedTokenizerBase


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the smallest `vocab_size` with which a model has an embedding for every id of `tokenizer`.

    This is the largest id plus one. It exceeds `len(tokenizer)` if the ids have gaps.
    """
    return max(tokenizer.get_vocab().values()) + 1
