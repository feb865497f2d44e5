"""Load and check the tokenizer of a run, before anything is written."""

import logging

from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.pretraining.arguments import ModelArguments
from span_electra.tokenization.create_features import load_tokenizer

logger = logging.getLogger(__name__)


def build_tokenizer(arguments: ModelArguments) -> PreTrainedTokenizerBase:
    name = arguments.tokenizer or arguments.model_name_or_path
    if name is None:
        raise InputError(
            "--tokenizer is missing: give a folder or a Hub name, or train one on your text with "
            "python -m span_electra.tokenization.train_tokenizer."
        )
    tokenizer = load_tokenizer(name)
    if tokenizer.pad_token in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token):
        raise InputError(
            f"--tokenizer {name}: uses {tokenizer.pad_token} as its pad token as well, so {tokenizer.pad_token} would "
            "never be trained. Give it a pad token of its own with tokenizer.add_special_tokens({'pad_token': "
            "'[PAD]'}), and save it with tokenizer.save_pretrained."
        )
    tokenizer.padding_side = "right"  # positions are counted from the left
    if arguments.tokenizer is not None and arguments.model_name_or_path is not None:
        warn_of_other_tokenizer(tokenizer, arguments)
    if arguments.generator_name_or_path is not None:
        refuse_other_tokenizer(tokenizer, arguments.generator_name_or_path)
    return tokenizer


def warn_of_other_tokenizer(tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments) -> None:
    """Warn if the initial model was trained with another tokenizer, which is usually a mistake."""
    try:
        own = load_tokenizer(arguments.model_name_or_path)
    except InputError:
        return  # it has none
    if own.get_vocab() != tokenizer.get_vocab():
        logger.warning(
            f"--tokenizer {arguments.tokenizer}: {arguments.model_name_or_path} was trained with other tokens, so its "
            "embeddings stand for other words. Leave --tokenizer out to keep what they have learnt."
        )


def refuse_other_tokenizer(tokenizer: PreTrainedTokenizerBase, generator: str) -> None:
    """Refuse a generator that was trained with another tokenizer, because its samples would be other words."""
    try:
        own = load_tokenizer(generator)
    except InputError:
        return  # it has none, or cannot be loaded, which loading the generator reports
    if own.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"--generator {generator}: was trained with other tokens than those of {tokenizer.name_or_path}, so its "
            f"samples would be other words. Give --tokenizer {generator}."
        )
