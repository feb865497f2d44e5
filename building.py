"""What a run is built from, checked before anything is written: tokenizer, model, rows."""

import json
import logging
from importlib.resources import files
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.generic import is_flash_attention_requested

from span_electra.arguments import DataArguments, ModelArguments, PretrainingArguments
from span_electra.checkpoint_folders import without_config
from span_electra.configuration_span_electra import (
    DATA_ALIASES,
    ENCODER_SHAPE,
    TOKENIZER_ALIASES,
    SpanElectraConfig,
    current_name,
    refuse_unknown,
    split_data_settings,
)
from span_electra.conversion import (
    BERT_SHAPED,
    SETTINGS_OF_A_NEW_GENERATOR,
    SETTINGS_OF_NEW_HEADS,
    SETTINGS_OF_TRAINING,
    from_electra,
    from_encoder,
    from_generator,
    load_whole,
)
from span_electra.errors import InputError, as_input_error
from span_electra.modeling_span_electra import SpanElectraForPreTraining
from span_electra.options import read_settings
from span_electra.probes import LinearProbe
from span_electra.streaming import TextStream
from span_electra.tokenization.create_features import (
    METADATA,
    cached_features,
    load_features,
    load_tokenizer,
    make_packer,
    read_metadata,
)
from span_electra.tokenization.text import DEFAULT_DOCUMENTS, Corpus

logger = logging.getLogger(__name__)

MASK_RATIO, MAX_SEQ_LENGTH = 0.15, 128  # ELECTRA-Small's
SPLIT_SEED = 0  # not the run's: runs with different seeds are evaluated on the same rows
# Ids that a configuration file may repeat -> the token's role in the tokenizer.
TOKEN_IDS = {alias: alias.removesuffix("_id") for alias in TOKENIZER_ALIASES} | {"pad_token_id": "pad"}


def build_tokenizer(arguments: ModelArguments) -> PreTrainedTokenizerBase:
    name = arguments.tokenizer or arguments.model_name_or_path
    if name is None:
        raise InputError(
            "--tokenizer is missing: give a folder or a Hub name, or train one on your text first, with "
            "python -m span_electra.tokenization.train_tokenizer."
        )
    tokenizer = load_tokenizer(name)
    if tokenizer.pad_token in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token):
        raise InputError(
            f"--tokenizer {name}: pads with {tokenizer.pad_token}, which marks something else too, and would never be "
            "learnt. Give it a pad token of its own, by tokenizer.add_special_tokens({'pad_token': '[PAD]'}), and "
            "save it by tokenizer.save_pretrained."
        )
    tokenizer.padding_side = "right"  # positions are counted from the left
    if arguments.tokenizer is not None and arguments.model_name_or_path is not None:
        warn_of_other_tokenizer(tokenizer, arguments)
    if arguments.generator_name_or_path is not None:
        refuse_other_tokenizer(tokenizer, arguments.generator_name_or_path)
    return tokenizer


def warn_of_other_tokenizer(tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments) -> None:
    """Say so if the model to start from was trained with other tokens: most often that is a mistake."""
    try:
        own = load_tokenizer(arguments.model_name_or_path)
    except InputError:
        return  # it brings none
    if own.get_vocab() != tokenizer.get_vocab():
        logger.warning(
            f"--tokenizer {arguments.tokenizer}: has other tokens than {arguments.model_name_or_path} was trained "
            "with, so that its embeddings stand for other words; leave it out to go on from what they have learnt."
        )


def refuse_other_tokenizer(tokenizer: PreTrainedTokenizerBase, generator: str) -> None:
    """Refuse a generator that was trained with other tokens: its samples would be other words."""
    try:
        own = load_tokenizer(generator)
    except InputError:
        return  # it brings none, or cannot be loaded, which is said where it is
    if own.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"--generator {generator}: was trained with other tokens than {tokenizer.name_or_path} has, so that its "
            f"samples would be other words; give --tokenizer {generator}."
        )


