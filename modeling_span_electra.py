"""SpanElectra: ELECTRA's two networks, trained on spans.

Letters for axes: B batch, T tokens, E embedding, H hidden, V vocabulary, N masked tokens in the batch.

The encoder, the discriminator's head and the task heads are Transformers' own. What stands here is the objective: four
losses of which two (masked language modelling, MLM, and replaced token detection, RTD) are ELECTRA's (Clark et al.,
2020) and two (span boundary objectives, SBGO for the generator and SBPO for the discriminator) ask the same of a
span's two boundary tokens (Joshi et al., 2020, SpanBERT).

This file travels with every checkpoint, so it imports nothing of the package but the two files beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
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
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, ModelOutput, logging
from transformers.utils.generic import is_flash_attention_requested

from .configuration_span_electra import SpanElectraConfig
from .span_objectives import MaskedTokens, SpanBoundaryHead, masked_mean, sample_tokens, sequence_numbers, token_keys

logger = logging.get_logger(__name__)

WORD_EMBEDDINGS = "electra.embeddings.word_embeddings.weight"


@dataclass
class SpanElectraForPreTrainingOutput(ModelOutput):
    """
    What a pretraining step returns. Without `labels` only `logits` (and what was asked for beside) is set; what the
    discriminator gives is None where the generator is trained alone.

    Args:
        loss: the weighted sum of the losses below, a scalar.
        mlm_loss, sbgo_loss: mean cross-entropy over the masked tokens, in nats.
        rtd_loss: mean binary cross-entropy over all real tokens, in nats.
        sbpo_loss: the same over the masked tokens, from their span's boundaries.
        logits: the discriminator's score that a token was replaced, (batch, tokens).
        corrupted_ids: the discriminator's input, (batch, tokens).
        is_replaced: where it differs from the original text, bool, (batch, tokens).
        generator_correct: the masked tokens that the generator's best guess gets right, bool, (batch, tokens).
        hidden_states, attentions: the discriminator's, of each layer.
    """

    loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    sbgo_loss: torch.Tensor | None = None
    rtd_loss: torch.Tensor | None = None
    sbpo_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    corrupted_ids: torch.Tensor | None = None
    is_replaced: torch.Tensor | None = None
    generator_correct: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class SpanElectraPreTrainedModel(ElectraPreTrainedModel):
    """What every SpanElectra model has in common: stock ELECTRA's key names, and checkpoints that load anywhere."""

    config_class = SpanElectraConfig
    config: SpanElectraConfig
    # A pretraining checkpoint holds both networks and every head; each class takes what it needs.
    _keys_to_ignore_on_load_unexpected = [
        r"^generator\.",
        r"^discriminator_predictions\.",
        r"^sb[gp]o_",
        "_residual$",
    ]
    # The losses are means over this batch. Told otherwise, the Trainer would leave out its division by the number of
    # accumulated batches.
    accepts_loss_kwargs = False

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
        self.config.auto_map = AUTO_MAP.copy()
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
        "_residual$",
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


