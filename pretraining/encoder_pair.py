"""Build the pair of stock encoders of a run: from a family's configuration, or from any encoder's checkpoint."""

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from span_electra.common.errors import InputError, as_input_error
from span_electra.common.vocabulary import vocabulary_size
from span_electra.conversion.warm_start import (
    SETTINGS_OF_NEW_HEADS,
    SETTINGS_OF_TRAINING,
    from_stock_encoder,
    listed,
)
from span_electra.encoders.configuration_span_encoder import PRETRAINING_FOLDER, SpanEncoderConfig, is_saved_pair
from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining
from span_electra.pretraining.arguments import ModelArguments

# How a family's configuration may call the tokenizer's special tokens, and which token stands in for a missing one.
SPECIAL_TOKENS = {"pad": "pad", "mask": "mask", "cls": "cls", "sep": "sep", "bos": "cls", "eos": "sep", "unk": "unk"}
GENERATOR_LAYERS = "generator_num_hidden_layers"


def new_pair(
    arguments: ModelArguments, settings: dict, tokenizer: PreTrainedTokenizerBase
) -> SpanEncoderForPreTraining:
    """A new pair with the `settings` of a configuration file, which names a family as its `model_type`."""
    if arguments.generator_name_or_path is not None:
        raise InputError(
            f"--generator {arguments.generator_name_or_path}: goes with --config of an ELECTRA pair. Train the second "
            f"stage of a {settings['model_type']} with --model_name_or_path, the folder of the first stage, and "
            "--objective discriminator."
        )
    if arguments.objective is not None:
        settings["objective"] = arguments.objective
    with as_input_error(f"--config {arguments.config}"):
        if (kind := settings["model_type"]) not in CONFIG_MAPPING:
            raise ValueError(f"`model_type` is {kind!r}, which Transformers does not know")
        settings = {"vocab_size": vocabulary_size(tokenizer)} | settings | special_ids(kind, tokenizer)
        return SpanEncoderForPreTraining(SpanEncoderConfig.from_settings(settings))


def special_ids(family: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the tokenizer's special tokens, by the names that the family's configuration has for them."""
    known = vars(CONFIG_MAPPING[family]())
    ids = {}
    for role, substitute in SPECIAL_TOKENS.items():
        token = getattr(tokenizer, f"{role}_token_id", None)
        token = getattr(tokenizer, f"{substitute}_token_id") if token is None else token
        if f"{role}_token_id" in known and token is not None:
            ids[f"{role}_token_id"] = token
    return ids


def load_pair(arguments: ModelArguments, overrides: dict) -> SpanEncoderForPreTraining:
    """Continue from a saved pair, or start from any encoder's weights."""
    name, is_whole = arguments.model_name_or_path, is_saved_pair(arguments.model_name_or_path)
    accepted = [*SETTINGS_OF_TRAINING]
    if not is_whole:
        accepted += [*SETTINGS_OF_NEW_HEADS, *(() if arguments.generator_name_or_path else (GENERATOR_LAYERS,))]
    for setting in overrides:
        if setting not in accepted:
            raise InputError(
                f"--config_overrides: `{setting}` would contradict the weights of {name}; accepted are "
                f"{listed(accepted)}. Leave it out, or train a new model with --config."
            )
    if arguments.objective is not None:
        overrides = overrides | {"objective": arguments.objective}
    with as_input_error(f"--model_name_or_path {name}"):
        if is_whole:
            return load_whole_pair(arguments, overrides)
        if arguments.objective is not None and arguments.objective != "joint":
            raise InputError(
                f"--objective {arguments.objective}: {name} is one encoder, which begins as both networks; leave it "
                "out to train both."
            )
        layers = overrides.pop(GENERATOR_LAYERS, None)
        return from_stock_encoder(name, arguments.generator_name_or_path, generator_layers=layers, **overrides)


def load_whole_pair(arguments: ModelArguments, overrides: dict) -> SpanEncoderForPreTraining:
    name = arguments.model_name_or_path
    if arguments.generator_name_or_path is not None:
        raise InputError(f"--generator {arguments.generator_name_or_path}: {name} brings its own; leave it out.")
    saved, _ = SpanEncoderConfig.get_config_dict(name, subfolder=PRETRAINING_FOLDER)
    if arguments.objective == "generator" and saved.get("objective", "joint") != "generator":
        raise InputError(
            f"--objective generator: {name} has a trained discriminator. Leave --objective out to train both, or "
            "train a new generator with --config."
        )
    return SpanEncoderForPreTraining.from_pretrained(name, dtype=torch.float32, **overrides).train()
