"""Load and check the tokenizer of a run, before anything is written."""

import logging
import os
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.paths import looks_like_path
from span_electra.common.vocabulary import new_rows
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.tokenization.create_features import METADATA, load_tokenizer
from span_electra.tokenization.extend_tokenizer import cached_extension

logger = logging.getLogger(__name__)


def build_tokenizer(
    arguments: ModelArguments, data: DataArguments | None = None, checkpoint: Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a run. It is extended on the text in `data`, or taken from the `checkpoint` to resume."""
    name = arguments.tokenizer or arguments.model_name_or_path
    if name is None:
        raise InputError(
            "--tokenizer is missing: give a folder or a Hub name, or train one on your text with "
            "python -m span_electra.tokenization.train_tokenizer."
        )
    tokenizer = load_tokenizer(name)
    if arguments.extends_vocabulary and data is not None:
        tokenizer = extended(tokenizer, arguments, data, checkpoint)
    if tokenizer.pad_token in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token):
        raise InputError(
            f"--tokenizer {name}: uses {tokenizer.pad_token} as its pad token as well, so {tokenizer.pad_token} would "
            "never be trained. Give it a pad token of its own with tokenizer.add_special_tokens({'pad_token': "
            "'[PAD]'}), and save it with tokenizer.save_pretrained."
        )
    tokenizer.padding_side = "right"  # positions are counted from the left
    if arguments.model_name_or_path is not None and (arguments.tokenizer is not None or arguments.extends_vocabulary):
        report_extension(tokenizer, arguments)
    if arguments.generator_name_or_path is not None:
        refuse_other_tokenizer(tokenizer, arguments)
    return tokenizer


def extended(
    tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments, data: DataArguments, checkpoint: Path | None
) -> PreTrainedTokenizerBase:
    """Return `tokenizer` with the pieces that --extend_vocabulary asks for."""
    size, model = arguments.extend_vocabulary, arguments.model_name_or_path
    if new_rows(tokenizer, load_tokenizer(model)) is None:
        raise InputError(
            f"--extend_vocabulary: {model} was trained with other tokens than those of --tokenizer "
            f"{arguments.tokenizer}. Leave --tokenizer out to extend the model's own."
        )
    if checkpoint is not None:
        return extension_of_run(tokenizer, arguments, checkpoint)
    reason = None
    if any((Path(path) / METADATA).is_file() for path in data.train_file):
        reason = f"the rows in {data.train_file[0]} were made with the tokenizer as it is"
    elif data.streaming and not all(looks_like_path(path) or os.path.exists(path) for path in data.train_file):
        reason = f"it would read all of the stream {data.train_file[0]} before training"
    if reason is not None:
        raise InputError(
            f"--extend_vocabulary: {reason}. Extend the tokenizer first (python -m "
            f"span_electra.tokenization.extend_tokenizer --tokenizer {tokenizer.name_or_path} --input your_text "
            f"--size {size or 1000} --output_dir my_tokenizer), then give --tokenizer my_tokenizer instead of this "
            "option, with text or with rows that were made with it."
        )
    return cached_extension(
        tokenizer,
        data.train_file,
        cache_dir=data.features_cache_dir,
        size=size or 0,
        words=arguments.extend_vocabulary_file,
        text_column=data.text_column,
        split=data.split,
    )


def extension_of_run(
    tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments, checkpoint: Path
) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a run extended when it began."""
    saved = load_tokenizer(checkpoint)
    rows = new_rows(saved, tokenizer)
    if not rows or (arguments.extend_vocabulary_file is None and len(rows) != arguments.extend_vocabulary):
        raise InputError(
            f"--extend_vocabulary: the run in {checkpoint} began with {len(rows or ())} new pieces. Resume with the "
            "options that it began with."
        )
    return saved


def rows_to_add(tokenizer: PreTrainedTokenizerBase, model: str) -> dict[int, list[int]] | None:
    """Return what `tokenizer` adds to that of `model` (see `new_rows`). None means that it is of another model."""
    try:
        return new_rows(tokenizer, load_tokenizer(model))
    except InputError:
        return {}  # it has none, or cannot be loaded, which loading the model reports


def report_extension(tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments) -> None:
    """Say how many pieces are new. Warn if the model was trained with another tokenizer, usually a mistake."""
    name = arguments.model_name_or_path
    if rows := rows_to_add(tokenizer, name):
        logger.info(f"{len(rows):,} pieces are new to {name}: each starts as the mean of those that it is made of.")
    if rows is None:
        logger.warning(
            f"--tokenizer {arguments.tokenizer}: {name} was trained with other tokens, so its embeddings stand for "
            "other words. Leave --tokenizer out to keep what they have learnt."
        )


def refuse_other_tokenizer(tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments) -> None:
    """Refuse a generator that was trained with another tokenizer, because its samples would be other words."""
    generator = arguments.generator_name_or_path
    rows = rows_to_add(tokenizer, generator)
    if rows is None or (rows and arguments.model_name_or_path is None):
        raise InputError(
            f"--generator {generator}: was trained with other tokens than those of {tokenizer.name_or_path}, so its "
            f"samples would be other words. Give --tokenizer {generator}."
        )
