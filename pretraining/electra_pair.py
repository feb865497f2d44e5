"""Build the ELECTRA pair of a run: from a configuration, or from a SpanElectra or ELECTRA checkpoint."""

import torch
from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError, as_input_error
from span_electra.common.vocabulary import vocabulary_size
from span_electra.configuration_span_electra import ENCODER_SHAPE, SpanElectraConfig, refuse_unknown
from span_electra.conversion.older_names import split_data_settings
from span_electra.conversion.warm_start import (
    SETTINGS_OF_A_NEW_GENERATOR,
    SETTINGS_OF_NEW_HEADS,
    SETTINGS_OF_TRAINING,
    from_electra,
    from_generator,
    load_whole,
)
from span_electra.modeling_span_electra import SpanElectraForPreTraining
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.pretraining.model_files import read_saved


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


def settle_config(
    name: str, settings: dict, overrides: dict, data: DataArguments, tokenizer: PreTrainedTokenizerBase
) -> dict:
    """The model's settings with the `overrides`, from those of the configuration file `name`."""
    with as_input_error("--config_overrides"):
        changes = split_data_settings(overrides)
        refuse_unknown(SpanElectraConfig, changes.model)
    with as_input_error(f"--config {name}"):
        settings, data_settings, token_ids = split_data_settings(settings)
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


def load_model(arguments: ModelArguments, settings: dict) -> SpanElectraForPreTraining:
    """A SpanElectra checkpoint, or an ELECTRA with or without its generator."""
    name, generator = arguments.model_name_or_path, arguments.generator_name_or_path
    kind, saved_as = saved_kind("--model_name_or_path", name)
    if saved_as not in ("SpanElectraForPreTraining", "ElectraForPreTraining") and (
        kind != "electra" or saved_as == "ElectraForMaskedLM"
    ):
        raise InputError(
            f"--model_name_or_path {name}: was saved as {saved_as}; give a SpanElectraForPreTraining, an "
            "ElectraForPreTraining, or an encoder of another family."
        )
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
    check_open(settings, arguments, is_whole=kind == SpanElectraConfig.model_type)
    if arguments.objective is not None:
        settings["objective"] = arguments.objective
    with as_input_error(f"--model_name_or_path {name}"):
        if kind == SpanElectraConfig.model_type:
            return load_whole(SpanElectraForPreTraining, name, dtype=torch.float32, **settings)[0]
        if arguments.objective == "discriminator":
            settings.setdefault("embedding_sharing", "separate")  # if tied, training one would change the other
        return from_electra(name, generator, **settings)


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


def check_kind(option: str, name: str, accepted: tuple[str, ...]) -> None:
    """Refuse a checkpoint that was saved as another class."""
    _, saved_as = saved_kind(option, name)
    if saved_as not in accepted:
        raise InputError(f"{option} {name}: was saved as {saved_as}; accepted are {', '.join(accepted)}.")


def saved_kind(option: str, name: str) -> tuple[str, str]:
    """The model type of a checkpoint, and the class that it was saved as."""
    settings = read_saved(option, name)
    return settings.get("model_type", ""), (settings.get("architectures") or ["a model of unknown class"])[0]