def build_model(
    arguments: ModelArguments, data: DataArguments, tokenizer: PreTrainedTokenizerBase
) -> SpanElectraForPreTraining:
    """The model to train. What its configuration file says about the data goes to `data`, unless that is given."""
    if arguments.config is None:
        model = load_model(arguments)
    else:
        settings = read_config(arguments.config, read_overrides(arguments.config_overrides), data, tokenizer)
        model = new_model(arguments, settings, tokenizer)
    if (tokens := max(tokenizer.get_vocab().values()) + 1) > model.config.vocab_size:
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path} has {tokens} tokens, the model has room for "
            f"{model.config.vocab_size}: raise vocab_size in the configuration (or leave it out there), or use "
            "the model's own tokenizer."
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    for embeddings in (model.get_input_embeddings(), model.generator.get_input_embeddings()):
        embeddings.padding_idx = tokenizer.pad_token_id  # whose row no gradient reaches: weights may come with another
    # It is saved beside the model, whose users truncate and pair texts by it.
    tokenizer.model_max_length = model.config.max_position_embeddings
    if model.config.type_vocab_size == 1:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if arguments.attn_implementation is not None:
        with as_input_error(f"--attn_implementation {arguments.attn_implementation}"):
            model.set_attn_implementation(arguments.attn_implementation)
        if arguments.attn_implementation == "flex_attention" and model.config.attention_probs_dropout_prob:
            raise InputError(
                f"--attn_implementation flex_attention: has no dropout, and attention_probs_dropout_prob is "
                f"{model.config.attention_probs_dropout_prob}; set that to 0 by --config_overrides, or use sdpa."
            )
    return model


def new_model(
    arguments: ModelArguments, settings: dict, tokenizer: PreTrainedTokenizerBase
) -> SpanElectraForPreTraining:
    """A model with the configuration's `settings`; in the second of two stages, one around a trained generator."""
    name, generator = arguments.config, arguments.generator_name_or_path
    if arguments.objective is not None:
        settings["objective"] = arguments.objective
    if settings.get("objective") == "discriminator" and generator is None:
        raise InputError(
            "--objective discriminator with --config needs --generator, the folder of a generator that is trained: "
            "train one by --objective generator."
        )
    if generator is not None:
        check_kind("--generator", generator, ("SpanElectraForPreTraining", "ElectraForMaskedLM"))
        with as_input_error(f"--config {name} with --generator {generator}"):
            return from_generator(generator, **settings)
    settings.setdefault("vocab_size", max(tokenizer.get_vocab().values()) + 1)
    with as_input_error(f"--config {name}"):
        return SpanElectraForPreTraining(SpanElectraConfig(**settings))


def read_overrides(overrides: str | None) -> dict:
    """The settings in --config_overrides."""
    try:
        settings = json.loads(overrides or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--config_overrides {overrides}: not valid JSON ({error}). Give an object: "
            "'{\"num_hidden_layers\": 6}'."
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"--config_overrides {overrides}: a {type(settings).__name__}; give names with values, as a JSON object."
        )
    return settings


def read_config(name: str, overrides: dict, data: DataArguments, tokenizer: PreTrainedTokenizerBase) -> dict:
    """The model's settings in the JSON file `name`, or in the one of that name that the package ships, some of them
    changed."""
    path = Path(name)
    if not path.is_file():
        folder = Path(str(files("span_electra.configs")))
        shipped = {file.stem: file for file in folder.glob("*.json")}
        if name not in shipped:
            raise InputError(f"--config {name}: no such file, and not one of {', '.join(sorted(shipped))}.")
        path = shipped[name]
    settings = read_settings(path)
    with as_input_error("--config_overrides"):
        refuse_unknown(overrides)
    with as_input_error(f"--config {name}"):
        refuse_unknown(settings, are_saved="transformers_version" in settings)
    settings, data_settings = split_data_settings(settings)
    refuse_two_values(name, settings)
    changes, data_changes = split_data_settings(overrides)
    data_settings |= data_changes
    replaced = {current_name(key) for key in changes}  # the file may have an older name for one
    if "generator_size" in replaced:
        replaced |= {f"generator_{part}" for part in ENCODER_SHAPE}
    settings = {key: value for key, value in settings.items() if current_name(key) not in replaced} | changes
    for key, value in data_settings.items():
        if isinstance(value, bool) or not isinstance(value, int if key == "max_seq_length" else (int, float)):
            raise InputError(f"{name}: {key} is {value!r}; a number is expected.")
        if getattr(data, key) is None:
            setattr(data, key, value)
    for key, role in TOKEN_IDS.items():
        actual = getattr(tokenizer, f"{role}_token_id")
        if settings.get(key, actual) != actual:
            raise InputError(
                f"{name}: {key} is {settings[key]}, but the tokenizer's {role} token is {actual}. Ids come from the "
                "tokenizer: leave the line out, or use the tokenizer that the file was written for."
            )
    if settings.get("tie_word_embeddings") is False:  # saved models may have come apart, but are not trained like that
        raise InputError(
            f"{name}: tie_word_embeddings is false; ELECTRA's generator has one table for its input and output, so "
            "leave it out. What the two networks share is embedding_sharing."
        )
    settings["pad_token_id"] = tokenizer.pad_token_id
    return settings


def refuse_two_values(name: str, settings: dict) -> None:
    """Refuse a file that gives one setting twice, by an older and by today's name, with two values."""
    seen: dict[str, str] = {}
    for key, value in settings.items():
        if key in DATA_ALIASES:  # a length, of which there may be two: of rows, and of what the model has room for
            continue
        other = seen.setdefault(current_name(key), key)
        if settings[other] != value:
            raise InputError(
                f"{name}: {other} is {settings[other]!r} and {key} is {value!r}, but both name one setting; leave one "
                "out."
            )


