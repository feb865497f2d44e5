"""Configuration of the span objectives on any encoder: two stock configurations, what they share, and the losses."""

import copy
import os
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .configuration_span_electra import EMBEDDING_SHARING, SpanObjectivesConfig, check_choice

GENERATOR_FOLDER, PRETRAINING_FOLDER = "generator", "pretraining"  # in the discriminator's stock folder
GENERATOR_DEPTH = 3  # the discriminator has so many times as many layers (He et al., 2021, DeBERTaV3)
SUGGESTION = "give an encoder such as ModernBERT, DeBERTaV3, BERT, RoBERTa or XLM-R"


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
            sets. The first two need one width.
        initializer_range (`float`, defaults to 0.02): standard deviation of the new heads' weights.

    The fields of [`SpanObjectivesConfig`] describe the objectives; `rtd_weight` defaults to 5 here.

    Raises:
        ValueError: a family that cannot be used, a generator that does not go with the discriminator, or a value out
            of its range.

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
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True  # without it the library ties nothing

    def __post_init__(self, **kwargs):
        self.discriminator = as_config(self.discriminator, "discriminator")
        if vars(self).get("generator") is not None:
            self.generator = as_config(vars(self)["generator"], "generator")
        super().__post_init__(**kwargs)
        self.check()

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if value is None and name == "generator" and super().__getattribute__("discriminator") is not None:
            return shallower(self.discriminator)
        return value

    def check(self) -> None:
        """Check all values again, as the model does.

        Raises:
            ValueError: a value is out of its range, or the two networks do not go together.
        """
        self.check_objectives()
        check_choice(self, "embedding_sharing", EMBEDDING_SHARING)
        check_family(self.discriminator)
        ours, theirs = self.discriminator, self.generator
        for name in ("model_type", "vocab_size"):
            if getattr(ours, name) != getattr(theirs, name):
                raise ValueError(
                    f"The discriminator's `{name}` is {getattr(ours, name)!r} and the generator's "
                    f"{getattr(theirs, name)!r}: give a generator of the same family and vocabulary."
                )
        widths = embedding_width(ours), embedding_width(theirs)
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

    @property
    def pad_token_id(self) -> int | None:
        return self.discriminator.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self.discriminator.pad_token_id = value
        if (generator := vars(self)["generator"]) is not None:
            generator.pad_token_id = value

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
    def max_position_embeddings(self) -> int | None:
        """The longest row that both networks take; None if there is no limit."""
        limits = [limit for limit in map(longest_row, (self.discriminator, self.generator)) if limit is not None]
        return min(limits, default=None)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "SpanEncoderConfig":
        own = {name: value for name, value in settings.items() if name in OWN_FIELDS}
        family = {name: value for name, value in settings.items() if name not in OWN_FIELDS}
        if isinstance(own.get("generator"), dict):
            own["generator"] = family | own["generator"]
        return cls(**own, discriminator=family)

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
        return {name: value for name, value in self.to_diff_dict().items() if name not in self.sub_configs}


def as_config(given: Any, role: str) -> PreTrainedConfig:
    """A network's configuration, from one or from a dictionary."""
    if isinstance(given, PreTrainedConfig):
        return given
    if not isinstance(given, dict) or "model_type" not in given:
        raise ValueError(f"`{role}` is {given!r}; give a configuration, or a dictionary that holds its `model_type`.")
    if given["model_type"] not in CONFIG_MAPPING:
        raise ValueError(f"`{role}` has the unknown `model_type` {given['model_type']!r}; {SUGGESTION}.")
    settings = {name: value for name, value in given.items() if name != "model_type"}
    return CONFIG_MAPPING[given["model_type"]](**settings)


def check_family(config: PreTrainedConfig) -> None:
    """Raise a ValueError if a network of this family cannot be an encoder that fills masks."""
    kind = config.model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(f"A {kind} has no masked language model in Transformers, so it cannot propose; {SUGGESTION}.")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"A {kind} has an encoder and a decoder; {SUGGESTION}.")
    if getattr(config, "is_decoder", False):
        raise ValueError(f"This {kind} is a decoder (`is_decoder`), which sees only one side; {SUGGESTION}.")
    if not hasattr(config, "vocab_size") or not hasattr(config, "hidden_size"):
        raise ValueError(f"A {kind} does not read text alone; {SUGGESTION}.")


def shallower(config: PreTrainedConfig, layers: int | None = None) -> PreTrainedConfig:
    """`config` with fewer layers: by default a third of them, and at least one."""
    layers = max(1, config.num_hidden_layers // GENERATOR_DEPTH) if layers is None else layers
    result = copy.deepcopy(config)
    result.num_hidden_layers = layers
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


# These number the positions of a row from the padding id on: so many rows of their position table are never used.
NUMBERED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl")


def first_position(config: PreTrainedConfig) -> int:
    """The number of a row's first position."""
    if config.model_type == "mpnet":  # whatever its padding id is
        return 2
    is_learnt = getattr(config, "position_embedding_type", "absolute") == "absolute"
    numbered = config.model_type in NUMBERED_FROM_PADDING or (config.model_type == "esm" and is_learnt)
    return config.pad_token_id + 1 if numbered else 0


OWN_FIELDS = {*SpanObjectivesConfig.__dataclass_fields__, "generator", "embedding_sharing"}

__all__ = ["SpanEncoderConfig"]
