"""SpanElectra: ELECTRA's two networks, trained on the span objectives.

The encoder, the discriminator's head and the task heads are Transformers' own. This file puts them together: what the
two networks share, how checkpoints are read and written, and the Auto classes. The objectives are in
span_objectives.py.

This file travels with every checkpoint, so it imports nothing of the package but the two files that do, too.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    ElectraForMaskedLM,
    ElectraForMultipleChoice,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
    ElectraPreTrainedModel,
)
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask, packed_sequence_mask_function
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.electra.modeling_electra import ElectraDiscriminatorPredictions, ElectraEmbeddings
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging
from transformers.utils.generic import is_flash_attention_requested

from .configuration_span_electra import SpanElectraConfig
from .span_objectives import DisentangledEmbedding, MaskedTokens, ResidualEmbedding, SpanObjectives, sequence_numbers

logger = logging.get_logger(__name__)

WORD_EMBEDDINGS = "electra.embeddings.word_embeddings.weight"
DISENTANGLED = "electra.embeddings.word_embeddings."
GENERATOR_HEAD = "generator_predictions.dense.weight"


class SpanElectraPreTrainedModel(ElectraPreTrainedModel):
    """What every SpanElectra model has in common: stock ELECTRA's key names, and checkpoints that load anywhere."""

    config_class = SpanElectraConfig
    config: SpanElectraConfig
    # A pretraining checkpoint holds both networks and every head; each class takes what it needs.
    _keys_to_ignore_on_load_unexpected = [
        r"^generator\.",
        r"^discriminator_predictions\.",
        r"^sb[gp]o_",
        r"word_embeddings\.(shared|residual)\.",
        r"^embedding_residual$",
    ]
    # The losses are means over this batch. Told otherwise, the Trainer would leave out its division by the number of
    # accumulated batches.
    accepts_loss_kwargs = False

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ResidualEmbedding):
            init.zeros_(module.weight)

    def __init__(self, config: SpanElectraConfig, *args, **kwargs):
        if isinstance(config, SpanElectraConfig):  # a caller may give a stock one
            config.check()
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # A stock configuration, which a caller may give, says nothing of it.
        if getattr(model.config, "discriminator_is_untrained", False) and not hasattr(model, "generator"):
            logger.warning(
                f"{model.config.name_or_path}: only its generator was trained (objective 'generator'); this is the "
                "discriminator, which was not. Train it with --objective discriminator, or load the generator with "
                "AutoModelForMaskedLM."
            )
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save weights, configuration and modelling code, so that every Auto class loads the folder anywhere."""
        # The library's own registration writes only the class that is being saved.
        self.config.auto_map = auto_map_of(self)
        super().save_pretrained(save_directory, *args, **kwargs)

    def set_attn_implementation(self, *args, **kwargs):
        """As [`PreTrainedModel.set_attn_implementation`], for both networks."""
        super().set_attn_implementation(*args, **kwargs)
        if hasattr(self, "generator"):  # passed by, before Transformers 5.23, for its configuration is derived
            self.generator.set_attn_implementation(*args, **kwargs)


class SpanElectraModel(SpanElectraPreTrainedModel, ElectraModel):
    """The discriminator's encoder: what one pretrains for, and what `AutoModel` returns."""


class SpanElectraForSequenceClassification(SpanElectraPreTrainedModel, ElectraForSequenceClassification):
    """The discriminator with a classification or regression head."""


class SpanElectraForTokenClassification(SpanElectraPreTrainedModel, ElectraForTokenClassification):
    """The discriminator with a head that labels every token."""


class SpanElectraForQuestionAnswering(SpanElectraPreTrainedModel, ElectraForQuestionAnswering):  # type: ignore[misc]
    """The discriminator with a head that scores every token as the answer's start and end."""


class SpanElectraForMultipleChoice(SpanElectraPreTrainedModel, ElectraForMultipleChoice):
    """The discriminator with a head that scores every choice."""


class SharedEmbeddings(nn.Module):
    """The part of the discriminator that a generator with tied embeddings is stored in."""

    def __init__(self, config: SpanElectraConfig):
        super().__init__()
        self.embeddings = ElectraEmbeddings(config)


def tied_weights(config: SpanElectraConfig) -> dict[str, str]:
    """Which of the generator's parameters are the discriminator's, as the library declares it: {target: source}.

    Encoders of one shape are one. ELECTRA ties all embeddings (token, position, type and their norm), and with them
    the generator's output layer, which is tied to its input.
    """
    ties = {}
    if config.share_encoder:
        ties[r"generator\.electra\.encoder\."] = r"electra\.encoder\."
        if config.embedding_size != config.hidden_size:
            ties[r"generator\.electra\.embeddings_project\."] = r"electra\.embeddings_project\."
    if config.embedding_sharing == "tied":
        ties[r"generator\.electra\.embeddings\..*(weight|bias)$"] = r"electra\.embeddings\..*(weight|bias)$"
    return ties


