"""Build and check the tokenizer and the model of a run, before anything is written."""

import logging
from importlib.resources import files
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from span_electra.common.command_line import load_json, read_settings
from span_electra.common.errors import InputError, as_input_error
from span_electra.common.run_files import without_config
from span_electra.common.vocabulary import vocabulary_size
from span_electra.configuration_span_electra import ENCODER_SHAPE, SpanElectraConfig, refuse_unknown
from span_electra.conversion.older_names import split_data_settings
from span_electra.conversion.warm_start import (
    BERT_SHAPED,
    SETTINGS_OF_A_NEW_GENERATOR,
    SETTINGS_OF_NEW_HEADS,
    SETTINGS_OF_TRAINING,
    from_electra,
    from_encoder,
    from_generator,
    load_whole,
)
from span_electra.modeling_span_electra import SpanElectraForPreTraining
from span_electra.pretraining.arguments import DataArguments, ModelArguments
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


def build_model(
    arguments: ModelArguments, data: DataArguments, tokenizer: PreTrainedTokenizerBase
) -> SpanElectraForPreTraining:
    """The model to train. Settings of the data in its configuration file go to `data`, unless you gave them."""
    if arguments.config is None:
        model = load_model(arguments)
    else:
        settings = read_config(arguments.config, read_overrides(arguments.config_overrides), data, tokenizer)
        model = new_model(arguments, settings, tokenizer)
    if (needed := vocabulary_size(tokenizer)) > model.config.vocab_size:
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path} needs a vocab_size of {needed}, but the model's is "
            f"{model.config.vocab_size}: raise it in the configuration (or leave it out there), or use the model's "
            "own tokenizer."
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    for embeddings in (model.get_input_embeddings(), model.generator.get_input_embeddings()):
        embeddings.padding_idx = tokenizer.pad_token_id  # no gradient reaches its row; loaded weights may have another
    # The tokenizer is saved with the model, and its users truncate and pair texts by these settings.
    tokenizer.model_max_length = model.config.max_position_embeddings
    if model.config.type_vocab_size == 1:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if arguments.attn_implementation is not None:
        with as_input_error(f"--attn_implementation {arguments.attn_implementation}"):
            model.set_attn_implementation(arguments.attn_implementation)
        if arguments.attn_implementation == "flex_attention" and model.config.attention_probs_dropout_prob:
            raise InputError(
                "--attn_implementation flex_attention: does not support dropout, and attention_probs_dropout_prob is "
                f"{model.config.attention_probs_dropout_prob}; set it to 0 with --config_overrides, or use sdpa."
            )
    return model


def new_model(
    arguments: ModelArguments, settings: dict, tokenizer: PreTrainedTokenizerBase
) -> SpanElectraForPreTraining:
    """A model with the configuration's `settings`; in the discriminator stage, with the trained generator."""
    name, generator = arguments.config, arguments.generator_name_or_path
    if arguments.objective is not None:
        settings["objective"] = arguments.objective
    if settings.get("objective") == "discriminator" and generator is None:
        raise InputError(
            "--objective discriminator with --config needs --generator, the folder of a trained generator. Train one "
            "with --objective generator."
        )
    if generator is not None:
        check_kind(
            "--generator", generator, ("SpanElectraForPreTraining", "SpanElectraForMaskedLM", "ElectraForMaskedLM")
        )
        with as_input_error(f"--config {name} with --generator {generator}"):
            return from_generator(generator, **settings)
    settings.setdefault("vocab_size", vocabulary_size(tokenizer))
    with as_input_error(f"--config {name}"):
        return SpanElectraForPreTraining(SpanElectraConfig(**settings))


def read_overrides(overrides: str | None) -> dict:
    """The settings in --config_overrides."""
    try:
        settings = load_json(overrides or "{}")
    except ValueError as error:
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
    """The model's settings with the `overrides`, from the JSON file `name` or from a shipped one of that name."""
    path = Path(name)
    if not path.is_file():
        folder = Path(str(files("span_electra.configs")))
        shipped = {file.stem: file for file in folder.glob("*.json")}
        if name not in shipped:
            raise InputError(f"--config {name}: no such file, and not one of {', '.join(sorted(shipped))}.")
        path = shipped[name]
    with as_input_error("--config_overrides"):
        changes = split_data_settings(overrides)
        refuse_unknown(SpanElectraConfig, changes.model)
    with as_input_error(f"--config {name}"):
        settings, data_settings, token_ids = split_data_settings(read_settings(path))
        refuse_unknown(SpanElectraConfig, settings, are_saved="transformers_version" in settings)
    if "generator_size" in changes.model:  # the sizes that the file gives would win over it
        settings = {key: value for key, value in settings.items() if not is_generator_size(key)}
    settings |= changes.model
    for key, value in (data_settings | changes.data).items():
        if isinstance(value, bool) or not isinstance(value, int if key == "max_seq_length" else (int, float)):
            raise InputError(f"{name}: {key} is {value!r}; a number is expected.")
        if getattr(data, key) is None:
            setattr(data, key, value)
    if "pad_token_id" in settings:
        token_ids["pad"] = settings["pad_token_id"]
    for role, value in (token_ids | changes.token_ids).items():
        if (actual := getattr(tokenizer, f"{role}_token_id")) != value:
            raise InputError(
                f"{name}: {role}_id is {value}, but the tokenizer's {role} token is {actual}. The tokenizer sets "
                "these ids: leave the line out, or use the tokenizer that the file was written for."
            )
    if settings.get("tie_word_embeddings") is False:  # a saved model may have two tables, but is not trained with them
        raise InputError(
            f"{name}: tie_word_embeddings is false, but ELECTRA's generator uses one table for its input and output; "
            "leave it out. embedding_sharing says what the two networks share."
        )
    settings["pad_token_id"] = tokenizer.pad_token_id
    return settings


