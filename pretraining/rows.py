"""Find, check and load the rows that a run trains and evaluates on."""

import logging
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.trainer_utils import has_length
from transformers.utils.generic import is_flash_attention_requested

from span_electra.common.errors import InputError
from span_electra.common.tables import sample
from span_electra.pretraining.arguments import DataArguments, PretrainingArguments
from span_electra.pretraining.mixture import MixedStream, Mixture, corpus_names
from span_electra.pretraining.stream import TextStream
from span_electra.tokenization.create_features import METADATA, cached_features, load_features, read_metadata
from span_electra.tokenization.packing import make_packer
from span_electra.tokenization.text import DEFAULT_DOCUMENTS, Corpus

logger = logging.getLogger(__name__)

MASK_RATIO, MAX_SEQ_LENGTH = 0.15, 128  # ELECTRA-Small's
SPLIT_SEED = 0  # not the run's, so that runs with different seeds are evaluated on the same rows
LARGEST_DOCUMENT = 0.1  # a single document may be held back if it has at most this ratio of the rows

# A row takes about as long to evaluate as to train on: once as masked for the run, once as fixed.
EVALUATED_SHARE = 0.05  # relative to the rows trained on between two evaluations
FEWEST_EVALUATED = 128


def resolve_rows(data: DataArguments, config: PreTrainedConfig) -> None:
    """Settle the mask ratio, the length of a row, where documents end and whether they share rows.

    Prepared features determine all but the mask ratio.
    """
    data.mask_ratio = MASK_RATIO if data.mask_ratio is None else data.mask_ratio
    if not 0 < data.mask_ratio < 1:
        raise InputError(f"The configuration's mask_ratio is {data.mask_ratio}; it must lie between 0 and 1.")
    paths = (*data.train_file, *data.validation_file)
    prepared = {path: read_metadata(Path(path))["settings"] for path in paths if is_features(path)}
    settle_packing(data, prepared)
    if data.pack_documents and is_flash_attention_requested(config):
        raise InputError(
            f"--attn_implementation {config._attn_implementation}: cannot separate documents that share a row; use "
            "sdpa or flex_attention, or leave out --pack_documents."
        )
    settle_documents(data, prepared)
    settle_length(data, prepared, config.max_position_embeddings)


def settle_packing(data: DataArguments, prepared: dict[str, dict]) -> None:
    """Settle whether documents share rows, from the option and the `prepared` features (path -> settings)."""
    packed = {path: settings.get("pack_documents", False) for path, settings in prepared.items()}
    if data.pack_documents and (alone := [path for path in packed if not packed[path]]):
        raise InputError(
            f"{alone[0]}: its documents do not share rows. Make the features again with --pack_documents, or leave it "
            "out here."
        )
    data.pack_documents |= any(packed.values())


def settle_documents(data: DataArguments, prepared: dict[str, dict]) -> None:
    """Settle where a document of raw text ends, from the option or the `prepared` features."""
    ends = {path: settings["documents"] for path, settings in prepared.items()}
    for path in ends.keys() & {*data.train_file}:
        if data.documents not in (None, ends[path]):
            raise InputError(
                f"{path}: was made with --documents {ends[path]}, not {data.documents}. Leave --documents out, or "
                "make the features again."
            )
    data.documents = data.documents or next(iter(ends.values()), DEFAULT_DOCUMENTS)