class SpanElectraForMaskedLM(SpanElectraPreTrainedModel):
    """The generator of a pretraining checkpoint, for `fill-mask`. To fine-tune, use the discriminator instead."""

    base_model_prefix = ""  # `electra` below is the discriminator's, or a part of it: not what this model is built on
    _keys_to_ignore_on_load_unexpected = [
        r"^electra\.",
        r"^discriminator_predictions\.",
        r"^sb[gp]o_",
        r"word_embeddings\.(shared|residual)\.",
        r"^embedding_residual$",
    ]

    def __init__(self, config: SpanElectraConfig):
        config.check_encoders()
        super().__init__(config)
        self.generator = ElectraForMaskedLM(config.generator_config())
        # What both networks share is stored once, under the discriminator's names: it has to be there to be found.
        self.electra: nn.Module
        if config.share_encoder:
            self.electra = SpanElectraModel(config)
        elif config.embedding_sharing == "tied":
            self.electra = SharedEmbeddings(config)
        self._tied_weights_keys = tied_weights(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.generator.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.generator.set_input_embeddings(value)
        if self.config.embedding_sharing == "tied":
            self.electra.embeddings.word_embeddings = value

    def get_output_embeddings(self):
        return self.generator.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings):
        self.generator.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As [`PreTrainedModel.resize_token_embeddings`]."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.generator.config.vocab_size = embeddings.num_embeddings
        if self.config.share_encoder:  # its table is saved beside it, whichever it is
            self.electra.resize_token_embeddings(*args, **kwargs)
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, ...] | MaskedLMOutput:
        """
        Args:
            labels: original ids where tokens are masked, -100 elsewhere, (batch, tokens).
            Everything else is as in [`ElectraForMaskedLM`].
        """
        for name in ("return_dict", "output_attentions", "output_hidden_states"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.config, name)
        return self.generator(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            **kwargs,
        )


