"""What a tokenizer must have, how large a model's vocabulary must be for it, and which of its pieces are new."""

from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError

NEW_PIECES = "new_pieces"  # in tokenizer_config.json: each new piece with the old ones that it is made of


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


def new_rows(tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> dict[int, list[int]] | None:
    """Return the ids that `tokenizer` has beyond those of a model's `own` one, each with the ids that it is made of.

    None means that it is another tokenizer, and not an extension of that one.
    """
    ids, old, made_of = tokenizer.get_vocab(), own.get_vocab(), tokenizer.init_kwargs.get(NEW_PIECES, {})
    new = sorted(ids.keys() - old.keys(), key=ids.__getitem__)
    if any(ids.get(piece) != i for piece, i in old.items()) or not made_of.keys() >= set(new):
        return None
    return {ids[piece]: [ids[part] for part in made_of[piece]] for piece in new}