def settle_length(data: DataArguments, prepared: dict[str, dict], positions: int | None) -> None:
    """Settle the longest row, from the option or the `prepared` features, whose rows are not cut again."""
    lengths, asked = {path: settings["max_seq_length"] for path, settings in prepared.items()}, data.max_seq_length
    for path, length in lengths.items():
        if asked is not None and length > asked:
            raise InputError(
                f"{path}: its rows have up to {length} tokens, more than --max_seq_length {asked}. Raise it, or make "
                f"the features again with --max_seq_length {asked}."
            )
    longest = max(lengths.values(), default=None)
    if longest is not None and all(map(is_features, (*data.train_file, *data.validation_file))):
        if asked is not None and longest < asked:
            logger.warning(
                f"--max_seq_length is {asked}, but the rows of the features have {longest} tokens at most, so the "
                "model does not learn later positions. Make the features again with the longer length to change this."
            )
        asked = longest  # batches need no padding beyond this
    data.max_seq_length = asked or longest or min(MAX_SEQ_LENGTH, positions or MAX_SEQ_LENGTH)
    if positions is not None and data.max_seq_length > positions:
        raise InputError(
            f"Rows of {data.max_seq_length} tokens do not fit the model's {positions} positions: lower "
            "--max_seq_length, or raise max_position_embeddings in the configuration."
        )


def is_features(path: str) -> bool:
    return (Path(path) / METADATA).is_file()


def are_full(rows: datasets.Dataset | TextStream, tokens: int) -> bool:
    """Whether every row is known to have so many tokens."""
    return (
        isinstance(rows, datasets.Dataset)
        and pc.min(pc.list_value_length(rows.data.column("input_ids"))).as_py() == tokens
    )


def build_rows(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, training: PretrainingArguments
) -> tuple[datasets.Dataset | Mixture | TextStream, datasets.Dataset | None]:
    """Return the rows for training and for evaluation (None without evaluation).

    Missing and empty text is reported before any text is tokenized.
    """
    read_now = [] if data.streaming else [(paths, data.split) for paths in corpora_of(data)]
    for paths, split in (*read_now, (data.validation_file, data.validation_split)):
        if any(map(is_features, paths)) and len(paths) > 1:
            raise InputError(f"{paths[0]}, {paths[1]}: give one folder of features, or only text.")
        if paths and not is_features(paths[0]):
            check_text(Corpus(paths, data.documents, data.text_column, split))
    train_rows: datasets.Dataset | Mixture | TextStream | None = None
    if data.streaming:
        train_rows = build_stream(data, tokenizer, training)
    eval_rows = None
    if data.validation_file:  # first, because it is smaller and its errors show sooner
        eval_rows = load_rows(data.validation_file, data, tokenizer, data.validation_split).select_columns("input_ids")
    if train_rows is None:
        train_rows, eval_rows = load_train_rows(data, tokenizer, training, eval_rows)
    if eval_rows is not None:
        count = data.max_eval_samples or rows_to_evaluate(training, train_rows)
        if data.max_eval_samples is None and count < len(eval_rows):
            logger.info(
                f"Each evaluation uses {count:,} of the {len(eval_rows):,} evaluation rows, to stay short compared to "
                "training. Set --max_eval_samples to use more."
            )
        eval_rows = sample(eval_rows, count)
    return train_rows, eval_rows


def corpora_of(data: DataArguments) -> list[list[str]]:
    """The entries of train_file: each a corpus in a mixture, otherwise all of them one."""
    return [[path] for path in data.train_file] if data.mixture else [data.train_file]


def check_text(corpus: Corpus) -> None:
    """Refuse a corpus that is missing or holds no text. Only its beginning is read."""
    next(block for block in corpus.blocks() if block.text.strip())


def data_seed(training: PretrainingArguments) -> int:
    return training.seed if training.data_seed is None else training.data_seed


def rows_to_evaluate(training: PretrainingArguments, train_rows: datasets.Dataset | Mixture | TextStream) -> int:
    """Return the number of evaluation rows that keeps evaluation a small part of the run."""
    rows_per_update = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    steps_per_epoch = len(train_rows) / rows_per_update if has_length(train_rows) else math.inf
    steps = training.max_steps if training.max_steps > 0 else training.num_train_epochs * steps_per_epoch
    interval = {"no": steps, "epoch": steps_per_epoch, "steps": training.eval_steps}[training.eval_strategy]
    if training.eval_strategy == "steps" and interval < 1:
        interval *= steps
    return max(FEWEST_EVALUATED, int(EVALUATED_SHARE * rows_per_update * min(interval, steps)))


