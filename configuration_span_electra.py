"""Configuration of SpanElectra: the architecture of both networks, what they share, and the weights of the losses.

Nothing here is about data. Files of the older kind carry two settings of the data side (mask ratio and sequence
length); `split_data_settings` takes them out.
"""

import difflib
from collections.abc import Iterable
from dataclasses import fields

from huggingface_hub.dataclasses import strict
from transformers import ElectraConfig
from transformers.activations import ACT2FN
from transformers.utils import logging
from transformers.utils.versions import require_version

require_version(
    "transformers>=5.10.1",
    "SpanElectra's code is for newer ones. Older ones load its checkpoints without it: ElectraModel and the other "
    "ELECTRA classes, without trust_remote_code.",
)
logger = logging.get_logger(__name__)

# What each objective trains.
LOSSES_OF_OBJECTIVE = {
    "joint": ("mlm", "rtd", "sbgo", "sbpo"),
    "generator": ("mlm", "sbgo"),
    "discriminator": ("rtd", "sbpo"),
}
OBJECTIVES = tuple(LOSSES_OF_OBJECTIVE)
SAMPLING_HEADS = ("mlm", "mean")
EMBEDDING_SHARING = ("tied", "disentangled", "separate")

FLOAT32_TINY, FLOAT32_MAX = 2.0**-126, 2.0**127  # what losses and scores are computed in: about its range

# Older name -> name here. `disc_*` and `gen_*` are handled by prefix.
ALIASES = {
    "max_span_len": "max_span_length",
    "use_SBGO": "use_sbgo",
    "use_SBPO": "use_sbpo",
    "max_seq_len": "max_position_embeddings",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
}
ALIAS_PREFIXES = {"disc_": "", "discriminator_": "", "gen_": "generator_"}

# Settings of the data side that older configuration files hold -> name of the script's argument.
DATA_ALIASES = {
    "mask_ratio": "mask_ratio",
    "max_seq_len": "max_seq_length",
    "max_seq_length": "max_seq_length",
}
# Ids that older files repeat although the tokenizer knows them; the script compares them with the tokenizer.
TOKENIZER_ALIASES = ("cls_id", "sep_id", "pad_id", "mask_id", "unk_id")

# Not fields, but written by the library or by earlier versions of it into any configuration.
LIBRARY_KEYS = {
    *("_attn_implementation_internal", "_experts_implementation_internal", "_commit_hash", "_name_or_path"),
    *("_attn_implementation", "attn_implementation", "experts_implementation", "name_or_path", "torch_dtype"),
    *("architectures", "auto_map", "custom_pipelines", "model_type", "num_labels", "output_attentions"),
    *("position_embedding_type", "transformers_version", "transformers_weights", "per_layer_config"),
    *("tie_encoder_decoder", "finetuning_task", "task_specific_params", "quantization_config", "base_model_tp_plan"),
    *("tp_plan", "distributed_config", "_from_auto", "trust_remote_code", "gradient_checkpointing"),
}


def current_name(key: str) -> str:
    """The name that `key` has today: itself, unless it is an older one."""
    for prefix, replacement in ALIAS_PREFIXES.items():
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            return replacement + ALIASES.get(rest, rest)
    return ALIASES.get(key, key)


def split_data_settings(settings: dict) -> tuple[dict, dict]:
    """Split the JSON object of a configuration file in what describes the model and what describes the data.

    Args:
        settings: the file's content. Older names are allowed; the keys that are known stay as they are.

    Returns:
        The model's settings (for `SpanElectraConfig(**settings)`) and the data's, under the names of
        `run_pretraining.py`'s arguments: `mask_ratio` and `max_seq_length`, those that the file holds.
    """
    data = {name: settings[key] for key, name in DATA_ALIASES.items() if key in settings}
    model = {key: value for key, value in settings.items() if key not in DATA_ALIASES or key in ALIASES}
    return model, data