class SpanElectraForPreTraining(SpanElectraPreTrainedModel):
    """Generator and discriminator, trained together on the four objectives.

    The input is a masked-LM batch (`DataCollatorForSpanMasking` makes it): spans are told apart by `labels` alone.
    Without `labels` the model is the discriminator: it scores how likely each token of the input was replaced.
    `config.objective` leaves one of the two as it is, for training in two stages.

    With disentangled embeddings the discriminator's table is a sum, which is written where `save_pretrained` saves it:
    until then `electra` by itself, or weights that are saved in another way, has the one that was saved last. Single
    tokens' embeddings are changed in `generator`.

    ```python
    >>> output = model(**collator([{"input_ids": ids} for ids in rows]))
    >>> output.loss.backward()
    ```
    """

    _keys_to_ignore_on_load_unexpected = None

    def __init__(self, config: SpanElectraConfig):
        config.check_encoders()
        super().__init__(config)
        generator_config = config.generator_config()
        self.electra = SpanElectraModel(config)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config)
        self.generator = ElectraForMaskedLM(generator_config)
        if config.embedding_sharing == "disentangled":
            # What the discriminator adds to the generator's table. `electra`'s own table holds the sum when saved.
            self.embedding_residual = nn.Parameter(torch.zeros(config.vocab_size, config.embedding_size))
        if config.use_sbgo:
            self.sbgo_head = SpanBoundaryHead(config, generator_config.hidden_size, config.embedding_size)
        if config.use_sbpo:
            self.sbpo_head = SpanBoundaryHead(config, config.hidden_size, config.hidden_size)
            self.sbpo_prediction = nn.Linear(config.hidden_size, 1)
        # For static shapes (see `masked_positions`). Training sets it; None counts the masked tokens of every batch.
        self.largest_masked_share: float | None = None
        self._tied_weights_keys = tied_weights(config)
        self.post_init()
        self.freeze_untrained()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]."""
        model, loaded = super().from_pretrained(*args, **kwargs | {"output_loading_info": True})
        filled = model.fill_embeddings(set(loaded["missing_keys"]))
        loaded["missing_keys"] = set(loaded["missing_keys"]) - filled
        if filled:
            logger.warning(
                f"{model.name_or_path}: has embeddings for one network. What is called missing of "
                f"{', '.join(sorted(filled))} begins as they are."
            )
        model.freeze_untrained()
        return (model, loaded) if kwargs.get("output_loading_info") else model

    @torch.no_grad()
    def fill_embeddings(self, missing: set[str]) -> set[str]:
        """Where a checkpoint of one table has been loaded into a model that asks for more (`embedding_sharing`), let
        both networks begin with it. `missing` names what was not in the checkpoint; return what no longer is."""
        filled: set[str] = set()
        generators = self.generator.get_input_embeddings()
        if any(parameter.is_meta for parameter in self.parameters()):  # in part on the disk
            return filled
        for name, weight in self.electra.embeddings.named_parameters():
            counterpart = f"generator.electra.embeddings.{name}"
            if counterpart in missing and f"electra.embeddings.{name}" not in missing:
                self.get_parameter(counterpart).copy_(weight)
                filled.add(counterpart)
        if f"generator.{WORD_EMBEDDINGS}" in filled:  # which is the output layer as well
            self.generator.generator_lm_head.weight = generators.weight  # type: ignore[assignment]
            filled.add("generator.generator_lm_head.weight")
        if "embedding_residual" in missing and WORD_EMBEDDINGS not in missing:
            self.embedding_residual.copy_(self.electra.get_input_embeddings().weight - generators.weight)
            filled.add("embedding_residual")
        return filled

    def freeze_untrained(self) -> None:
        """Ask no gradient for what the objective leaves as it is."""
        generators = {
            id(parameter)
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if name.startswith(("generator.", "sbgo_head."))
        }
        for parameter in self.parameters():
            half = "generator" if id(parameter) in generators else "discriminator"
            if self.config.objective not in ("joint", half):
                parameter.requires_grad_(False)
        if self.config.embedding_sharing == "disentangled":
            # The discriminator's own table is a sum, written when it is saved.
            self.electra.get_input_embeddings().weight.requires_grad_(False)

    def train(self, mode: bool = True) -> "SpanElectraForPreTraining":
        """As [`torch.nn.Module.train`]; a generator that stays as it is stays without dropout, too."""
        super().train(mode)
        if self.config.objective == "discriminator":
            self.generator.eval()
        return self

    def set_input_embeddings(self, value):
        """As [`PreTrainedModel.set_input_embeddings`], for the discriminator and whatever shares them."""
        is_new = value is not self.get_input_embeddings()
        super().set_input_embeddings(value)
        if self.config.embedding_sharing == "tied":
            self.generator.set_input_embeddings(value)
        elif self.config.embedding_sharing == "disentangled":
            if is_new and value.weight.shape == self.embedding_residual.shape:  # not while the vocabulary is resized
                table = self.generator.get_input_embeddings().weight
                self.embedding_residual.data.copy_(value.weight.detach() - table.detach())
            self.freeze_untrained()

    def get_output_embeddings(self):
        """The generator's, where they belong to the input embeddings, which are the discriminator's."""
        return self.generator.get_output_embeddings() if self.config.embedding_sharing == "tied" else None

    def set_output_embeddings(self, new_embeddings):
        self.generator.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize the vocabulary of both networks; arguments as in [`PreTrainedModel`]."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if new_num_tokens is None and pad_to_multiple_of is None:
            return embeddings
        self.generator.resize_token_embeddings(embeddings.num_embeddings, mean_resizing=mean_resizing)
        if self.config.embedding_sharing == "disentangled":
            grown = self.embedding_residual.new_zeros(embeddings.weight.shape)
            kept = min(len(grown), len(self.embedding_residual))
            grown[:kept] = self.embedding_residual.data[:kept]
            self.embedding_residual = nn.Parameter(grown)
            self.freeze_untrained()
        self.tie_weights()
        return embeddings

    def fold_embeddings(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`state_dict` with the discriminator's word embeddings as one table, which any ELECTRA class can use."""
        if self.config.embedding_sharing != "disentangled":
            return state_dict
        folded = state_dict[f"generator.{WORD_EMBEDDINGS}"] + state_dict["embedding_residual"]
        return {**state_dict, WORD_EMBEDDINGS: folded}

    def save_pretrained(self, save_directory, is_main_process=True, state_dict: dict | None = None, *args, **kwargs):
        """As [`PreTrainedModel.save_pretrained`]; the folder loads with every SpanElectra and stock ELECTRA class."""
        if state_dict is None:
            state_dict = self.fold_embeddings(self.state_dict())
            # The model in memory now equals the one on disk, its frozen table included.
            self.electra.get_input_embeddings().weight.data.copy_(state_dict[WORD_EMBEDDINGS])
        else:  # FSDP's, for one, holds copies of what is tied
            folded = self.fold_embeddings(state_dict).items()
            state_dict = {name: weight for name, weight in folded if name not in self.all_tied_weights_keys}
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    def discriminator_embeddings(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """The discriminator's word embeddings of `input_ids`, (B, T, E), or None where it has a table of its own."""
        if self.config.embedding_sharing != "disentangled":
            return None
        table = self.generator.get_input_embeddings().weight.detach()
        residual = F.embedding(input_ids, self.embedding_residual, padding_idx=self.config.pad_token_id)
        return F.embedding(input_ids, table) + residual

    def discriminate(self, input_ids: torch.Tensor | None, **inputs) -> tuple[torch.Tensor, BaseModelOutput]:
        """Score every token as replaced: logits (B, T), and what the discriminator's encoder returned."""
        if input_ids is not None and inputs.get("inputs_embeds") is None:
            embeddings = self.discriminator_embeddings(input_ids)
            if embeddings is not None:
                input_ids, inputs["inputs_embeds"] = None, embeddings
        encoded = self.electra(input_ids=input_ids, **inputs)
        return self.discriminator_predictions(encoded.last_hidden_state), encoded

    def score_vocabulary(self, hidden: torch.Tensor, masked: MaskedTokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The generator's logits (N, V) for the masked tokens: from their own position and from their span's edges."""
        represented = [self.generator.generator_predictions(masked.at_positions(hidden))]  # (N, E)
        is_wanted = self.config.objective != "discriminator" or self.config.sampling_head == "mean"
        with_boundaries = self.config.use_sbgo and is_wanted
        if with_boundaries:
            represented.append(self.sbgo_head(*masked.at_boundaries(hidden), masked.offset))
        # Both share the decoder, so it runs once over both.
        logits = self.generator.generator_lm_head(torch.cat(represented))
        return (*logits.chunk(2),) if with_boundaries else (logits, None)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sampling_keys: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[torch.Tensor, ...] | SpanElectraForPreTrainingOutput:
        """
        Args:
            input_ids: with `labels`, a text whose spans are masked; without, any text, (batch, tokens).
            attention_mask: 1 for real tokens, 0 for padding, (batch, tokens); by default all are real.
            token_type_ids: as in [`ElectraModel`].
            position_ids: each token's place in its sequence, (batch, tokens). Where it does not go up by one, another
                sequence begins: several may share a row, and none sees another.
            inputs_embeds: instead of `input_ids`, only without `labels`, (batch, tokens, embedding).
            labels: original ids where tokens are masked, -100 elsewhere, (batch, tokens).
            sampling_keys: what the generator's samples in each row follow from, int32, (batch,); by default drawn
                from torch's random numbers. With them a row's samples are the same in any batch, on any process.

        Raises:
            ValueError: `labels` without `input_ids`; `position_ids` with an attention that takes no mask of pairs.
        """
        if labels is not None and input_ids is None:
            raise ValueError("`labels` came without `input_ids`: the joint step replaces tokens and needs their ids.")
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if position_ids is not None:
            position_ids = position_ids.expand(len(inputs_embeds if input_ids is None else input_ids), -1)
        inputs = {
            "attention_mask": self.mask_of_sequences(attention_mask, position_ids),
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "return_dict": True,
        }
        wanted = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        wanted = {name: value for name, value in wanted.items() if value is not None}  # of the discriminator
        if labels is None:
            logits, encoded = self.discriminate(input_ids, inputs_embeds=inputs_embeds, **inputs, **wanted)
            results = {"logits": logits}
        else:
            masked = MaskedTokens.of(labels, self.largest_masked_share)
            results, proposals = self.generator_step(input_ids, masked, **inputs)
            encoded = BaseModelOutput()
            if self.config.objective != "generator":
                corrupted_ids = masked.write(self.sample(proposals, masked, sampling_keys, labels.shape), input_ids)
                judged, encoded = self.discriminator_step(
                    corrupted_ids, labels, masked, attention_mask, **inputs, **wanted
                )
                results |= judged
            results["loss"] = self.weighted_sum(results)
        output = SpanElectraForPreTrainingOutput(
            **results, hidden_states=encoded.get("hidden_states"), attentions=encoded.get("attentions")
        )
        return output if return_dict else output.to_tuple()

    def mask_of_sequences(
        self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The encoders' attention mask: `attention_mask` itself, or, where sequences share a row (`position_ids`) or
        shapes are static, a mask of the pairs of tokens that see each other, in the form that the attention takes."""
        is_flash = is_flash_attention_requested(self.config)
        if position_ids is None:
            # The library looks for padding, in each encoder, and the host waits for the answer.
            if attention_mask is None or self.largest_masked_share is None or is_flash:
                return attention_mask
            position_ids = torch.arange(attention_mask.shape[1], device=attention_mask.device).expand_as(
                attention_mask
            )
        elif is_flash:
            raise ValueError(
                f"`attn_implementation` is {self.config._attn_implementation!r}, which cannot keep apart sequences "
                "that share a row, as `position_ids` may say; use 'sdpa', 'eager' or 'flex_attention', or leave "
                "them out."
            )
        sequences = sequence_numbers(position_ids)  # (B, T)
        if attention_mask is not None:
            sequences = sequences.where(attention_mask.bool(), -1)  # padding sees padding: no row without a key
        shape_of_input = self.get_input_embeddings().weight.new_empty(*sequences.shape, 0)
        return create_bidirectional_mask(
            self.config, shape_of_input, None, and_mask_function=packed_sequence_mask_function(sequences)
        )

    def generator_step(
        self, input_ids: torch.Tensor, masked: MaskedTokens, **inputs
    ) -> tuple[dict[str, torch.Tensor | None], torch.Tensor]:
        """The generator's part of the step: its part of the output by name, and the scores to sample replacements
        from, (N, V)."""
        hidden = self.generator.electra(input_ids=input_ids, **inputs).last_hidden_state
        mlm_logits, sbgo_logits = self.score_vocabulary(hidden, masked)
        correct = mlm_logits.argmax(dim=-1) == masked.original
        results = {
            "mlm_loss": masked.cross_entropy(mlm_logits),
            "sbgo_loss": None if sbgo_logits is None else masked.cross_entropy(sbgo_logits),
            "generator_correct": masked.write(correct, torch.zeros_like(input_ids, dtype=torch.bool)),
        }
        if self.config.sampling_head == "mean":
            return results, (mlm_logits.detach() + sbgo_logits.detach()) / 2
        return results, mlm_logits

    def sample(
        self, proposals: torch.Tensor, masked: MaskedTokens, row_keys: torch.Tensor | None, shape: torch.Size
    ) -> torch.Tensor:
        """What takes the place of each masked token, (N,), from the scores (N, V) of all tokens; `row_keys` is the
        batch's `sampling_keys`, and (B, T) its `shape`."""
        rows, tokens = shape
        if row_keys is None:
            row_keys = torch.randint(2**31, (rows,), dtype=torch.int32, device=proposals.device)
        keys = token_keys(row_keys, masked.positions, tokens)
        return sample_tokens(proposals, keys, self.config.sampling_temperature)

    def discriminator_step(
        self,
        corrupted_ids: torch.Tensor,
        labels: torch.Tensor,
        masked: MaskedTokens,
        is_real: torch.Tensor | None,
        **inputs,
    ) -> tuple[dict[str, torch.Tensor | None], BaseModelOutput]:
        """The discriminator's part: its part of the output by name, and what its encoder returned. `is_real` is the
        batch's attention mask, (B, T)."""
        is_replaced = (labels != -100) & (corrupted_ids != labels)
        logits, encoded = self.discriminate(corrupted_ids, **inputs)
        results = {
            "rtd_loss": self.rtd_loss(logits, is_replaced, is_real),
            "sbpo_loss": self.sbpo_loss(encoded.last_hidden_state, is_replaced, masked),
            "logits": logits,
            "corrupted_ids": corrupted_ids,
            "is_replaced": is_replaced,
        }
        return results, encoded

    def rtd_loss(
        self, logits: torch.Tensor, is_replaced: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Replaced token detection over all real tokens (ELECTRA, section 2)."""
        losses = F.binary_cross_entropy_with_logits(logits.float(), is_replaced.float(), reduction="none")  # (B, T)
        return losses.mean() if attention_mask is None else masked_mean(losses, attention_mask.bool())

    def sbpo_loss(self, hidden: torch.Tensor, is_replaced: torch.Tensor, masked: MaskedTokens) -> torch.Tensor | None:
        """The same question about the masked tokens, asked of the two tokens around their span."""
        if not self.config.use_sbpo:
            return None
        represented = self.sbpo_head(*masked.at_boundaries(hidden), masked.offset)  # (N, H)
        logits = self.sbpo_prediction(represented).squeeze(-1).float()
        targets = is_replaced.flatten()[masked.positions].float()
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return masked_mean(losses, masked.is_masked)

    def weighted_sum(self, losses: Mapping):
        """The loss to minimise: what the objective trains of `losses`, which are named as in the output, weighted."""
        return sum(weight * losses[f"{name}_loss"] for name, weight in self.config.loss_weights.items())

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self and self.config.embedding_sharing == "disentangled":
            init.zeros_(self.embedding_residual)


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
AUTO_MAP = {"AutoConfig": "configuration_span_electra.SpanElectraConfig"} | {
    auto.__name__: f"modeling_span_electra.{model.__name__}" for auto, model in AUTO_CLASSES.items()
}


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
    "SpanElectraForPreTrainingOutput",
    "SpanElectraForQuestionAnswering",
    "SpanElectraForSequenceClassification",
    "SpanElectraForTokenClassification",
    "SpanElectraModel",
    "SpanElectraPreTrainedModel",
]