class SpanElectraForPreTraining(SpanObjectives, SpanElectraPreTrainedModel):
    """Generator and discriminator, trained together on the four objectives (see [`SpanObjectives`]).

    ```python
    >>> output = model(**collator([{"input_ids": ids} for ids in rows]))
    >>> output.loss.backward()
    ```
    """

    config: SpanElectraConfig
    generator: ElectraForMaskedLM
    _keys_to_ignore_on_load_unexpected = [r"^embedding_residual$"]  # an earlier name; the sum is in the file as well
    # The generator is small, and the library cannot divide what is tied within it between devices.
    _no_split_modules = ["ElectraForMaskedLM", "ElectraEmbeddings", "ElectraLayer"]

    def __init__(self, config: SpanElectraConfig):
        config.check_encoders()
        if config.objective == "discriminator":
            config.share_encoder = False  # the weights stay two, if the next objective is joint as well
        super().__init__(config)
        generator_config = config.generator_config()
        self.electra = SpanElectraModel(config)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config)
        self.generator = ElectraForMaskedLM(generator_config)
        if config.embedding_sharing == "disentangled":
            self.electra.set_input_embeddings(
                DisentangledEmbedding(config.vocab_size, config.embedding_size, config.pad_token_id)
            )
        self.add_boundary_heads(
            generator_config.hidden_size, config.embedding_size, config.hidden_size, config.layer_norm_eps
        )
        self._tied_weights_keys = tied_weights(config)
        if config.embedding_sharing == "disentangled":
            self._tied_weights_keys |= {rf"^{DISENTANGLED}shared.weight$": rf"^generator.{WORD_EMBEDDINGS}$"}
        self.post_init()
        self.freeze_untrained()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]."""
        model, loaded = super().from_pretrained(*args, **kwargs | {"output_loading_info": True})
        filled = model.fill_generator(set(loaded["missing_keys"]))
        loaded["missing_keys"] = set(loaded["missing_keys"]) - filled
        if filled:
            logger.warning(
                f"{model.name_or_path}: has one set of weights for parts that this model has twice. Both networks "
                f"begin with them, so ignore that these are called missing: {', '.join(sorted(filled))}."
            )
        model.freeze_untrained()
        return (model, loaded) if kwargs.get("output_loading_info") else model

    @torch.no_grad()
    def fill_generator(self, missing: set[str]) -> set[str]:
        """If a checkpoint holds one set of embeddings, or one encoder, and this model has two, let both begin with it.
        `missing` are the names that the checkpoint lacks; return those that were filled."""
        if any(parameter.is_meta for parameter in self.parameters()):  # partly on the disk
            return set()
        filled: set[str] = set()
        shared = ["electra.embeddings."]
        if f"generator.{GENERATOR_HEAD}" not in missing:  # the checkpoint has a generator, so it lacks no encoder
            shared += ["electra.encoder.", "electra.embeddings_project."]
        discriminator = dict(self.named_parameters(remove_duplicate=False))
        embedding = self.electra.get_input_embeddings()
        if isinstance(embedding, DisentangledEmbedding) and embedding.loaded_sum is not None:
            discriminator[WORD_EMBEDDINGS] = embedding.loaded_sum  # type: ignore[assignment]
        for name, weight in discriminator.items():
            counterpart = f"generator.{name}"
            if name.startswith(tuple(shared)) and counterpart in missing and name not in missing:
                self.get_parameter(counterpart).copy_(weight)
                filled.add(counterpart)
        if f"generator.{WORD_EMBEDDINGS}" in filled:  # which is the output layer, too
            self.generator.generator_lm_head.weight = self.generator.get_input_embeddings().weight
            filled.add("generator.generator_lm_head.weight")
        if isinstance(embedding, DisentangledEmbedding):
            self.tie_weights()
            if f"{DISENTANGLED}residual.weight" in missing and embedding.loaded_sum is not None:
                embedding.set_weight(embedding.loaded_sum)
                filled |= {f"{DISENTANGLED}residual.weight", f"{DISENTANGLED}shared.weight"} & missing
            embedding.loaded_sum = None
        return filled

    def set_input_embeddings(self, value):
        """As [`PreTrainedModel.set_input_embeddings`], for the discriminator and whatever shares its table."""
        if self.config.embedding_sharing == "disentangled":
            self.get_input_embeddings().set_weight(value.weight)
            return
        super().set_input_embeddings(value)
        if self.config.embedding_sharing == "tied":
            self.generator.set_input_embeddings(value)

    def get_output_embeddings(self):
        """The generator's, if they belong to the input embeddings, which are the discriminator's."""
        return self.generator.get_output_embeddings() if self.config.embedding_sharing == "tied" else None

    def set_output_embeddings(self, new_embeddings):
        self.generator.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(  # type: ignore[override]
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the vocabulary of both networks; arguments as in [`PreTrainedModel`]."""
        if self.config.embedding_sharing != "disentangled":
            embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
            if new_num_tokens is not None or pad_to_multiple_of is not None:
                self.generator.resize_token_embeddings(embeddings.num_embeddings, mean_resizing=mean_resizing)
                self.tie_weights()
            return embeddings
        table = self.generator.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        summed = self.get_input_embeddings()
        summed.resize(table.num_embeddings)
        self.vocab_size = self.config.vocab_size = self.electra.config.vocab_size = table.num_embeddings
        self.tie_weights()
        self.freeze_untrained()
        return summed

    def save_pretrained(self, save_directory, is_main_process=True, state_dict: dict | None = None, *args, **kwargs):
        """As [`PreTrainedModel.save_pretrained`]; the folder loads with every SpanElectra and stock ELECTRA class."""
        if state_dict is not None:  # FSDP gives copies of what is tied
            state_dict = {
                name: weight for name, weight in state_dict.items() if name not in self.all_tied_weights_keys
            }
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    def refuse_shared_adapters(self) -> None:
        """Raise a ValueError if PEFT has put an adapter on one of several layers that use the same weight."""
        if not hasattr(self, "peft_config"):
            return
        users = defaultdict(list)
        for name, parameter in self.named_parameters(remove_duplicate=False):
            users[parameter].append(name.removesuffix(".weight"))
        for names in users.values():
            if len(names) > 1 and any(name.endswith(".base_layer") for name in names):
                layers = sorted({name.removesuffix(".base_layer") for name in names})
                raise ValueError(
                    f"{', '.join(layers)} use the same weight, so an adapter on one of them cannot be merged: the "
                    "others would change. Name layers with weights of their own in PEFT's `target_modules` (mostly "
                    "'query' and 'value' have), or adapt a model of one network, such as a classifier or the exported "
                    "discriminator."
                )

    # What the objectives ask for.

    def encode_masked(self, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
        self.refuse_shared_adapters()
        return self.generator.electra(input_ids=input_ids, **inputs).last_hidden_state

    def score_at_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.score_from_boundaries(self.generator.generator_predictions(hidden))

    def score_from_boundaries(self, represented: torch.Tensor) -> torch.Tensor:
        return self.generator.generator_lm_head(represented)

    def score_vocabulary(self, hidden: torch.Tensor, masked: MaskedTokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in [`SpanObjectives`], with one run of the output layer, which both objectives share, over both."""
        if not self.trains_sbgo:
            return super().score_vocabulary(hidden, masked)
        from_positions = self.generator.generator_predictions(masked.at_positions(hidden))  # (N, E)
        from_boundaries = self.sbgo_head(*masked.at_boundaries(hidden), masked.offset)  # (N, E)
        mlm_logits, sbgo_logits = self.score_from_boundaries(torch.cat([from_positions, from_boundaries])).chunk(2)
        return mlm_logits, sbgo_logits

    def encode_corrupted(self, input_ids: torch.Tensor | None, **inputs) -> BaseModelOutput:
        self.refuse_shared_adapters()
        return self.electra(input_ids=input_ids, **inputs)

    def score_replaced(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.discriminator_predictions(hidden)

    def attention_mask_of(self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> dict:
        """`attention_mask` itself, or, if sequences share a row (`position_ids`) or shapes are static, a mask of the
        pairs of tokens that see each other, in the form that the attention takes."""
        return dict.fromkeys(("generator", "discriminator"), self.mask_of_sequences(attention_mask, position_ids))

    def mask_of_sequences(
        self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor | None:
        is_flash = is_flash_attention_requested(self.config)
        if position_ids is None:
            # The library would look for padding in each encoder, and the host would wait for the answer.
            if attention_mask is None or self.largest_masked_share is None or is_flash:
                return attention_mask
            position_ids = torch.arange(attention_mask.shape[1], device=attention_mask.device).expand_as(
                attention_mask
            )
        elif is_flash:
            raise ValueError(
                f"`attn_implementation` is {self.config._attn_implementation!r}, which cannot separate sequences that "
                "share a row, as `position_ids` may say: use 'sdpa', 'eager' or 'flex_attention', or leave them out."
            )
        sequences = sequence_numbers(position_ids)  # (B, T)
        if attention_mask is not None:
            sequences = sequences.where(attention_mask.bool(), -1)  # padding sees padding: no row without a key
        shape_of_input = self.generator.get_input_embeddings().weight.new_empty(*sequences.shape, 0)
        return create_bidirectional_mask(
            self.config, shape_of_input, None, and_mask_function=packed_sequence_mask_function(sequences)
        )


AUTO_CLASSES: dict[Any, type[SpanElectraPreTrainedModel]] = {
    AutoModel: SpanElectraModel,
    AutoModelForTextEncoding: SpanElectraModel,
    AutoModelForPreTraining: SpanElectraForPreTraining,
    AutoModelForMaskedLM: SpanElectraForMaskedLM,
    AutoModelForSequenceClassification: SpanElectraForSequenceClassification,
    AutoModelForTokenClassification: SpanElectraForTokenClassification,
    AutoModelForQuestionAnswering: SpanElectraForQuestionAnswering,
    AutoModelForMultipleChoice: SpanElectraForMultipleChoice,
}
# What the weights of a class can serve: those of a pretraining checkpoint everything, unless only its generator was
# trained; a generator masked language modelling; a discriminator with another head every head that is fine-tuned.
GENERATOR_CLASSES = ("AutoModelForPreTraining", "AutoModelForMaskedLM")


def auto_map_of(model: SpanElectraPreTrainedModel) -> dict[str, str]:
    """The Auto classes that a saved model serves, for its configuration."""
    names = {auto.__name__: f"modeling_span_electra.{cls.__name__}" for auto, cls in AUTO_CLASSES.items()}
    if isinstance(model, SpanElectraForMaskedLM):
        names = {"AutoModelForMaskedLM": names["AutoModelForMaskedLM"]}
    elif not isinstance(model, SpanElectraForPreTraining):
        names = {auto: name for auto, name in names.items() if auto not in GENERATOR_CLASSES}
    elif model.config.discriminator_is_untrained:
        names = {auto: names[auto] for auto in GENERATOR_CLASSES}
    return {"AutoConfig": "configuration_span_electra.SpanElectraConfig"} | names


def _register() -> None:
    for auto, model in AUTO_CLASSES.items():
        model.register_for_auto_class(auto.__name__)
    # Loaded from a checkpoint's folder beside the installed package, this file must not take the package's place.
    is_of_a_checkpoint = __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)
    if not is_of_a_checkpoint or SpanElectraConfig.model_type not in CONFIG_MAPPING:
        AutoConfig.register(SpanElectraConfig.model_type, SpanElectraConfig, exist_ok=True)
        for auto, model in AUTO_CLASSES.items():
            auto.register(SpanElectraConfig, model, exist_ok=True)


_register()

__all__ = [
    "SpanElectraForMaskedLM",
    "SpanElectraForMultipleChoice",
    "SpanElectraForPreTraining",
    "SpanElectraForQuestionAnswering",
    "SpanElectraForSequenceClassification",
    "SpanElectraForTokenClassification",
    "SpanElectraModel",
    "SpanElectraPreTrainedModel",
]