@strict
class SpanElectraConfig(ElectraConfig):
    r"""
    Configuration of a SpanElectra model. The fields of [`ElectraConfig`] describe the discriminator, which is the
    model people use; the fields below describe the generator and the objective.

    Args:
        generator_size (`float`, defaults to 0.25): the generator's share of the discriminator's hidden size, heads and
            feed-forward layers, where the next three do not give them. A quarter is ELECTRA-Small's (Clark et al.,
            2020, table 6); with 1 both have the same shape. Beside a generator of half the width two layers learnt
            to detect no more (fixed AUC 0.850, beside a quarter 0.854), though it guesses better (perplexity 410,
            505). (benchmarks/results)
        generator_hidden_size (`int`, *optional*): width of the generator.
        generator_intermediate_size (`int`, *optional*): width of its feed-forward layers. Default: the
            discriminator's, scaled as the hidden size is.
        generator_num_attention_heads (`int`, *optional*): default: heads as wide as the discriminator's.
        generator_num_hidden_layers (`int`, *optional*): default: as deep as the discriminator. One layer instead of
            two left the discriminator's fixed AUC as it was (0.835 and 0.834, one seed).
        embedding_sharing (`str`, defaults to `"tied"`): `"tied"`: both networks use one set of embeddings (ELECTRA);
            `"disentangled"`: the discriminator uses the generator's word embeddings with the gradient stopped, plus a
            residual of its own (He et al., 2021, DeBERTaV3, section 3.2); `"separate"`: two sets.
        share_encoder (`bool`, *optional*): whether the encoders of both networks are one, for which they must have the
            same shape. Default: where they have, unless `objective` leaves one of them as it is.
        objective (`str`, defaults to `"joint"`): what is trained: `"joint"`, `"generator"` or `"discriminator"`. The
            other half stays as it is.
        use_sbgo (`bool`, defaults to `True`): whether the generator also predicts masked tokens from the boundaries of
            their span (span boundary generative objective).
        use_sbpo (`bool`, defaults to `True`): whether the discriminator also predicts from the boundaries which
            tokens of a span were replaced (span boundary predictive objective).
        max_span_length (`int`, defaults to 20): number of positions within a span that the boundary heads tell
            apart; tokens further from the left boundary share the last one.
        boundary_position_size (`int`, defaults to 200): size of these position embeddings (Joshi et al., 2020,
            SpanBERT, section 3.2).
        mlm_weight, sbgo_weight, rtd_weight, sbpo_weight (`float`): weights of the four losses, each a mean.
            1 : 50 for MLM : RTD is ELECTRA's; the boundary weights (1 and 5) are starting values. Two layers came to
            a fixed AUC of 0.815 and 0.806 (two seeds) without the boundary losses, 0.868 and 0.860 with SBGO's, 0.846
            and 0.804 with both; and with both and a tenth for the discriminator's (5 and 0.5, as `tiny` had it) to
            0.850 and 0.864, and to 74 and 77 instead of 69 and 58 on SST-2. Of SBPO, a fiftieth of RTD's weight did as
            well as that tenth (0.857 and 0.855), half of it worse (0.831), all of it hardly began (0.641). With
            later masks and those weights: 0.603 and 0.573 without the boundary losses, 0.838 to 0.852 (four seeds)
            with SBGO's, 0.577 to 0.845 with both: SBGO earns its place, SBPO does not, and `tiny` leaves it out.
            (benchmarks/results)
        sampling_head (`str`, defaults to `"mlm"`): whose scores the replacements are sampled from: `"mlm"`, or
            `"mean"`: of MLM's and SBGO's, which needs `use_sbgo`. With that two layers came to a fixed AUC of 0.790,
            where MLM's gave 0.834 (one seed).
        sampling_temperature (`float`, defaults to 1.0): divides the generator's logits before sampling.

    Raises:
        ValueError: a value out of its range, or a setting whose name is unknown.

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
    objective: str = "joint"
    use_sbgo: bool = True
    use_sbpo: bool = True
    max_span_length: int = 20
    boundary_position_size: int = 200
    mlm_weight: float | int = 1.0
    sbgo_weight: float | int = 1.0
    rtd_weight: float | int = 50.0
    sbpo_weight: float | int = 5.0
    sampling_head: str = "mlm"
    sampling_temperature: float | int = 1.0

    def __post_init__(self, **kwargs):
        kwargs = self._apply_aliases(kwargs)
        self._check_names(kwargs)
        super().__post_init__(**kwargs)
        self._check_values()
        self._fill_generator()
        if self.share_encoder is None:  # encoders of one shape are one, but for a half that is to stay as it is
            self.share_encoder = not self._differing_sizes() and self.objective != "discriminator"
        if self.transformers_version is None:  # of a saved model, a head may need the discriminator alone
            self.check_encoders()
        self.check()

    def check(self) -> None:
        """Look at all values again, as a model does: they may have been set after the configuration was made.

        Raises:
            ValueError: one is out of its range, or does not go with another.
        """
        self._check_values()
        self._check_heads("generator_hidden_size", "generator_num_attention_heads")
        if self.objective == "discriminator" and (self.share_encoder or self.embedding_sharing == "tied"):
            shared = "`share_encoder` is True" if self.share_encoder else "`embedding_sharing` is 'tied'"
            raise ValueError(
                f"`objective` is 'discriminator' and {shared}, so that training the discriminator would change the "
                "generator; accepted are `embedding_sharing` 'separate' or 'disentangled', and an encoder each."
            )

    def check_encoders(self) -> None:
        """Raise a ValueError where one encoder is to have two shapes."""
        if self.share_encoder and (differing := self._differing_sizes()):
            raise ValueError(
                f"`share_encoder` is True, and the two networks have different shapes ({differing}): give both the "
                "same, or leave it out of a new configuration."
            )

    def _apply_aliases(self, kwargs: dict) -> dict:
        """Set the fields that `kwargs` names by an older name; return what is left."""
        known = {field.name for field in fields(self)}
        rest = {}
        for key, value in kwargs.items():
            if current_name(key) in known and key not in known:
                setattr(self, current_name(key), value)
            elif key in DATA_ALIASES or key in TOKENIZER_ALIASES:
                logger.info(
                    f"`{key}` ({value}) is a setting of the data, not of the model: left out of the configuration."
                )
            else:
                rest[key] = value
        return rest

    def _check_names(self, kwargs: dict) -> None:
        # What a saved configuration holds beside our fields was put there by other code, and is kept.
        if self.transformers_version is None:
            refuse_unknown(kwargs)
            if not self.tie_word_embeddings:  # in a saved model they may have come apart
                raise ValueError(
                    "`tie_word_embeddings` is False; ELECTRA's generator has one table for its input and output, so "
                    "leave it out. What the two networks share is `embedding_sharing`."
                )

    def _check_values(self) -> None:
        if self.embedding_sharing not in EMBEDDING_SHARING:
            raise ValueError(
                f"`embedding_sharing` is {self.embedding_sharing!r}; accepted are {', '.join(EMBEDDING_SHARING)}."
            )
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` is {self.objective!r}; accepted are {', '.join(OBJECTIVES)}.")
        if self.sampling_head not in SAMPLING_HEADS:
            raise ValueError(f"`sampling_head` is {self.sampling_head!r}; accepted are {', '.join(SAMPLING_HEADS)}.")
        if self.sampling_head == "mean" and not self.use_sbgo:
            raise ValueError("`sampling_head` is 'mean' and `use_sbgo` is False: there is no second head; use 'mlm'.")
        if getattr(self, "position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                f"`position_embedding_type` is {self.position_embedding_type!r}; only 'absolute' is supported."
            )
        positive = (
            "vocab_size",
            "type_vocab_size",
            "embedding_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "max_span_length",
            "boundary_position_size",
        )
        for name in (*positive, *(f"generator_{n}" for n in ENCODER_SHAPE)):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be at least 1.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` is {self.hidden_act!r}; accepted are {', '.join(sorted(ACT2FN))}.")
        for name in ("layer_norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be above 0.")
        for name in ("mlm_weight", "sbgo_weight", "rtd_weight", "sbpo_weight"):
            if not 0 <= getattr(self, name) <= FLOAT32_MAX:
                raise ValueError(f"`{name}` is {getattr(self, name)}; a loss weight must be finite and at least 0.")
        if not any(self.loss_weights.values()):
            names = ", ".join(f"`{name}_weight`" for name in self.loss_weights)
            raise ValueError(f"{names}: all 0, so that nothing would be trained; one must be above 0.")
        if not 0 < self.generator_size <= 1:
            raise ValueError(
                f"`generator_size` is {self.generator_size}; it must lie in (0, 1] (ELECTRA-Small's is 0.25)."
            )
        if not FLOAT32_TINY <= self.sampling_temperature <= FLOAT32_MAX:
            raise ValueError(
                f"`sampling_temperature` is {self.sampling_temperature}; it must be above 0 (1.0 is ELECTRA's)."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; a dropout probability lies in [0, 1).")
        self._check_heads("hidden_size", "num_attention_heads")

    def _check_heads(self, width: str, heads: str) -> None:
        if getattr(self, width) % getattr(self, heads):
            raise ValueError(
                f"`{width}` ({getattr(self, width)}) must be a multiple of `{heads}` ({getattr(self, heads)})."
            )

    def _fill_generator(self) -> None:
        """Scale the discriminator's sizes to those of the generator that were left open."""
        head_size = self.hidden_size // self.num_attention_heads
        if self.generator_hidden_size is None:
            heads = self.generator_num_attention_heads or max(1, int(self.num_attention_heads * self.generator_size))
            self.generator_hidden_size = max(heads, int(self.hidden_size * self.generator_size) // heads * heads)
        if self.generator_intermediate_size is None:
            self.generator_intermediate_size = max(
                1, self.intermediate_size * self.generator_hidden_size // self.hidden_size
            )
        if self.generator_num_attention_heads is None:
            self.generator_num_attention_heads = max(1, self.generator_hidden_size // head_size)
        if self.generator_num_hidden_layers is None:
            self.generator_num_hidden_layers = self.num_hidden_layers

    def _differing_sizes(self) -> str:
        """In which sizes the encoders differ, in words; empty if they have one shape."""
        sizes = [(name, getattr(self, name), getattr(self, f"generator_{name}")) for name in ENCODER_SHAPE]
        return ", ".join(f"`{name}` {size}, the generator's {other}" for name, size, other in sizes if size != other)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the losses that the objective trains, by name: mlm, rtd, sbgo, sbpo."""
        left_out = {name for name in ("sbgo", "sbpo") if not getattr(self, f"use_{name}")}
        trained = [name for name in LOSSES_OF_OBJECTIVE[self.objective] if name not in left_out]
        return {name: getattr(self, f"{name}_weight") for name in trained}

    @property
    def discriminator_is_untrained(self) -> bool:
        """Whether only the generator was trained, and the discriminator is not the same encoder."""
        return self.objective == "generator" and not self.share_encoder

    def discriminator_config(self) -> ElectraConfig:
        """The discriminator as a stock ELECTRA configuration, the labels of a fine-tuned head included."""
        stock = {name: getattr(self, name) for name in STOCK_SETTINGS}
        return ElectraConfig(**stock | {"attn_implementation": self._attn_implementation})

    def generator_config(self) -> ElectraConfig:
        """The generator as a stock ELECTRA configuration."""
        config = self.discriminator_config()
        for name in ENCODER_SHAPE:
            setattr(config, name, getattr(self, f"generator_{name}"))
        return config


def refuse_unknown(names: Iterable[str], *, are_saved: bool = False) -> None:
    """Raise a ValueError for the first of `names` that is no setting, of today or of older files. If they `are_saved`,
    only for what is nearly one: other code, and Transformers 4 with any model, saves more than that."""
    known = {field.name for field in fields(SpanElectraConfig)}
    accepted = {*LIBRARY_KEYS, *DATA_ALIASES, *TOKENIZER_ALIASES}
    for name in names:
        if current_name(name) in known or name in accepted:
            continue
        close = difflib.get_close_matches(current_name(name), known, n=1, cutoff=0.85 if are_saved else 0.6)
        if close or not are_saved:
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"`{name}` is not a setting of SpanElectraConfig.{hint}")


# What makes two encoders interchangeable, beside the sizes that both networks have in common.
ENCODER_SHAPE = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")

# The fields that a stock ELECTRA configuration has too; which class was saved by which version is not among them.
STOCK_SETTINGS = tuple(
    field.name
    for field in fields(ElectraConfig)
    if field.init and field.name not in ("architectures", "transformers_version")
)

SpanElectraConfig.register_for_auto_class()

__all__ = ["SpanElectraConfig", "current_name", "refuse_unknown", "split_data_settings"]
