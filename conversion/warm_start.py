"""Start from existing weights: an ELECTRA, an encoder of any family, or a generator that was trained alone."""

import logging
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    PretrainedConfig,
    PreTrainedModel,
)

from span_electra.common.attributes import no_loading_report
from span_electra.configuration_span_electra import ENCODER_SHAPE, STOCK_SETTINGS, SpanElectraConfig
from span_electra.encoders.configuration_span_encoder import (
    SpanEncoderConfig,
    as_config,
    check_family,
    embedding_width,
    generator_settings,
    shallower,
)
from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining
from span_electra.encoders.stock_encoders import load_whole, refuse_missing, without_pooler
from span_electra.modeling_span_electra import WORD_EMBEDDINGS, SpanElectraForMaskedLM, SpanElectraForPreTraining
from span_electra.span_objectives import SpanBoundaryHead

logger = logging.getLogger(__name__)

# What both networks must have in common: the shape of the embeddings, and what a layer computes.
COMMON_SETTINGS = (
    *("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size"),
    *("hidden_act", "layer_norm_eps"),
)
BOUNDARY_HEAD_SHAPE = ("max_span_length", "boundary_position_size")

# The settings that loaded weights leave open: always, if the heads of the objectives are new, if the generator is new.
SETTINGS_OF_TRAINING = (
    *("mlm_weight", "sbgo_weight", "rtd_weight", "sbpo_weight", "sampling_temperature"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)
SETTINGS_OF_NEW_HEADS = ("embedding_sharing", "use_sbgo", "use_sbpo", *BOUNDARY_HEAD_SHAPE)
SETTINGS_OF_A_NEW_GENERATOR = ("generator_size", *(f"generator_{name}" for name in ENCODER_SHAPE))


def from_electra(
    discriminator: str | os.PathLike, generator: str | os.PathLike | None = None, **settings
) -> SpanElectraForPreTraining:
    """Start from ELECTRA's weights.

    Embeddings or encoders that are equal in both halves are shared. Anything else stays separate, unless `settings`
    say otherwise. Without a generator, a new one takes over the discriminator's word embeddings. The log names what is
    new, and `new_parameters` of the model holds the names of these parameters.

    Args:
        discriminator: folder or Hub name of a stock ELECTRA discriminator, or of an ELECTRA without its head.
        generator: folder or Hub name of its generator.
        settings: fields of [`SpanElectraConfig`] that the two do not determine.

    Raises:
        ValueError: the halves differ in vocabulary, embedding size or activation, one lacks weights or is a decoder,
            or the generator's output layer is not its word embeddings.
    """
    source, has_head = load_discriminator(discriminator)
    shape = {name: getattr(source.config, name) for name in STOCK_SETTINGS} | {"tie_word_embeddings": True}
    generator_model = None
    if generator is not None:
        generator_model, _ = load_whole(ElectraForMaskedLM, generator)
        check_generator(generator, generator_model)
        check_halves(source.config, generator_model.config)
        shape |= {f"generator_{name}": getattr(generator_model.config, name) for name in ENCODER_SHAPE}
        ours, theirs = source.electra.state_dict(), generator_model.electra.state_dict()
        differing = {name for name in ours if name not in theirs or not torch.equal(ours[name], theirs[name])}
        is_tied = not any(name.startswith("embeddings.") for name in differing)
        if settings.setdefault("embedding_sharing", "tied" if is_tied else "separate") == "tied" and not is_tied:
            logger.warning(f"{generator}: its embeddings differ from the discriminator's and are replaced by them.")
        if any(not name.startswith("embeddings.") for name in differing):
            settings.setdefault("share_encoder", False)
    model = SpanElectraForPreTraining(SpanElectraConfig(**shape | settings))
    model.discriminator_predictions.load_state_dict(source.discriminator_predictions.state_dict())
    load_encoders(model, source.electra.state_dict(), generator_model)
    loaded: list[nn.Module] = [model.electra]
    loaded += [model.discriminator_predictions] if has_head else []
    # A new generator's word embeddings come from the discriminator.
    loaded += [model.generator if generator_model else model.generator.get_input_embeddings()]
    mark_new(model, (parameter for module in loaded for parameter in module.parameters()))
    start = ""
    if generator_model is None:
        start = (
            " The generator takes over the discriminator's word embeddings. Its new weights are random, so its "
            f"perplexity starts near or above the size of the vocabulary ({model.config.vocab_size:,})."
        )
    logger.warning(f"{discriminator}: new, to be trained: {listed(parts_of(model, model.new_parameters))}.{start}")
    return model


def load_discriminator(name: str | os.PathLike) -> tuple[Any, bool]:
    """Load an ELECTRA discriminator. Return it, and whether its head was saved too."""
    kind: Any = ElectraForPreTraining
    model, loaded = kind.from_pretrained(name, output_loading_info=True)
    lost_of_head = {key for key in loaded["missing_keys"] if key.startswith("discriminator_predictions.")}
    refuse_missing(name, loaded["missing_keys"] - lost_of_head)
    check_encoder(name, model.config)
    return model, not lost_of_head


def check_halves(discriminator: PretrainedConfig, generator: PretrainedConfig) -> None:
    """Raise a ValueError if two halves are not of one model."""
    for name in COMMON_SETTINGS:
        ours, theirs = getattr(discriminator, name), getattr(generator, name)
        if ours != theirs:
            raise ValueError(
                f"`{name}` is {ours} in the discriminator {discriminator.name_or_path!r} and {theirs} in the "
                f"generator {generator.name_or_path!r}; give two halves of one model."
            )


def from_stock_encoder(
    encoder: str | os.PathLike,
    generator: str | os.PathLike | dict[str, Any] | None = None,
    generator_layers: int | None = None,
    **settings,
) -> SpanEncoderForPreTraining:
    """Start from an encoder of any family, which becomes the discriminator as it is.

    Without a `generator`, the generator begins with the encoder's embeddings and first layers, and with the masked-LM
    head of the same checkpoint if it has one. The log says where each part comes from. The model's
    `new_parameters` names the parameters that start with random weights.

    Args:
        encoder: folder or Hub name of an encoder.
        generator: folder or Hub name of a masked language model of the same family and vocabulary, or a dictionary of
            fields in which a new generator differs from the encoder.
        generator_layers: how many of its first layers the generator takes. By default a third of the encoder's, or
            all of the generator's that you name.
        settings: fields of [`SpanEncoderConfig`], or a `vocab_size` to which both vocabularies grow. Networks with
            embeddings of different widths have separate ones by default.

    Raises:
        ValueError: the family cannot be used, the generator does not match it, or weights are missing.
    """
    config = AutoConfig.from_pretrained(encoder)
    check_family(config)
    vocab_size = settings.pop("vocab_size", 0)
    discriminator, _ = load_whole(AutoModel, encoder, dtype=torch.float32, **without_pooler(config))
    start, new = load_stock_generator(encoder, config, generator, generator_layers)
    if embedding_width(config) != embedding_width(start.config):
        settings.setdefault("embedding_sharing", "separate")
    shared = settings.get("embedding_sharing") == "tied" and not torch.equal(
        discriminator.get_input_embeddings().weight,  # type: ignore[arg-type]
        start.get_input_embeddings().weight,  # type: ignore[arg-type]
    )
    if shared:
        logger.warning(f"{generator}: its embeddings differ from the discriminator's and are replaced by them.")
    model = SpanEncoderForPreTraining(SpanEncoderConfig(discriminator=config, **settings), discriminator, start)
    if vocab_size > model.config.vocab_size:
        model.resize_token_embeddings(vocab_size)
    of_generator = dict(model.generator.named_parameters(remove_duplicate=False))
    known = [weight for name, weight in of_generator.items() if name not in new]
    # The table that disentangled embeddings share is the generator's.
    known += [w for name, w in model.discriminator.named_parameters() if not name.endswith(".shared.weight")]
    mark_new(model, known)
    kept = {name for name, _ in model.generator.named_parameters()} - new
    logger.warning(
        f"{encoder}: is the discriminator. The generator has {start.config.num_hidden_layers} layers. From "
        f"{encoder if generator is None else generator}: {listed(parts_of(model.generator, kept))}. "
        f"New, to be trained: {listed(parts_of(model, model.new_parameters))}."
    )
    return model


def load_stock_generator(
    encoder: str | os.PathLike, config: PretrainedConfig, generator: Any, layers: int | None
) -> tuple[PreTrainedModel, set[str]]:
    """The generator to start with, and the names of its parameters that are random. Arguments as above; `config` is
    the encoder's."""
    if isinstance(generator, dict):
        changes = generator if layers is None else generator | {"num_hidden_layers": layers}
        start = AutoModelForMaskedLM.from_config(
            as_config(generator_settings(config, config.to_dict(), changes), "generator")
        )
        return start, {name for name, _ in start.named_parameters(remove_duplicate=False)}
    shape = shallower(config, layers)
    if generator is not None:
        shape = AutoConfig.from_pretrained(generator)
        shape = shape if layers is None else shallower(shape, layers)
    with no_loading_report():  # it would name every layer that is left out
        start, loaded = AutoModelForMaskedLM.from_pretrained(
            encoder if generator is None else generator, config=shape, dtype=torch.float32, output_loading_info=True
        )
    new = set(loaded["missing_keys"])
    of_encoder = {name for name in new if name.startswith(f"{start.base_model_prefix}.")}
    refuse_missing(encoder if generator is None else generator, of_encoder if generator is None else new)
    return start, new


def parts_of(model: nn.Module, names: set[str], prefix: str = "") -> list[str]:
    """Shorten the list of the named parameters: a module stands for them if they are all that it has."""
    short = [name for own, _ in model.named_parameters(recurse=False) if (name := f"{prefix}{own}") in names]
    for child, module in model.named_children():
        inside = {f"{prefix}{child}.{name}" for name, _ in module.named_parameters()}
        if inside and inside <= names:
            short.append(f"{prefix}{child}")
        else:
            short += parts_of(module, names, f"{prefix}{child}.")
    return short


def check_encoder(name: str | os.PathLike, config) -> None:
    """Raise a ValueError unless our encoder gives the same hidden states with this ELECTRA's weights."""
    if config.is_decoder:
        raise ValueError(f"{name} is a decoder (is_decoder). Give an encoder, which sees the text on both sides.")
    if (kind := getattr(config, "position_embedding_type", None) or "absolute") != "absolute":
        raise ValueError(f"{name} has position embeddings of type {kind!r}; only 'absolute' ones are supported.")


def check_generator(name: str | os.PathLike, generator: ElectraForMaskedLM) -> None:
    """Raise a ValueError unless `generator` is an encoder whose output layer is its word embeddings.

    If it had two tables, loading would overwrite one with the other.
    """
    check_encoder(name, generator.config)
    weights = generator.state_dict()
    if not torch.equal(weights["generator_lm_head.weight"], weights[WORD_EMBEDDINGS]):
        raise ValueError(
            f"{name} has an output layer of its own (tie_word_embeddings is false), but ELECTRA's generator uses its "
            "word embeddings there. Give a generator in which the two are tied."
        )


def mark_new(model: SpanElectraForPreTraining | SpanEncoderForPreTraining, known: Iterable[nn.Parameter]) -> None:
    """Note in `model.new_parameters` the names of the parameters that begin with random weights: all but `known`."""
    ids = {id(parameter) for parameter in known}
    model.new_parameters = {name for name, parameter in model.named_parameters() if id(parameter) not in ids}


def listed(names: list[str]) -> str:
    return ", ".join(names) if names else "nothing"


@torch.no_grad()
def load_encoders(
    model: SpanElectraForPreTraining, encoder: dict[str, torch.Tensor], generator: ElectraForMaskedLM | None = None
) -> None:
    """Load the discriminator's `encoder`, and the `generator` or, without one, its word embeddings."""
    if generator is None:
        table: nn.Embedding = model.generator.get_input_embeddings()  # type: ignore[operator, assignment]
        table.weight.copy_(encoder["embeddings.word_embeddings.weight"])
    else:
        # The generator goes first: where the two share parameters, the discriminator's values must win.
        model.generator.load_state_dict(generator.state_dict())
    model.electra.load_state_dict(encoder)


@torch.no_grad()
def from_generator(generator: str | os.PathLike, **settings) -> SpanElectraForPreTraining:
    """Start the second of two stages: a discriminator that is trained against a fixed generator.

    The discriminator takes over the generator's weights wherever the shapes allow. The log names what is new.

    Args:
        generator: folder or Hub name of a SpanElectra checkpoint, of a `SpanElectraForMaskedLM`, or of a stock ELECTRA
            generator.
        settings: fields of [`SpanElectraConfig`], above all the discriminator's shape.

    Raises:
        ValueError: a setting contradicts the generator, the embeddings are to be tied, or the generator lacks weights
            or has an output layer of its own.
    """
    config = AutoConfig.from_pretrained(generator)
    generator_model, boundary_head = load_generator(generator, config)
    check_generator(generator, generator_model)
    prefix = "generator_" if isinstance(config, SpanElectraConfig) else ""
    shape = {f"generator_{name}": getattr(config, f"{prefix}{name}") for name in ENCODER_SHAPE}
    for name in (*COMMON_SETTINGS, *(() if boundary_head is None else BOUNDARY_HEAD_SHAPE)):
        theirs = getattr(config, name)
        if settings.setdefault(name, theirs) != theirs:
            raise ValueError(
                f"`{name}` is {settings[name]} in the configuration and {theirs} in the generator {str(generator)!r}. "
                "Leave it out to use the generator's value."
            )
    settings.setdefault("pad_token_id", config.pad_token_id)
    settings.setdefault("embedding_sharing", "separate")
    settings |= shape | {"objective": "discriminator"}
    model = SpanElectraForPreTraining(SpanElectraConfig(**settings))
    model.generator.load_state_dict(generator_model.state_dict())
    if boundary_head is not None and model.config.use_sbgo:
        model.sbgo_head.load_state_dict(boundary_head.state_dict())
    theirs = generator_model.electra.state_dict()
    ours = model.electra.state_dict()
    for part in ("shared", "residual"):  # of disentangled embeddings: their sum is loaded
        ours.pop(f"embeddings.word_embeddings.{part}.weight", None)
    fitting = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    model.electra.load_state_dict({name: theirs[name] for name in fitting}, strict=False)
    new = sorted({name.split(".")[0] for name in ours.keys() - set(fitting)})
    logger.warning(
        f"{generator}: {len(fitting)} of the {len(ours)} tensors of the discriminator's encoder start from this "
        f"generator's. New, at least in part: {listed(new)}."
    )
    return model


def load_generator(
    name: str | os.PathLike, config: PretrainedConfig
) -> tuple[ElectraForMaskedLM, SpanBoundaryHead | None]:
    """Return a generator, and its boundary head if one was saved with it."""
    if SpanElectraForPreTraining.__name__ in (config.architectures or ()):
        model = load_whole(SpanElectraForPreTraining, name)[0]
        return model.generator, getattr(model, "sbgo_head", None)
    if isinstance(config, SpanElectraConfig):
        return load_whole(SpanElectraForMaskedLM, name)[0].generator, None
    return load_whole(ElectraForMaskedLM, name)[0], None
