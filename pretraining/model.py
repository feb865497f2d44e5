"""Build and check the model of a run, before anything is written."""

from typing import TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from span_electra.common.errors import InputError, as_input_error
from span_electra.common.vocabulary import vocabulary_size
from span_electra.conversion.extend_vocabulary import extend_vocabulary
from span_electra.encoders.configuration_span_encoder import is_saved_pair
from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining
from span_electra.modeling_span_electra import SpanElectraForPreTraining
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.pretraining.electra_pair import load_model, new_model, settle_config
from span_electra.pretraining.encoder_pair import load_pair, new_pair
from span_electra.pretraining.model_files import read_config, read_overrides, read_saved
from span_electra.pretraining.tokenizer import rows_to_add

PretrainingModel: TypeAlias = SpanElectraForPreTraining | SpanEncoderForPreTraining
ELECTRA_TYPES = ("electra", "span_electra")  # the ELECTRA pair; any other family is a pair of stock encoders


def build_model(
    arguments: ModelArguments, data: DataArguments, tokenizer: PreTrainedTokenizerBase
) -> PretrainingModel:
    """The model to train. Settings of the data in its configuration file go to `data`, unless you gave them."""
    overrides = read_overrides(arguments.config_overrides)
    if arguments.config is None:
        load = load_model if starts_from_electra(arguments.model_name_or_path) else load_pair
        model = load(arguments, overrides)
        if rows := rows_to_add(tokenizer, arguments.model_name_or_path):
            extend_vocabulary(model, rows)
    else:
        settings = read_config(arguments.config)
        if settings.get("model_type", "electra") in ELECTRA_TYPES:
            settings = settle_config(arguments.config, settings, overrides, data, tokenizer)
            model = new_model(arguments, settings, tokenizer)
        else:
            model = new_pair(arguments, settings | overrides, tokenizer)
    if (needed := vocabulary_size(tokenizer)) > model.config.vocab_size:
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path} needs a vocab_size of {needed}, but the model's is "
            f"{model.config.vocab_size}: raise it in the configuration (or leave it out there), or use the model's "
            "own tokenizer."
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    generator: PreTrainedModel = model.generator  # type: ignore[assignment]
    for embeddings in (model.get_input_embeddings(), generator.get_input_embeddings()):
        embeddings.padding_idx = tokenizer.pad_token_id  # no gradient reaches its row; loaded weights may have another
    # The tokenizer is saved with the model, and its users truncate and pair texts by these settings.
    if model.config.max_position_embeddings is not None:
        tokenizer.model_max_length = model.config.max_position_embeddings
    if model.config.type_vocab_size < 2:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if arguments.attn_implementation is not None:
        with as_input_error(f"--attn_implementation {arguments.attn_implementation}"):
            model.set_attn_implementation(arguments.attn_implementation)
        if arguments.attn_implementation == "flex_attention":
            refuse_attention_dropout(model)
    return model


def starts_from_electra(name: str) -> bool:
    """Whether a checkpoint is a SpanElectra or an ELECTRA, and not a pair of stock encoders."""
    return read_saved("--model_name_or_path", name).get("model_type") in ELECTRA_TYPES and not is_saved_pair(name)


def refuse_attention_dropout(model: PretrainingModel) -> None:
    """Refuse flex attention with dropout, which it does not support."""
    network = model.discriminator.config if isinstance(model, SpanEncoderForPreTraining) else model.config
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if value := getattr(network, name, 0):
            raise InputError(
                f"--attn_implementation flex_attention: does not support dropout, and {name} is {value}; set it to 0 "
                "with --config_overrides, or use sdpa."
            )
