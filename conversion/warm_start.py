"""Start from what exists: published ELECTRA weights, a BERT-shaped encoder, or a generator that was trained alone."""

import logging
import os
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, ElectraForMaskedLM, ElectraForPreTraining, PretrainedConfig

from span_electra.configuration_span_electra import ENCODER_SHAPE, STOCK_SETTINGS, SpanElectraConfig
from span_electra.modeling_span_electra import WORD_EMBEDDINGS, SpanElectraForMaskedLM, SpanElectraForPreTraining
from span_electra.span_objectives import SpanBoundaryHead

logger = logging.getLogger(__name__)

BERT_SHAPED = ("bert", "electra", "roberta", "xlm-roberta", "camembert")

# These number their positions from the padding id on: so many rows of their position table are never a position.
NUMBERED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")

# What both networks have in common: their embeddings' shape, and what a layer computes.
COMMON_SETTINGS = (
    *("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size"),
    *("hidden_act", "layer_norm_eps"),
)
BOUNDARY_HEAD_SHAPE = ("max_span_length", "boundary_position_size")

# What weights to start from leave open: always, where the heads of the objectives are new, and where the generator is.
SETTINGS_OF_TRAINING = (
    *("mlm_weight", "sbgo_weight", "rtd_weight", "sbpo_weight", "sampling_temperature"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)
SETTINGS_OF_NEW_HEADS = ("embedding_sharing", "use_sbgo", "use_sbpo", *BOUNDARY_HEAD_SHAPE)
SETTINGS_OF_A_NEW_GENERATOR = ("generator_size", *(f"generator_{name}" for name in ENCODER_SHAPE))

# What an encoder has in common with ELECTRA's, by name and by meaning.
SHARED_SETTINGS = (
    *("vocab_size", "type_vocab_size", "pad_token_id", "hidden_act", "layer_norm_eps"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"),
)


def from_electra(
    discriminator: str | os.PathLike, generator: str | os.PathLike | None = None, **settings
) -> SpanElectraForPreTraining:
    """Start from ELECTRA's weights.

    Args:
        discriminator: folder or Hub name of a stock ELECTRA discriminator.
        generator: the same of its generator. Without one, the generator is new but for the word embeddings. What
            the two have in common, embeddings or encoder, they share; unless `settings` say otherwise, all else stays
            each one's own.
        settings: fields of [`SpanElectraConfig`] that the two do not determine.

    Raises:
        ValueError: the two differ in vocabulary, embedding size or activation, one lacks weights or is a decoder, or
            the generator has an output layer of its own.
    """
    source, _ = load_whole(ElectraForPreTraining, discriminator)
    check_encoder(discriminator, source.config)
    shape = {name: getattr(source.config, name) for name in STOCK_SETTINGS} | {"tie_word_embeddings": True}
    generator_model = None
    if generator is not None:
        generator_model, _ = load_whole(ElectraForMaskedLM, generator)
        check_generator(generator, generator_model)
        for name in COMMON_SETTINGS:
            ours, theirs = getattr(source.config, name), getattr(generator_model.config, name)
            if ours != theirs:
                raise ValueError(
                    f"`{name}` is {ours} in the discriminator {str(discriminator)!r} and {theirs} in the "
                    f"generator {str(generator)!r}; give two halves of one model."
                )
        shape |= {f"generator_{name}": getattr(generator_model.config, name) for name in ENCODER_SHAPE}
        ours, theirs = source.electra.state_dict(), generator_model.electra.state_dict()
        differing = {name for name in ours if name not in theirs or not torch.equal(ours[name], theirs[name])}
        is_tied = not any(name.startswith("embeddings.") for name in differing)
        if settings.setdefault("embedding_sharing", "tied" if is_tied else "separate") == "tied" and not is_tied:
            logger.warning(f"{generator}: its embeddings differ from the discriminator's, which take their place.")
        if any(not name.startswith("embeddings.") for name in differing):
            settings.setdefault("share_encoder", False)
    model = SpanElectraForPreTraining(SpanElectraConfig(**shape | settings))
    model.discriminator_predictions.load_state_dict(source.discriminator_predictions.state_dict())
    load_encoders(model, source.electra.state_dict(), generator_model)
    loaded = ("discriminator_predictions",) if generator_model is None else ("discriminator_predictions", "generator.")
    new = [name for name in new_parts(model) if not name.startswith(loaded)]
    logger.warning(f"{discriminator}: new, to be trained: {listed(new)}.")
    return model


def from_encoder(encoder: str | os.PathLike, **settings) -> SpanElectraForPreTraining:
    """Start from a BERT-shaped encoder, which becomes the discriminator's: its hidden states are the same.

    What the encoder has and ELECTRA lacks is left behind, and what it lacks is new; both are logged by name.

    Args:
        encoder: folder or Hub name of a model of one of the types in `BERT_SHAPED`.
        settings: fields of [`SpanElectraConfig`] that the encoder does not determine, the generator's shape above all.

    Raises:
        ValueError: a model of another type, a decoder, one whose embeddings are built in another way, or lack weights.
    """
    config = AutoConfig.from_pretrained(encoder)
    check_encoder(encoder, config)
    source, heads = load_whole(AutoModel, encoder)
    weights = source.state_dict()
    if config.model_type in NUMBERED_FROM_PADDING:
        table = weights["embeddings.position_embeddings.weight"]
        weights["embeddings.position_embeddings.weight"] = table[config.pad_token_id + 1 :]
    shape = {name: getattr(config, name) for name in (*SHARED_SETTINGS, *ENCODER_SHAPE)}
    shape["embedding_size"] = getattr(config, "embedding_size", config.hidden_size)
    shape["max_position_embeddings"] = len(weights["embeddings.position_embeddings.weight"])
    model = SpanElectraForPreTraining(SpanElectraConfig(**shape | settings))
    ours = model.electra.state_dict()
    left_behind = sorted({*weights} - {*ours} | heads)
    load_encoders(model, {name: weights[name] for name in ours})
    logger.warning(
        f"{encoder}: its encoder is now the discriminator's. Not used: {listed(left_behind)}. New, to be trained: "
        f"{listed(new_parts(model))}."
    )
    return model


def load_whole(model_class: Any, name: str | os.PathLike, **kwargs) -> tuple[Any, set[str]]:
    """A model of `model_class`, and the names of the saved weights that it has no place for; `kwargs` as in
    [`PreTrainedModel.from_pretrained`].

    Raises:
        ValueError: weights are missing or of another shape, which would be random. (A pooler may be: it is not used.)
    """
    model, loaded = model_class.from_pretrained(name, output_loading_info=True, **kwargs)
    keys = [key if isinstance(key, str) else key[0] for key in (*loaded["missing_keys"], *loaded["mismatched_keys"])]
    missing = sorted(key for key in keys if "pooler." not in key)
    if missing:
        raise ValueError(
            f"{name} lacks {len(missing)} of its weights, or has them in another shape ({', '.join(missing[:3])}); "
            "give a whole checkpoint."
        )
    return model, {*loaded["unexpected_keys"]}


def check_encoder(name: str | os.PathLike, config) -> None:
    """Raise a ValueError unless ELECTRA's encoder can take this one's weights and give the same hidden states."""
    if config.model_type not in BERT_SHAPED:
        raise ValueError(f"{name} is of type {config.model_type!r}; accepted are {', '.join(BERT_SHAPED)}.")
    if getattr(config, "is_decoder", False):
        raise ValueError(f"{name} is a decoder (is_decoder); only encoders, which see both sides, can be used.")
    if (kind := getattr(config, "position_embedding_type", None) or "absolute") != "absolute":
        raise ValueError(f"{name} has position embeddings of type {kind!r}; only 'absolute' ones can be used.")


def check_generator(name: str | os.PathLike, generator: ElectraForMaskedLM) -> None:
    """Raise a ValueError unless it is an encoder whose output layer is its word embeddings. Of two tables, loading
    would write one over the other."""
    check_encoder(name, generator.config)
    weights = generator.state_dict()
    if not torch.equal(weights["generator_lm_head.weight"], weights[WORD_EMBEDDINGS]):
        raise ValueError(
            f"{name} has an output layer of its own (tie_word_embeddings is false), where ELECTRA's generator has its "
            "word embeddings; give a generator in which the two are one."
        )


def new_parts(model: SpanElectraForPreTraining) -> list[str]:
    """The modules of `model` that hold weights of their own after its discriminator's encoder was loaded."""
    loaded = {id(parameter) for parameter in model.electra.parameters()}
    modules = {f"generator.{name}": module for name, module in model.generator.named_children()}
    modules |= {name: module for name, module in model.named_children() if name not in ("electra", "generator")}
    return [name for name, module in modules.items() if {id(p) for p in module.parameters()} - loaded]


def listed(names: list[str]) -> str:
    return ", ".join(names) if names else "nothing"


@torch.no_grad()
def load_encoders(
    model: SpanElectraForPreTraining, encoder: dict[str, torch.Tensor], generator: ElectraForMaskedLM | None = None
) -> None:
    """Load the discriminator's `encoder`, and the `generator` or at least its word embeddings."""
    table, generator_table = (
        encoder["embeddings.word_embeddings.weight"],
        model.generator.state_dict()[WORD_EMBEDDINGS],
    )
    if generator is None:
        generator_table.copy_(table)
    else:
        # First the generator: where the two share parameters, the discriminator's are the ones to keep.
        model.generator.load_state_dict(generator.state_dict())
    model.electra.load_state_dict(encoder)
    if model.config.embedding_sharing == "disentangled":
        model.embedding_residual.copy_(table - generator_table)


@torch.no_grad()
def from_generator(generator: str | os.PathLike, **settings) -> SpanElectraForPreTraining:
    """The second of two stages: a discriminator to train against a generator that stays as it is.

    The discriminator starts from the generator's weights wherever the shapes allow; what is new is logged by name.

    Args:
        generator: folder or Hub name of a SpanElectra checkpoint or of a stock ELECTRA generator.
        settings: fields of [`SpanElectraConfig`], the discriminator's shape above all.

    Raises:
        ValueError: what both have in common is not the same, the embeddings were to be shared, or the generator lacks
            weights or has an output layer of its own.
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
                f"`{name}` is {settings[name]} in the configuration and {theirs} in the generator {str(generator)!r}; "
                "leave it out, and it is the generator's."
            )
    settings.setdefault("pad_token_id", config.pad_token_id)
    settings.setdefault("embedding_sharing", "separate")
    settings |= shape | {"objective": "discriminator"}
    model = SpanElectraForPreTraining(SpanElectraConfig(**settings))
    model.generator.load_state_dict(generator_model.state_dict())
    if boundary_head is not None and model.config.use_sbgo:
        model.sbgo_head.load_state_dict(boundary_head.state_dict())
    ours, theirs = model.electra.state_dict(), generator_model.electra.state_dict()
    fitting = [name for name in ours if name in theirs and ours[name].shape == theirs[name].shape]
    model.electra.load_state_dict({name: theirs[name] for name in fitting}, strict=False)
    new = sorted({name.split(".")[0] for name in ours.keys() - set(fitting)})
    logger.warning(
        f"{len(fitting)} of {len(ours)} tensors of the discriminator's encoder start from the generator's. New, at "
        f"least in part: {listed(new)}."
    )
    return model


def load_generator(
    name: str | os.PathLike, config: PretrainedConfig
) -> tuple[ElectraForMaskedLM, SpanBoundaryHead | None]:
    """A generator, and its boundary head where one was trained with it."""
    if SpanElectraForPreTraining.__name__ in (config.architectures or ()):
        model = load_whole(SpanElectraForPreTraining, name)[0]
        return model.generator, getattr(model, "sbgo_head", None)
    if isinstance(config, SpanElectraConfig):
        return load_whole(SpanElectraForMaskedLM, name)[0].generator, None
    return load_whole(ElectraForMaskedLM, name)[0], None
