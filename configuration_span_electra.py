"""Configuration of SpanElectra: the shape of both networks, what they share, and the weights of the losses.

Nothing here is about data.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields

from huggingface_hub.dataclasses import strict
from transformers import ElectraConfig, PreTrainedConfig
from transformers.utils.versions import require_version

require_version(
    "transformers>=5.17",
    "SpanElectra's code needs it. Older versions load SpanElectra checkpoints without this code: ElectraModel and the "
    "other ELECTRA classes, without trust_remote_code.",
)

# What each training objective trains.
LOSSES_OF_OBJECTIVE = {
    "joint": ("mlm", "rtd", "sbgo", "sbpo"),
    "generator": ("mlm", "sbgo"),
    "discriminator": ("rtd", "sbpo"),
}
OBJECTIVES = tuple(LOSSES_OF_OBJECTIVE)
EMBEDDING_SHARING = ("tied", "disentangled", "separate")
# The sizes that make two encoders interchangeable, besides those that both networks have in common.
ENCODER_SHAPE = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
SMALLEST_FLOAT32, LARGEST_FLOAT32 = 2.0**-126, 2.0**127  # losses and scores are computed in float32

# Not fields, but the library writes them into any configuration, or its earlier versions did.
LIBRARY_KEYS = {
    *("_attn_implementation_internal", "_experts_implementation_internal", "_commit_hash", "_name_or_path"),
    *("_attn_implementation", "attn_implementation", "experts_implementation", "name_or_path", "torch_dtype"),
    *("architectures", "auto_map", "custom_pipelines", "model_type", "num_labels", "output_attentions"),
    *("position_embedding_type", "transformers_version", "transformers_weights", "per_layer_config"),
    *("tie_encoder_decoder", "finetuning_task", "task_specific_params", "quantization_config", "base_model_tp_plan"),
    *("tp_plan", "distributed_config", "_from_auto", "trust_remote_code", "gradient_checkpointing"),
}


@dataclass(kw_only=True)
class SpanObjectivesConfig:
    """
    The settings of the span objectives, which are the same for every pair of encoders.

    Args:
        objective (`str`, defaults to `"joint"`): what is trained: both networks (`"joint"`), or one while the other
            stays as it is (`"generator"`, `"discriminator"`).
        use_sbgo (`bool`, defaults to `True`): whether the generator also predicts masked tokens from the boundaries of
            their span (span boundary generative objective).
        use_sbpo (`bool`, defaults to `True`): whether the discriminator also predicts from the boundaries which tokens
            of a span were replaced (span boundary predictive objective).
        max_span_length (`int`, defaults to 20): number of offsets that the boundary heads tell apart; tokens further
            from the left boundary share the last one.
        boundary_position_size (`int`, defaults to 200): size of the offsets' embeddings (Joshi et al., 2020, SpanBERT,
            section 3.2).
        mlm_weight, sbgo_weight, rtd_weight, sbpo_weight (`float`): weights of the four losses, each a mean.
        sampling_temperature (`float`, defaults to 1.0): divides the generator's logits before sampling.
    """

    objective: str = "joint"
    use_sbgo: bool = True
    use_sbpo: bool = True
    max_span_length: int = 20
    boundary_position_size: int = 200
    mlm_weight: float | int = 1.0
    sbgo_weight: float | int = 1.0
    rtd_weight: float | int = 50.0
    sbpo_weight: float | int = 5.0
    sampling_temperature: float | int = 1.0

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the losses that the objective trains, by name: mlm, rtd, sbgo, sbpo."""
        left_out = {name for name in ("sbgo", "sbpo") if not getattr(self, f"use_{name}")}
        trained = [name for name in LOSSES_OF_OBJECTIVE[self.objective] if name not in left_out]
        return {name: getattr(self, f"{name}_weight") for name in trained}

    def check_objectives(self) -> None:
        """Raise a ValueError if a setting of the objectives is out of its range."""
        check_choice(self, "objective", OBJECTIVES)
        check_counts(self, "max_span_length", "boundary_position_size")
        for name in ("mlm_weight", "sbgo_weight", "rtd_weight", "sbpo_weight"):
            if not 0 <= getattr(self, name) <= LARGEST_FLOAT32:
                raise ValueError(f"`{name}` is {getattr(self, name)}; a loss weight must be finite and at least 0.")
        if not any(self.loss_weights.values()):
            names = ", ".join(f"`{name}_weight`" for name in self.loss_weights)
            raise ValueError(f"{names} are all 0, so nothing would be trained; set one of them above 0.")
        if not SMALLEST_FLOAT32 <= self.sampling_temperature <= LARGEST_FLOAT32:
            raise ValueError(
                f"`sampling_temperature` is {self.sampling_temperature}; it must be above 0 (1.0 is ELECTRA's)."
            )