def load_model(arguments: ModelArguments) -> SpanElectraForPreTraining:
    """A SpanElectra checkpoint, the two halves of an ELECTRA, or another encoder's weights in a new model."""
    name, generator = arguments.model_name_or_path, arguments.generator_name_or_path
    kind, saved_as = check_kind("--model_name_or_path", name)
    if generator is not None:
        if saved_as != "ElectraForPreTraining":
            raise InputError(
                f"--generator_name_or_path {generator}: goes with an ELECTRA discriminator (ElectraForPreTraining), "
                f"and {name} was saved as {saved_as}; leave it out."
            )
        check_kind("--generator_name_or_path", generator, ("ElectraForMaskedLM",))
    if arguments.objective == "generator" and read_saved("--model_name_or_path", name).get("objective") != "generator":
        raise InputError(
            f"--objective generator: {name} has a discriminator that was trained, and would be saved as one whose "
            "discriminator was not. Leave --objective out to train both, or train a new generator: --config."
        )
    if generator is None and arguments.objective == "discriminator" and kind != SpanElectraConfig.model_type:
        raise InputError(
            f"--objective discriminator: {name} brings no generator to train against. Give an ELECTRA discriminator "
            "with --generator_name_or_path, or --config with --generator."
        )
    settings = read_overrides(arguments.config_overrides)
    check_open(settings, arguments, is_whole=kind == SpanElectraConfig.model_type)
    if arguments.objective is not None:
        settings["objective"] = arguments.objective
    with as_input_error(f"--model_name_or_path {name}"):
        if kind == SpanElectraConfig.model_type:
            return load_whole(SpanElectraForPreTraining, name, dtype=torch.float32, **settings)[0]
        if arguments.objective == "discriminator":
            settings.setdefault("embedding_sharing", "separate")  # tied, training the one would change the other
        if saved_as == "ElectraForPreTraining":
            return from_electra(name, generator, **settings)
        return from_encoder(name, **settings)


def check_open(settings: dict, arguments: ModelArguments, *, is_whole: bool) -> None:
    """Refuse `settings` of what the weights to start from settle: everything but training in a checkpoint that
    `is_whole`, a SpanElectra model's; else the discriminator, and the generator where one came with it."""
    name = arguments.model_name_or_path
    accepted = [*SETTINGS_OF_TRAINING]
    objective = arguments.objective or (
        read_saved("--model_name_or_path", name).get("objective") if is_whole else None
    )
    if objective == "discriminator":
        accepted.remove("sampling_head")  # which may ask for SBGO's, that nothing trains
    if not is_whole:
        accepted += SETTINGS_OF_NEW_HEADS
        if arguments.generator_name_or_path is None:
            accepted += SETTINGS_OF_A_NEW_GENERATOR
    for setting in settings:
        if setting not in accepted:
            raise InputError(
                f"--config_overrides: `{setting}` is not among what the weights of {name} leave open: "
                f"{', '.join(accepted)}. Leave it out, or train a new model: --config."
            )


def read_saved(option: str, name: str) -> dict:
    """The settings in a checkpoint's config.json."""
    with as_input_error(f"{option} {name}"):
        settings, _ = SpanElectraConfig.get_config_dict(name)
    if not settings:
        raise InputError(f"{option} {name}: {without_config(name)}")
    return settings


def check_kind(option: str, name: str, accepted: tuple[str, ...] = ()) -> tuple[str, str]:
    """Refuse a checkpoint whose weights would not be used; return its model type and the class it was saved as."""
    settings = read_saved(option, name)
    kind = settings.get("model_type")
    saved_as = (settings.get("architectures") or ["a model of unknown class"])[0]
    if not accepted:
        if kind in BERT_SHAPED and saved_as != "ElectraForMaskedLM":  # which is a generator
            return kind, saved_as
        encoders = f"encoders of the types {', '.join(BERT_SHAPED)}"
        accepted = ("SpanElectraForPreTraining", "ElectraForPreTraining", encoders)
    if saved_as not in accepted:
        raise InputError(f"{option} {name}: was saved as {saved_as}; accepted are {', '.join(accepted)}.")
    return kind, saved_as


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


def build_probe(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, eval_rows: datasets.Dataset | None
) -> LinearProbe | None:
    if data.probe_file is None:
        return None
    if eval_rows is None:
        raise InputError("--probe_file: is looked at when the model is evaluated; give a --validation_file, too.")
    return LinearProbe(data.probe_file, data.split, tokenizer, data.max_seq_length)


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