def load_train_rows(
    data: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    training: PretrainingArguments,
    eval_rows: datasets.Dataset | None,
) -> tuple[datasets.Dataset | Mixture, datasets.Dataset | None]:
    """Load the rows for training. Without `eval_rows`, hold some of each corpus back for evaluation."""
    corpora, held_back = [load_rows(paths, data, tokenizer, data.split) for paths in corpora_of(data)], []
    if eval_rows is None and data.validation_split_percentage:
        for i, rows in enumerate(corpora):
            if len(rows) > 1:
                is_held_back = rows_to_hold_back(rows, data.validation_split_percentage / 100)
                held_back.append(rows.select(np.flatnonzero(is_held_back)).select_columns("input_ids"))
                corpora[i] = rows.select(np.flatnonzero(~is_held_back))
    if held_back:
        eval_rows = datasets.concatenate_datasets(held_back)
    corpora = [rows.select_columns("input_ids") for rows in corpora]
    if data.mixture:
        named = dict(zip(corpus_names(data.train_file), corpora, strict=True))
        return Mixture(named, data.mixture, data_seed(training)), eval_rows
    return sample(corpora[0], data.max_train_samples), eval_rows


def rows_to_hold_back(rows: datasets.Dataset, share: float) -> np.ndarray:
    """Choose whole documents for evaluation, so that no document is on both sides.

    Args:
        rows: Features. Those of an earlier version do not say which document a row is from.
        share: The ratio of rows to hold back.

    Returns:
        Whether each row is held back, for at most `share` of them. If even the smallest document has more rows, that
        document is held back; if it has more than a tenth of all rows, the end of the text is.
    """
    wanted = min(len(rows) - 1, max(1, round(len(rows) * share)))
    numbers = rows.data.column("document").to_numpy() if "document" in rows.column_names else np.zeros(len(rows))
    _, documents, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(sizes))
    chosen, left = [], wanted
    for document in order.tolist():
        if sizes[document] <= left:
            chosen.append(document)
            left -= sizes[document]
        if not left:
            break
    if not chosen and sizes.min() <= LARGEST_DOCUMENT * len(rows):
        chosen = [int(sizes.argmin())]
    if chosen:
        is_held_back = np.isin(documents, chosen)
        logger.info(
            f"Held back for evaluation: {is_held_back.sum():,} of {len(rows):,} rows, {len(chosen):,} documents."
        )
        return is_held_back
    reason = "the text is one document, or a few long ones"
    if "document" not in rows.column_names:
        reason = "these features were made by an earlier version and do not tell documents apart; make them again"
    logger.warning(
        f"Held back for evaluation: the last {wanted:,} of {len(rows):,} rows ({reason}). They may continue a "
        "document that is trained on. Give separate text as --validation_file to avoid that."
    )
    return np.arange(len(rows)) >= len(rows) - wanted


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
    return rows.with_format("numpy")  # with lists of integers the collator would take half as long again


def build_stream(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, training: PretrainingArguments
) -> TextStream:
    """Build the rows for training that are read and cut during training."""
    for path in filter(is_features, data.train_file):
        raise InputError(f"{path}: a folder of features is on disk already; leave out --streaming.")
    if not data.validation_file:
        logger.info("No evaluation: a stream cannot hold rows back. Give text to evaluate on as --validation_file.")
    corpora = [
        Corpus(paths, data.documents, data.text_column, data.split, streaming=True) for paths in corpora_of(data)
    ]
    packer = make_packer(tokenizer, data.max_seq_length, pack_documents=data.pack_documents)
    settings: dict[str, Any] = {
        "batch_size": training.train_batch_size,
        "seed": data_seed(training),
        "workers": training.dataloader_num_workers,
        "process_index": training.process_index,
        "num_processes": training.world_size,
    }
    if not data.mixture:
        return TextStream(corpora[0], packer, **settings)
    for corpus in corpora:
        check_text(corpus)
    named = dict(zip(corpus_names(data.train_file), corpora, strict=True))
    return MixedStream(named, data.mixture, packer, **settings)