def check_choice(config: object, name: str, accepted: tuple[str, ...]) -> None:
    """Raise a ValueError if a setting is not among those `accepted`."""
    if getattr(config, name) not in accepted:
        raise ValueError(f"`{name}` is {getattr(config, name)!r}; choose {', '.join(accepted)}.")


def check_counts(config: object, *names: str) -> None:
    """Raise a ValueError if a size is below 1."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; it must be at least 1.")


@strict
class SpanElectraConfig(SpanObjectivesConfig, ElectraConfig):
    r"""
    Configuration of a SpanElectra model. The fields of [`ElectraConfig`] describe the discriminator, which is the
    model people use, and those of [`SpanObjectivesConfig`] the objectives. The fields below describe the generator.

    A field that you leave out is derived from the others each time it is read, and is not saved: if you change
    `hidden_size`, the generator follows.

    Args:
        generator_size (`float`, defaults to 0.25): the generator's hidden size, heads and feed-forward size as a ratio
            of the discriminator's, unless the next three give them. ELECTRA-Small uses a quarter (Clark et al., 2020,
            table 6); with 1 both networks have the same shape.
        generator_hidden_size (`int`, *optional*): width of the generator.
        generator_intermediate_size (`int`, *optional*): width of its feed-forward layers. Default: the
            discriminator's, scaled like the hidden size.
        generator_num_attention_heads (`int`, *optional*): default: heads as wide as the discriminator's.
        generator_num_hidden_layers (`int`, *optional*): default: as deep as the discriminator.
        embedding_sharing (`str`, defaults to `"tied"`): `"tied"`: both networks use one set of embeddings (ELECTRA);
            `"disentangled"`: the discriminator adds a residual of its own to the generator's word embeddings, to which
            it sends no gradient (He et al., 2021, DeBERTaV3, section 3.2); `"separate"`: two sets.
        share_encoder (`bool`, *optional*): whether both networks use one encoder, for which they must have the same
            shape. Default: if they have the same shape, unless `objective` is `"discriminator"`.

    ELECTRA's ratio of 50 between `rtd_weight` and `mlm_weight` is the default; the weights of the boundary losses (1
    and 5) are starting values. docs/objectives.md says what each default rests on.

    Raises:
        ValueError: a value is out of its range, or a setting has an unknown name.

    ```python
    >>> from span_electra import SpanElectraConfig

    >>> config = SpanElectraConfig(hidden_size=256, num_attention_heads=4)
    >>> config.generator_hidden_size, config.generator_num_attention_heads
    (64, 1)
    ```
    """

    model_type = "span_electra"

    generator_size: float | int = 0.25
    generator_hidden_size: int | None = None
    generator_intermediate_size: int | None = None
    generator_num_attention_heads: int | None = None
    generator_num_hidden_layers: int | None = None
    embedding_sharing: str = "tied"
    share_encoder: bool | None = None

    def __post_init__(self, **kwargs):
        refuse_unknown(type(self), kwargs, are_saved=self.transformers_version is not None)
        if self.transformers_version is None and not self.tie_word_embeddings:  # in a saved model they may differ
            raise ValueError(
                "`tie_word_embeddings` is False, but ELECTRA's generator has one table for its input and output: "
                "leave it out. `embedding_sharing` says what the two networks share."
            )
        super().__post_init__(**kwargs)
        self.check()
        if self.transformers_version is None:  # a task head loaded from a saved model needs the discriminator alone
            self.check_encoders()

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As [`PreTrainedConfig.from_dict`]. A misspelt setting among `kwargs` is refused, not ignored."""
        refuse_unknown(cls, kwargs, are_saved=True)
        return super().from_dict(config_dict, **kwargs)

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        return DERIVED[name](self) if value is None and name in DERIVED else value

    def __setattr__(self, name, value):
        if not name.startswith("_") and not hasattr(type(self), name):
            refuse_unknown(type(self), [name], are_saved=True)
        super().__setattr__(name, value)

    def check(self) -> None:
        """Check all values again, as each model does: they may have been set after the configuration was made.

        Raises:
            ValueError: a value is out of its range, or contradicts another.
        """
        self.check_objectives()
        check_choice(self, "embedding_sharing", EMBEDDING_SHARING)
        check_counts(self, "vocab_size", "type_vocab_size", "embedding_size", "max_position_embeddings")
        check_counts(self, *ENCODER_SHAPE, *(f"generator_{name}" for name in ENCODER_SHAPE))
        if getattr(self, "position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                f"`position_embedding_type` is {self.position_embedding_type!r}; only 'absolute' is supported."
            )
        if not 0 < self.generator_size <= 1:
            raise ValueError(
                f"`generator_size` is {self.generator_size}; it must lie in (0, 1] (ELECTRA-Small uses 0.25)."
            )
        if self.objective == "discriminator" and (self.share_encoder or self.embedding_sharing == "tied"):
            shared = "`share_encoder` is True" if self.share_encoder else "`embedding_sharing` is 'tied'"
            raise ValueError(
                f"`objective` is 'discriminator' and {shared}, so training the discriminator would change the "
                "generator: set `embedding_sharing` to 'separate' or 'disentangled' and `share_encoder` to False."
            )

    def check_encoders(self) -> None:
        """Raise a ValueError if networks of different shapes are to share one encoder."""
        if self.share_encoder and (differing := self.differing_sizes()):
            raise ValueError(
                f"`share_encoder` is True, but the two networks have different shapes ({differing}): give both the "
                "same shape, or leave `share_encoder` out."
            )

    def differing_sizes(self) -> str:
        """The sizes in which the encoders differ, in words; empty if they have the same shape."""
        sizes = [(name, getattr(self, name), getattr(self, f"generator_{name}")) for name in ENCODER_SHAPE]
        return ", ".join(f"`{name}` {size}, the generator's {other}" for name, size, other in sizes if size != other)

    @property
    def discriminator_is_untrained(self) -> bool:
        """Whether only the generator was trained, with an encoder of its own. A model saved with another head has
        been trained since."""
        heads = {name for name in self.architectures or () if not name.endswith(("ForPreTraining", "ForMaskedLM"))}
        return self.objective == "generator" and not self.share_encoder and not heads

    def discriminator_config(self) -> ElectraConfig:
        """The discriminator as a stock ELECTRA configuration, including the labels of a fine-tuned head."""
        stock = {name: getattr(self, name) for name in STOCK_SETTINGS}
        return ElectraConfig(**stock | {"attn_implementation": self._attn_implementation})

    def generator_config(self) -> ElectraConfig:
        """The generator as a stock ELECTRA configuration."""
        config = self.discriminator_config()
        for name in ENCODER_SHAPE:
            setattr(config, name, getattr(self, f"generator_{name}"))
        return config


