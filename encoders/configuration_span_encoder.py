"""Configuration of the span objectives on any encoder: two stock configurations, what they share, and the losses."""

import copy
import os
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, __version__
from transformers.activations import ACT2FN
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from span_electra.configuration_span_electra import (
    EMBEDDING_SHARING,
    SpanObjectivesConfig,
    check_choice,
    refuse_unknown,
)

logger = logging.get_logger(__name__)

GENERATOR_FOLDER, PRETRAINING_FOLDER = "generator", "pretraining"  # in the discriminator's stock folder
GENERATOR_DEPTH = 3  # the discriminator has so many times as many layers (He et al., 2021, DeBERTaV3)
TESTED_FAMILIES = (
    *("modernbert", "deberta-v2", "bert", "roberta", "xlm-roberta", "camembert", "eurobert", "distilbert", "mpnet"),
    *("esm", "electra"),
)
SUGGESTION = "give an encoder such as ModernBERT, DeBERTaV3, BERT, RoBERTa or XLM-R"
# Families number a row's positions from here: some never use the first rows of their position table.
NUMBERED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl")
# The fields that are in neither network's configuration.
OWN_SETTINGS = (*(field.name for field in fields(SpanObjectivesConfig)), "embedding_sharing")
# Names that configurations of these families take, though they do not declare them.
UNDECLARED = (
    *("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "rope_theta", "rope_scaling"),
    *("position_buckets", "norm_rel_ebd", "share_att_key", "conv_kernel_size", "conv_act", "conv_groups"),
    *("attention_head_size", "cls_dropout", "embedding_size"),
)


@strict
class SpanEncoderConfig(SpanObjectivesConfig, PreTrainedConfig):
    r"""
    Configuration of a generator and a discriminator of one family, trained on the span objectives.

    Args:
        discriminator (`PreTrainedConfig` or `dict`): the configuration of the encoder that people use, of any family
            that `AutoModel` and `AutoModelForMaskedLM` know. A dictionary needs its `model_type`.
        generator (`PreTrainedConfig` or `dict`, *optional*): the generator's, of the same family and vocabulary.
            Default: the discriminator's with a third of its layers, derived each time it is read and not saved.
        embedding_sharing (`str`, defaults to `"disentangled"`): `"tied"`: both networks use one set of embeddings
            (ELECTRA); `"disentangled"`: the discriminator adds a residual of its own to the generator's word
            embeddings, to which it sends no gradient (He et al., 2021, DeBERTaV3, section 3.2); `"separate"`: two
            sets. The first two need embeddings of one width.

    The fields of [`SpanObjectivesConfig`] describe the objectives. Here `rtd_weight` defaults to 5 and `sbpo_weight`
    to 0.5; docs/any_encoder.md says why.

    Raises:
        ValueError: a family that cannot be used, a generator that does not match the discriminator, an unknown
            setting, or a value out of its range.

    ```python
    >>> from transformers import ModernBertConfig
    >>> from span_electra import SpanEncoderConfig

    >>> config = SpanEncoderConfig(discriminator=ModernBertConfig(num_hidden_layers=6))
    >>> config.generator.num_hidden_layers
    2
    ```
    """

    model_type = "span_encoder"
    sub_configs = {"discriminator": AutoConfig, "generator": AutoConfig}

    discriminator: Any = None
    generator: Any = None
    embedding_sharing: str = "disentangled"
    rtd_weight: float | int = 5.0
    sbpo_weight: float | int = 0.5
    tie_word_embeddings: bool = True  # without it the library ties nothing; `embedding_sharing` says what is tied

    def __post_init__(self, **kwargs):
        refuse_unknown(type(self), kwargs, are_saved=self.transformers_version is not None)
        self.discriminator = as_config(self.discriminator, "discriminator")
        if vars(self).get("generator") is not None:
            self.generator = as_config(vars(self)["generator"], "generator")
        kwargs.setdefault("attn_implementation", {})  # each network keeps its own
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "SpanEncoderConfig":
        """A configuration from one flat set of settings, such as a file in configs/ holds.

        Args:
            settings: a `model_type`, the discriminator's fields, fields of this class, and, if you like, `generator`
                with the fields in which the generator differs. A third of the layers is its default.

        Raises:
            ValueError: as for [`SpanEncoderConfig`].

        ```python
        >>> SpanEncoderConfig.from_settings({"model_type": "bert", "hidden_size": 256, "rtd_weight": 10})
        ```
        """
        if "discriminator" in settings:
            return cls(**{name: value for name, value in settings.items() if name != "model_type"})
        ours = {name: value for name, value in settings.items() if name in OWN_SETTINGS}
        family = {name: value for name, value in settings.items() if name not in (*OWN_SETTINGS, "generator")}
        known = known_settings(family.get("model_type"))
        refuse_unknown(cls, family.keys() - known, are_saved=True)  # first, since this suggests our names
        discriminator, generator = as_config(family, "discriminator"), None
        if (changes := settings.get("generator")) is not None:
            refuse_unknown(type(discriminator), changes.keys() - known)
            generator = as_config(generator_settings(discriminator, family, changes), "generator")
        return cls(discriminator=discriminator, generator=generator, **ours)

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if value is None and name == "generator" and super().__getattribute__("discriminator") is not None:
            return shallower(self.discriminator)
        return value

    def __setattr__(self, name, value):
        if not name.startswith("_") and not hasattr(type(self), name):
            refuse_unknown(type(self), [name], are_saved=True)
        super().__setattr__(name, value)

    def check(self) -> None:
        """Check all values again, as the model does.

        Raises:
            ValueError: a value is out of its range, or the two networks do not match.
        """
        self.check_objectives()
        check_choice(self, "embedding_sharing", EMBEDDING_SHARING)
        discriminator, generator = self.discriminator, self.generator
        for name in ("model_type", "vocab_size"):
            ours, theirs = getattr(discriminator, name, None), getattr(generator, name, None)
            if ours != theirs:
                raise ValueError(
                    f"The discriminator's `{name}` is {ours!r} and the generator's {theirs!r}: give a generator of "
                    "the same family and vocabulary."
                )
        check_family(discriminator)
        widths = embedding_width(discriminator), embedding_width(generator)
        if widths[0] != widths[1] and self.embedding_sharing != "separate":
            raise ValueError(
                f"`embedding_sharing` is {self.embedding_sharing!r}, but the discriminator's embeddings are "
                f"{widths[0]} wide and the generator's {widths[1]}: set it to 'separate', or give both one width."
            )
        if self.objective == "discriminator" and self.embedding_sharing == "tied":
            raise ValueError(
                "`objective` is 'discriminator' and `embedding_sharing` is 'tied', so training the discriminator "
                "would change the generator: set `embedding_sharing` to 'separate' or 'disentangled'."
            )

    # What a run asks of a configuration is the discriminator's.

    @property
    def vocab_size(self) -> int:
        return self.discriminator.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.set_in_both("vocab_size", value)

    @property
    def pad_token_id(self) -> int | None:
        return self.discriminator.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self.set_in_both("pad_token_id", value)

    def set_in_both(self, name: str, value: Any) -> None:
        """Set a field of both networks; a generator that is derived follows by itself."""
        setattr(self.discriminator, name, value)
        if (generator := vars(self)["generator"]) is not None:
            setattr(generator, name, value)

    @property
    def hidden_size(self) -> int:
        return self.discriminator.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        return self.discriminator.num_hidden_layers

    @property
    def type_vocab_size(self) -> int:
        return getattr(self.discriminator, "type_vocab_size", 1)

    @property
    def share_encoder(self) -> bool:
        return False

    @property
    def initializer_range(self) -> float:
        """The standard deviation of the new heads' weights."""
        return getattr(self.discriminator, "initializer_range", 0.02)

    @property
    def max_position_embeddings(self) -> int | None:
        """The longest row that both networks take; None if there is no limit."""
        limits = [limit for limit in map(longest_row, (self.discriminator, self.generator)) if limit is not None]
        return min(limits, default=None)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, **settings) -> "SpanEncoderConfig":
        """The configuration of a saved pair: its networks' stock configurations and the settings of pretraining.

        Args:
            folder: folder or Hub name.
            settings: arguments of [`PreTrainedConfig.from_pretrained`].
        """
        own, _ = cls.get_config_dict(folder, **settings, subfolder=PRETRAINING_FOLDER)
        networks = {
            "discriminator": AutoConfig.from_pretrained(folder, **settings),
            "generator": AutoConfig.from_pretrained(folder, **settings, subfolder=GENERATOR_FOLDER),
        }
        return cls(**own | networks)

    def own_settings(self) -> dict[str, Any]:
        """The settings that are in neither network's configuration."""
        own = {name: getattr(self, name) for name in OWN_SETTINGS}
        return {"model_type": self.model_type, "transformers_version": __version__} | own