def is_generator_size(name: str) -> bool:
    return name.removeprefix("generator_") in ENCODER_SHAPE and name not in ENCODER_SHAPE


def load_model(arguments: ModelArguments) -> SpanElectraForPreTraining:
    """A SpanElectra checkpoint, an ELECTRA with or without its generator, or a new model from another encoder."""
    name, generator = arguments.model_name_or_path, arguments.generator_name_or_path
    kind, saved_as = check_kind("--model_name_or_path", name)
    if generator is not None:
        if saved_as != "ElectraForPreTraining":
            raise InputError(
                f"--generator_name_or_path {generator}: belongs to an ELECTRA discriminator (ElectraForPreTraining), "
                f"but {name} was saved as {saved_as}; leave it out."
            )
        check_kind("--generator_name_or_path", generator, ("ElectraForMaskedLM",))
    if arguments.objective == "generator" and read_saved("--model_name_or_path", name).get("objective") != "generator":
        raise InputError(
            f"--objective generator: {name} has a trained discriminator, and would be saved as a model without one. "
            "Leave --objective out to train both, or train a new generator with --config."
        )
    if generator is None and arguments.objective == "discriminator" and kind != SpanElectraConfig.model_type:
        raise InputError(
            f"--objective discriminator: {name} has no trained generator. Give an ELECTRA discriminator with "
            "--generator_name_or_path, or --config with --generator."
        )
    settings = read_overrides(arguments.config_overrides)
    check_open(settings, arguments, is_whole=kind == SpanElectraConfig.model_type)
    if arguments.objective is not None:
        settings["objective"] = arguments.objective
    with as_input_error(f"--model_name_or_path {name}"):
        if kind == SpanElectraConfig.model_type:
            return load_whole(SpanElectraForPreTraining, name, dtype=torch.float32, **settings)[0]
        if arguments.objective == "discriminator":
            settings.setdefault("embedding_sharing", "separate")  # if tied, training one would change the other
        if saved_as == "ElectraForPreTraining":
            return from_electra(name, generator, **settings)
        return from_encoder(name, **settings)


def check_open(settings: dict, arguments: ModelArguments, *, is_whole: bool) -> None:
    """Reject overrides that contradict the loaded weights.

    Args:
        is_whole: Whether the weights are a SpanElectra checkpoint, in which only settings of training are open. In
            other weights the heads are open, and the generator unless one is given.
    """
    name = arguments.model_name_or_path
    accepted = [*SETTINGS_OF_TRAINING]
    if not is_whole:
        accepted += SETTINGS_OF_NEW_HEADS
        if arguments.generator_name_or_path is None:
            accepted += SETTINGS_OF_A_NEW_GENERATOR
    for setting in settings:
        if setting not in accepted:
            raise InputError(
                f"--config_overrides: `{setting}` would contradict the weights of {name}; accepted are "
                f"{', '.join(accepted)}. Leave it out, or train a new model with --config."
            )


def read_saved(option: str, name: str) -> dict:
    """The settings in a checkpoint's config.json."""
    with as_input_error(f"{option} {name}"):
        settings, _ = SpanElectraConfig.get_config_dict(name)
    if not settings:
        raise InputError(f"{option} {name}: {without_config(name)}")
    return settings


def check_kind(option: str, name: str, accepted: tuple[str, ...] = ()) -> tuple[str, str]:
    """Refuse a checkpoint that cannot be loaded whole; return its model type and the class it was saved as."""
    settings = read_saved(option, name)
    kind = settings.get("model_type")
    saved_as = (settings.get("architectures") or ["a model of unknown class"])[0]
    if not accepted:
        if kind in BERT_SHAPED and saved_as != "ElectraForMaskedLM":  # that is a generator
            return kind, saved_as
        encoders = f"encoders of the types {', '.join(BERT_SHAPED)}"
        accepted = ("SpanElectraForPreTraining", "ElectraForPreTraining", encoders)
    if saved_as not in accepted:
        raise InputError(f"{option} {name}: was saved as {saved_as}; accepted are {', '.join(accepted)}.")
    return kind, saved_as
