"""What a tokenizer must have, and how large a model's vocabulary must be for it."""

from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the smallest `vocab_size` with which a model has an embedding for every id of `tokenizer`.

    This is the largest id plus one. It exceeds `len(tokenizer)` if the ids have gaps.
    """
    return max(tokenizer.get_vocab().values()) + 1


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *roles: str) -> None:
    """Refuse a tokenizer that is slow, or lacks the special token of one of the `roles`, such as mask."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{name}: a slow tokenizer cannot map tokens to the text. Give one with a tokenizer.json.")
    if missing := [f"{role}_token" for role in roles if getattr(tokenizer, f"{role}_token") is None]:
        raise InputError(
            f"{name}: the tokenizer has no {', no '.join(missing)}. Use BERT's or ELECTRA's tokenizer, train one with "
            "`python -m span_electra.tokenization.train_tokenizer`, or add it with tokenizer.add_special_tokens."
        )