def known_settings(model_type: str | None) -> set[str]:
    """The names that a family's configuration takes; none for an unknown family, which `as_config` refuses."""
    if model_type not in CONFIG_MAPPING:
        return set()
    config_class = CONFIG_MAPPING[model_type]
    return {field.name for field in fields(config_class)} | {*config_class.attribute_map, *UNDECLARED}


def as_config(given: Any, role: str) -> PreTrainedConfig:
    """A network's configuration, from one or from a dictionary."""
    if isinstance(given, PreTrainedConfig):
        return given
    if not isinstance(given, dict) or "model_type" not in given:
        raise ValueError(f"`{role}` is {given!r}; give a configuration, or a dictionary that holds its `model_type`.")
    settings = dict(given)
    if (model_type := settings.pop("model_type")) not in CONFIG_MAPPING:
        raise ValueError(f"`{role}` has the unknown `model_type` {model_type!r}; {SUGGESTION}.")
    unknown = settings.keys() - known_settings(model_type)
    refuse_unknown(CONFIG_MAPPING[model_type], unknown, are_saved="transformers_version" in settings)
    return CONFIG_MAPPING[model_type](**settings)


def generator_settings(discriminator: PreTrainedConfig, settings: dict, changes: dict) -> dict[str, Any]:
    """The discriminator's `settings` with a third of its layers and the generator's `changes`."""
    names = type(discriminator).attribute_map  # DistilBERT's num_hidden_layers is its n_layers
    layers = names.get("num_hidden_layers", "num_hidden_layers")
    result = {names.get(name, name): value for name, value in settings.items()} | {layers: fewer_layers(discriminator)}
    result |= {names.get(name, name): value for name, value in changes.items()}
    if result.get("layer_types") is not None and "layer_types" not in changes:
        result["layer_types"] = result["layer_types"][: result[layers]]
    return result