def derived_heads(config: SpanElectraConfig) -> int:
    if (width := vars(config).get("generator_hidden_size")) is None:
        return max(1, int(config.num_attention_heads * config.generator_size))
    return max(1, width * config.num_attention_heads // config.hidden_size)


def derived_width(config: SpanElectraConfig) -> int:
    heads = config.generator_num_attention_heads
    return max(heads, int(config.hidden_size * config.generator_size) // heads * heads)


# How to read a size that was left out. None of them is stored.
DERIVED = {
    "generator_hidden_size": derived_width,
    "generator_num_attention_heads": derived_heads,
    "generator_intermediate_size": lambda config: max(
        1, config.intermediate_size * config.generator_hidden_size // config.hidden_size
    ),
    "generator_num_hidden_layers": lambda config: config.num_hidden_layers,
    "share_encoder": lambda config: config.objective != "discriminator" and not config.differing_sizes(),
}


def refuse_unknown(config_class: type[PreTrainedConfig], names: Iterable[str], *, are_saved: bool = False) -> None:
    """Raise a ValueError for the first of `names` that is not a setting of `config_class`. If they `are_saved`, or
    come with other arguments, refuse only near misses: other code, and any model of Transformers 4, saves more."""
    known = {field.name for field in fields(config_class)}
    for name in names:
        if name in known or name in LIBRARY_KEYS:
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85 if are_saved else 0.6)
        if close or not are_saved:
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"`{name}` is not a setting of {config_class.__name__}.{hint}")


# The fields that a stock ELECTRA configuration has too. Which class was saved by which version is not among them.
STOCK_SETTINGS = tuple(
    field.name
    for field in fields(ElectraConfig)
    if field.init and field.name not in ("architectures", "transformers_version")
)

SpanElectraConfig.register_for_auto_class()

__all__ = ["SpanElectraConfig", "SpanObjectivesConfig", "refuse_unknown"]
