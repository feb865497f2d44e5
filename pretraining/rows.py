"""Find, check and load the rows that a run trains and evaluates on."""

import logging
from pathlib import Path

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.generic import is_flash_attention_requested

from span_electra.common.errors import InputError
from span_electra.configuration_span_electra import SpanElectraConfig
from span_electra.pretraining.arguments import DataArguments, PretrainingArguments
from span_electra.pretraining.stream import TextStream
from span_electra.tokenization.create_features import METADATA, cached_features, load_features, read_metadata
from span_electra.tokenization.packing import make_packer
from span_electra.tokenization.text import DEFAULT_DOCUMENTS, Corpus

logger = logging.getLogger(__name__)


MASK_RATIO, MAX_SEQ_LENGTH = 0.15, 128  # ELECTRA-Small's
SPLIT_SEED = 0  # not the run's: runs with different seeds are evaluated on the same rows


def resolve_rows(data: DataArguments, config: SpanElectraConfig) -> None:
    """Settle the mask ratio, the length of a row, what ends a document and whether several share a row; all but the
    first prepared features know best."""
    data.mask_ratio = MASK_RATIO if data.mask_ratio is None else data.mask_ratio
    if not 0 < data.mask_ratio < 1:
        raise InputError(f"The configuration's mask_ratio is {data.mask_ratio}; it must lie between 0 and 1.")
    paths = (*data.train_file, *data.validation_file)
    prepared = {path: read_metadata(Path(path))["settings"] for path in paths if is_features(path)}
    settle_packing(data, prepared)
    if data.pack_documents and is_flash_attention_requested(config):
        raise InputError(
            f"--attn_implementation {config._attn_implementation}: cannot keep apart documents that share a row; use "
            "sdpa or flex_attention, or leave out --pack_documents."
        )
    settle_documents(data, prepared)
    settle_length(data, prepared, config.max_position_embeddings)


def settle_packing(data: DataArguments, prepared: dict[str, dict]) -> None:
    """Whether documents share a row: as asked, and where `prepared` features have them so (path -> settings)."""
    packed = {path: settings.get("pack_documents", False) for path, settings in prepared.items()}
    if data.pack_documents and (alone := [path for path in packed if not packed[path]]):
        raise InputError(
            f"{alone[0]}: in its rows documents stand alone; make the features again with --pack_documents, or leave "
            "it out."
        )
    data.pack_documents |= any(packed.values())


def settle_documents(data: DataArguments, prepared: dict[str, dict]) -> None:
    """What ends a document of raw text: as asked, or as in the `prepared` features."""
    ends = {path: settings["documents"] for path, settings in prepared.items()}
    for path in ends.keys() & {*data.train_file}:
        if data.documents not in (None, ends[path]):
            raise InputError(
                f"{path}: --documents {ends[path]} ended its documents, not {data.documents}; make the features again "
                "with that, or leave it out."
            )
    data.documents = data.documents or next(iter(ends.values()), DEFAULT_DOCUMENTS)


def settle_length(data: DataArguments, prepared: dict[str, dict], positions: int) -> None:
    """How long a row is at most: as asked, or as long as the `prepared` features' rows, which are cut no more."""
    lengths, asked = {path: settings["max_seq_length"] for path, settings in prepared.items()}, data.max_seq_length
    for path, length in lengths.items():
        if asked is not None and length > asked:
            raise InputError(
                f"{path}: its rows have up to {length} tokens, more than --max_seq_length {asked}; make the features "
                "again with that length, or raise it."
            )
    longest = max(lengths.values(), default=None)
    if longest is not None and all(map(is_features, (*data.train_file, *data.validation_file))):
        if asked is not None and longest < asked:
            logger.warning(
                f"The features' rows have {longest} tokens at most, and --max_seq_length is {asked}: the model learns "
                "no later positions. Make the features again with that length to change it."
            )
        asked = longest  # where batches are padded to it, to no more than there is
    data.max_seq_length = next(
        (length for length in (asked, longest) if length is not None), min(MAX_SEQ_LENGTH, positions)
    )
    if data.max_seq_length > positions:
        raise InputError(
            f"Rows of {data.max_seq_length} tokens do not fit the model's {positions} positions: lower "
            "--max_seq_length, or raise max_position_embeddings in the configuration."
        )