def check_family(config: PreTrainedConfig) -> None:
    """Raise a ValueError if a network of this family cannot be an encoder that fills masks."""
    kind = config.model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(f"A {kind} has no masked language model in Transformers, so it cannot propose; {SUGGESTION}.")
    if config.is_encoder_decoder:
        raise ValueError(f"A {kind} has an encoder and a decoder; {SUGGESTION}.")
    if getattr(config, "is_decoder", False):
        raise ValueError(f"This {kind} is a decoder (`is_decoder`), which sees only one side; {SUGGESTION}.")
    if getattr(config, "vocab_size", None) is None or not hasattr(config, "hidden_size"):
        raise ValueError(f"This {kind} has no `vocab_size` or no `hidden_size`: set them, or {SUGGESTION}.")
    if kind.startswith("deberta") and not config.legacy:
        raise ValueError(
            f"This {kind} has `legacy` set to False: the library then takes a layer of its head for the output layer. "
            "Set `legacy` to True."
        )
    if kind == "mpnet" and config.pad_token_id != 1:
        raise ValueError(
            f"`pad_token_id` is {config.pad_token_id}, but an mpnet takes token 1 for padding, so that token 1 would "
            "never be trained: use a tokenizer whose pad token has the id 1, and set `pad_token_id` to 1."
        )
    if getattr(config, "token_dropout", False) and config.mask_token_id is None:
        raise ValueError(f"`token_dropout` of this {kind} needs its `mask_token_id`: set it to the tokenizer's.")
    if kind not in TESTED_FAMILIES:
        logger.warning_once(f"{kind} is not among the tested families ({', '.join(TESTED_FAMILIES)}).")


def fewer_layers(config: PreTrainedConfig) -> int:
    return max(1, config.num_hidden_layers // GENERATOR_DEPTH)


def shallower(config: PreTrainedConfig, layers: int | None = None) -> PreTrainedConfig:
    """`config` with its first `layers` only: by default a third of them, and at least one."""
    result = copy.deepcopy(config)
    if not hasattr(config, "num_hidden_layers"):  # not an encoder, as `check_family` says
        return result
    result.num_hidden_layers = layers = fewer_layers(config) if layers is None else layers
    if getattr(config, "layer_types", None) is not None:  # which attention each layer has
        result.layer_types = config.layer_types[:layers]
    return result


def embedding_width(config: PreTrainedConfig) -> int:
    return getattr(config, "embedding_size", None) or config.hidden_size


def longest_row(config: PreTrainedConfig) -> int | None:
    """Tokens that an encoder has positions for; None if there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    return positions - first_position(config)


def first_position(config: PreTrainedConfig) -> int:
    """The number of a row's first position."""
    if config.model_type == "mpnet":  # whatever its padding id is
        return 2
    is_learnt = getattr(config, "position_embedding_type", "absolute") == "absolute"
    numbered = config.model_type in NUMBERED_FROM_PADDING or (config.model_type == "esm" and is_learnt)
    return config.pad_token_id + 1 if numbered else 0


def activation_of(config: PreTrainedConfig) -> str:
    names = ("hidden_act", "hidden_activation", "activation")
    return next((value for name in names if (value := getattr(config, name, None)) in ACT2FN), "gelu")


def layer_norm_eps_of(config: PreTrainedConfig) -> float:
    names = ("layer_norm_eps", "norm_eps", "rms_norm_eps")
    return next((value for name in names if (value := getattr(config, name, None)) is not None), 1e-12)


def is_saved_pair(name: str | os.PathLike) -> bool:
    """Whether a folder, or a name on the Hub, is what `SpanEncoderForPreTraining.save_pretrained` wrote."""
    try:
        return bool(SpanEncoderConfig.get_config_dict(name, subfolder=PRETRAINING_FOLDER)[0])
    except OSError:
        return False


__all__ = ["SpanEncoderConfig"]