def is_features(path: str) -> bool:
    return (Path(path) / METADATA).is_file()


def build_rows(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, training: PretrainingArguments
) -> tuple[datasets.Dataset | TextStream, datasets.Dataset | None]:
    """The rows for training and for evaluation (None: no evaluation). All text is found before any is tokenized."""
    for paths, split in ((data.train_file, data.split), (data.validation_file, data.validation_split)):
        if any(map(is_features, paths)) and len(paths) > 1:
            raise InputError(f"{paths[0]}, {paths[1]}: a folder of features stands alone; give one, or only text.")
        if paths and not is_features(paths[0]) and not (data.streaming and paths is data.train_file):
            Corpus(paths, data.documents, data.text_column, split).identity()
    train_rows: datasets.Dataset | TextStream | None = None
    if data.streaming:
        train_rows = build_stream(data, tokenizer, training)
    eval_rows = None
    if data.validation_file:  # first, for it is the smaller: what is wrong with it shows before the long work
        eval_rows = load_rows(data.validation_file, data, tokenizer, data.validation_split)
    if train_rows is None:
        train_rows, eval_rows = load_train_rows(data, tokenizer, eval_rows)
    if data.max_eval_samples is not None and eval_rows is not None:
        eval_rows = eval_rows.select(range(min(data.max_eval_samples, len(eval_rows))))
    return train_rows, eval_rows


def load_train_rows(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, eval_rows: datasets.Dataset | None
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """The rows for training, and those for evaluation, which are kept back from them where there are none yet."""
    train_rows = load_rows(data.train_file, data, tokenizer, data.split)
    if eval_rows is None and data.validation_split_percentage and len(train_rows) > 1:
        # `train_test_split` would write its indices into the user's folder of features.
        order = np.random.default_rng(SPLIT_SEED).permutation(len(train_rows))
        held_back = min(len(order) - 1, max(1, round(len(order) * data.validation_split_percentage / 100)))
        eval_rows = train_rows.select(order[:held_back], keep_in_memory=True)
        train_rows = train_rows.select(order[held_back:], keep_in_memory=True)
    if data.max_train_samples is not None:
        train_rows = train_rows.select(range(min(data.max_train_samples, len(train_rows))))
    return train_rows, eval_rows


def load_rows(
    paths: list[str], data: DataArguments, tokenizer: PreTrainedTokenizerBase, split: str
) -> datasets.Dataset:
    if is_features(paths[0]):
        rows = load_features(paths[0], tokenizer)
    else:
        rows = cached_features(
            paths,
            tokenizer,
            cache_dir=data.features_cache_dir,
            max_seq_length=data.max_seq_length,
            documents=data.documents,
            pack_documents=data.pack_documents,
            text_column=data.text_column,
            split=split,
            workers=data.preprocessing_num_workers,
        )
    return rows.with_format("numpy")  # lists of integers would take the collator half as long again


def build_stream(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, training: PretrainingArguments
) -> TextStream:
    """The rows for training, cut while it goes on."""
    if any(map(is_features, data.train_file)):
        raise InputError(f"{data.train_file[0]}: a folder of features, which lies on disk; leave out --streaming.")
    if not data.validation_file:
        logger.info("No evaluation: a stream keeps no rows back. Give text of its own as --validation_file.")
    return TextStream(
        Corpus(data.train_file, data.documents, data.text_column, data.split, streaming=True),
        make_packer(tokenizer, data.max_seq_length, pack_documents=data.pack_documents),
        batch_size=training.train_batch_size,
        seed=training.seed if training.data_seed is None else training.data_seed,
        workers=training.dataloader_num_workers,
        process_index=training.process_index,
        num_processes=training.world_size,
    )
