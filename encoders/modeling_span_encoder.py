"""The span objectives on any encoder of Transformers: its own classes in, its own checkpoints out.

Letters for axes: B batch, T tokens, E embedding, H hidden, V vocabulary, N masked tokens in the batch.

The discriminator is what `AutoModel` builds, the generator what `AutoModelForMaskedLM` builds for the same family. A
saved folder *is* the discriminator's stock folder; `generator/` in it is a stock masked-LM folder, and `pretraining/`
holds what only pretraining needs: the objectives' heads and settings.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file, logging
from transformers.utils.generic import is_flash_attention_requested

from span_electra.configuration_span_electra import refuse_unknown
from span_electra.encoders.configuration_span_encoder import (
    GENERATOR_FOLDER,
    OWN_SETTINGS,
    PRETRAINING_FOLDER,
    SpanEncoderConfig,
    activation_of,
    first_position,
    layer_norm_eps_of,
)
from span_electra.encoders.stock_encoders import (
    embeddings_of,
    load_whole,
    module_path,
    new_encoder,
    packed_masks,
    refuse_missing,
    within,
    without_encoder,
    without_pooler,
)
from span_electra.span_objectives import DisentangledEmbedding, SpanObjectives, sequence_numbers

logger = logging.get_logger(__name__)

# Families whose encoder takes a mask of pairs of tokens, so that several sequences may share a row.
SEPARATE_SEQUENCES = (
    *("modernbert", "bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "eurobert", "electra"),
)
# Parts of some encoders that no hidden state depends on.
UNUSED_PARTS = ("pooler", "contact_head")
RESIDUAL = "embedding_residual"  # its name in `pretraining/`
HUB_SETTINGS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


class SpanEncoderForPreTraining(SpanObjectives, PreTrainedModel):
    """
    A generator and a discriminator of any one family, trained together on the four objectives (see
    [`SpanObjectives`]).

    Args:
        config: the composed configuration. A stock model below brings its own part of it.
        discriminator: a stock encoder to start from; by default a new one.
        generator: a stock masked language model of the same family to start from; by default a new one.

    ```python
    >>> from transformers import AutoModel, ModernBertConfig
    >>> model = SpanEncoderForPreTraining(SpanEncoderConfig(discriminator=ModernBertConfig(num_hidden_layers=6)))
    >>> model(**batch).loss.backward()
    >>> model.save_pretrained("my_model")
    >>> encoder = AutoModel.from_pretrained("my_model")  # a stock ModernBertModel
    ```
    """

    config_class = SpanEncoderConfig
    config: SpanEncoderConfig
    base_model_prefix = "discriminator"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # each network says what it supports
    accepts_loss_kwargs = False  # the losses are means over a batch, which the Trainer still has to divide

    def __init__(
        self,
        config: SpanEncoderConfig,
        discriminator: PreTrainedModel | None = None,
        generator: PreTrainedModel | None = None,
    ):
        if discriminator is not None:
            config.discriminator = discriminator.config
        if generator is not None:
            config.generator = generator.config
        config.check()
        super().__init__(config)
        self.discriminator = new_encoder(config.discriminator) if discriminator is None else discriminator
        self.generator = AutoModelForMaskedLM.from_config(config.generator) if generator is None else generator
        config.generator = self.generator.config  # not derived any more: the library looks for this very object
        self.discriminator_predictions = ReplacedTokenHead(config)
        self.add_boundary_heads(
            self.generator.config.hidden_size,
            self.generator.get_output_embeddings().weight.shape[1],
            config.hidden_size,
            layer_norm_eps_of(config.discriminator),
        )
        table = self.discriminator.get_input_embeddings().weight
        self._tied_weights_keys = self.share_embeddings()
        self.post_init()
        if isinstance(embedding := self.get_input_embeddings(), DisentangledEmbedding):
            embedding.set_weight(embedding.shared.weight if discriminator is None else table)
        self.freeze_untrained()

    def share_embeddings(self) -> dict[str, str]:
        """Let the networks share the embeddings that the configuration says. Return the names that are tied, as the
        library declares them: from target to source."""
        self.vocabulary_head = (without_encoder(self.generator),)  # in a tuple: its parts are the generator's already
        if self.config.embedding_sharing == "tied":
            ours, theirs = embeddings_of(self.discriminator), embeddings_of(self.generator.base_model)
            target, source = module_path(self, theirs), module_path(self, ours)
            shapes = {name: weight.shape for name, weight in theirs.named_parameters()}
            shared = [name for name, weight in ours.named_parameters() if shapes.get(name) == weight.shape]
            return {f"{target}.{name}": f"{source}.{name}" for name in shared}
        if self.config.embedding_sharing == "disentangled":
            table, shared = self.discriminator.get_input_embeddings(), self.generator.get_input_embeddings()
            embedding = DisentangledEmbedding(table.num_embeddings, table.embedding_dim, table.padding_idx)
            self.discriminator.set_input_embeddings(embedding.to(table.weight))
            return {f"{module_path(self, embedding)}.shared.weight": f"{module_path(self, shared)}.weight"}
        return {}

    def freeze_untrained(self) -> None:
        """As in [`SpanObjectives`]; also freeze what no hidden state depends on."""
        super().freeze_untrained()
        for encoder in (self.discriminator, self.generator.base_model):
            for name, part in encoder.named_children():
                if name in UNUSED_PARTS:
                    part.requires_grad_(False)

    # What the objectives ask for.

    def encode_masked(self, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
        encoder = self.generator.base_model
        return encoder(input_ids=input_ids, **self.accepted(encoder, inputs)).last_hidden_state

    def score_at_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        (head,) = self.vocabulary_head
        return head(inputs_embeds=hidden.unsqueeze(0), return_dict=True).logits.squeeze(0)

    def score_from_boundaries(self, represented: torch.Tensor) -> torch.Tensor:
        decoder = self.generator.get_output_embeddings()
        scores = decoder(represented)
        # Some families (ESM) add the bias outside of the output layer.
        outside = None if decoder.bias is not None else getattr(getattr(self.generator, "lm_head", None), "bias", None)
        return scores if outside is None else scores + outside

    def encode_corrupted(self, input_ids: torch.Tensor | None, **inputs) -> BaseModelOutput:
        return self.discriminator(input_ids=input_ids, **self.accepted(self.discriminator, inputs))

    def score_replaced(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.discriminator_predictions(hidden)

    def accepted(self, encoder: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
        """Those of `inputs` that the family takes, with positions numbered as it numbers them."""
        has_types = inputs.get("token_type_ids") is not None and self.config.type_vocab_size > 1
        inputs = {name: value for name, value in inputs.items() if name != "token_type_ids" or has_types}
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + first_position(encoder.config)
        return inputs

    def attention_mask_of(self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> dict:
        """`attention_mask` itself, from which each family makes its own masks, or, if sequences share a row
        (`position_ids`) or shapes are static, masks of the pairs of tokens that see each other."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        kind = self.discriminator.config.model_type
        if position_ids is None:
            is_flash = any(is_flash_attention_requested(network.config) for network in networks.values())
            takes_pairs = kind in SEPARATE_SEQUENCES and not is_flash
            if attention_mask is None or self.largest_masked_share is None or not takes_pairs:
                return dict.fromkeys(networks, attention_mask)
            # The library would look for padding in each encoder, and the host would wait for the answer.
            position_ids = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            position_ids = position_ids.expand_as(attention_mask)
        elif kind not in SEPARATE_SEQUENCES:
            raise ValueError(
                f"Sequences share a row (`position_ids`), but {kind} is not among the families whose attention can "
                f"keep them apart ({', '.join(SEPARATE_SEQUENCES)}): make the features again without --pack_documents."
            )
        sequences = sequence_numbers(position_ids)  # (B, T)
        if attention_mask is not None:
            sequences = sequences.where(attention_mask.bool(), -1)  # padding sees padding: no row without a key
        return {name: packed_masks(network.config, sequences, self.dtype) for name, network in networks.items()}

    # The vocabulary.

    def get_input_embeddings(self) -> nn.Module:
        return self.discriminator.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """As [`PreTrainedModel.set_input_embeddings`], for the discriminator and whatever shares its table."""
        if self.config.embedding_sharing == "disentangled":
            self.get_input_embeddings().set_weight(value.weight)
            return
        self.discriminator.set_input_embeddings(value)
        if self.config.embedding_sharing == "tied":
            self.generator.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The generator's, if they belong to the input embeddings, which are the discriminator's."""
        return self.generator.get_output_embeddings() if self.config.embedding_sharing == "tied" else None

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the vocabulary of both networks; arguments as in [`PreTrainedModel`]."""
        table = self.generator.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if isinstance(embedding := self.get_input_embeddings(), DisentangledEmbedding):
            embedding.resize(table.num_embeddings)
            self.discriminator.config.vocab_size = table.num_embeddings
        else:
            self.discriminator.resize_token_embeddings(table.num_embeddings, mean_resizing=mean_resizing)
        self.vocabulary_head = (without_encoder(self.generator),)
        self.vocab_size = table.num_embeddings
        self.tie_weights()
        self.freeze_untrained()
        return self.get_input_embeddings()

    # Folders.

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, state_dict: dict | None = None, **kwargs
    ) -> None:
        """Write the discriminator's stock folder, the generator's in `generator/`, and the rest in `pretraining/`."""
        if self.config.objective == "generator":
            logger.warning_once(
                "`objective` is 'generator', so the encoder in this folder is not trained. Use the one in generator/."
            )
        folder = Path(save_directory)
        parts: dict[str, dict[str, torch.Tensor]] = {"discriminator": {}, "generator": {}, "": {}}
        for name, weight in (self.state_dict() if state_dict is None else state_dict).items():
            part, _, rest = name.partition(".")
            parts[part if part in parts else ""][rest if part in parts else name] = weight
        if isinstance(embedding := self.get_input_embeddings(), DisentangledEmbedding):  # a stock class wants the sum
            path = module_path(self.discriminator, embedding)
            parts["discriminator"].pop(f"{path}.shared.weight", None)
            parts[""][RESIDUAL] = parts["discriminator"].pop(f"{path}.residual.weight")
        for network, place in ((self.discriminator, folder), (self.generator, folder / GENERATOR_FOLDER)):
            weights = parts["discriminator" if network is self.discriminator else "generator"]
            weights = {name: weight for name, weight in weights.items() if name not in network.all_tied_weights_keys}
            network.save_pretrained(place, is_main_process, weights, **kwargs)
        if is_main_process:
            rest = folder / PRETRAINING_FOLDER
            rest.mkdir(parents=True, exist_ok=True)
            heads = {name: weight.detach().cpu().contiguous() for name, weight in parts[""].items()}
            save_file(heads, rest / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
            (rest / CONFIG_NAME).write_text(json.dumps(self.config.own_settings(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, config: SpanEncoderConfig | None = None, **settings
    ) -> Any:
        """Load what `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            config: settings of the objectives to use instead of the saved ones.
            settings: fields of [`SpanEncoderConfig`] to change, or arguments of [`PreTrainedModel.from_pretrained`]
                for both networks (`dtype`, `attn_implementation`, `revision`, …).

        Returns:
            The model, and with `output_loading_info=True` also the names of the saved weights that have no place in
            it, in the library's form.

        Raises:
            OSError: the folder, or one of its files, does not exist.
            ValueError: weights are missing, or a setting has a misspelt name.
        """
        name = pretrained_model_name_or_path
        refuse_unknown(SpanEncoderConfig, settings, are_saved=True)
        wants_info = settings.pop("output_loading_info", False)
        attention = settings.pop("attn_implementation", None)
        changes = {} if config is None else config.own_settings()
        changes |= {key: settings.pop(key) for key in OWN_SETTINGS if key in settings}
        hub = {key: settings[key] for key in HUB_SETTINGS if key in settings}
        network_config = AutoConfig.from_pretrained(name, **hub)
        discriminator, unused = load_whole(AutoModel, name, **settings | without_pooler(network_config))
        generator, more = load_whole(AutoModelForMaskedLM, name, **within(settings, GENERATOR_FOLDER))
        hub = within(hub, PRETRAINING_FOLDER)
        saved, _ = SpanEncoderConfig.get_config_dict(name, **hub)
        networks = {"discriminator": discriminator.config, "generator": generator.config}
        model = cls(SpanEncoderConfig(**saved | changes | networks), discriminator, generator)
        for part, head in model.named_children():
            if part not in networks:
                head.to(discriminator.device, discriminator.dtype)
        model.load_heads(load_file(cached_file(name, SAFE_WEIGHTS_NAME, **hub)))
        model.name_or_path = model.config.name_or_path = str(name)
        if attention is not None:
            model.set_attn_implementation(attention)
        if not wants_info:
            return model.eval()
        unexpected = {f"discriminator.{key}" for key in unused} | {f"generator.{key}" for key in more}
        return model.eval(), {"missing_keys": set(), "unexpected_keys": unexpected, "mismatched_keys": set()}

    def load_heads(self, weights: dict[str, torch.Tensor]) -> None:
        """Load what `pretraining/` holds: the objectives' heads, and the embedding's residual."""
        residual = weights.pop(RESIDUAL, None)
        embedding = self.get_input_embeddings()
        if residual is not None and isinstance(embedding, DisentangledEmbedding):
            embedding.residual.weight.data.copy_(residual)
        missing = [name for name in self.load_state_dict(weights, strict=False).missing_keys if is_of_heads(name)]
        refuse_missing(self.name_or_path, missing)

    def load_checkpoint(self, folder: str | os.PathLike) -> None:
        """Load all weights from a folder of this very model, in place: to resume a run.

        Raises:
            RuntimeError: a weight has another shape.
            ValueError: weights are missing.
        """
        saved = type(self).from_pretrained(folder, dtype=self.dtype)
        refuse_missing(folder, self.load_state_dict(saved.state_dict(), strict=False).missing_keys)


class ReplacedTokenHead(nn.Module):
    """Scores each token as replaced (ELECTRA, section 2): a linear layer, an activation, a linear layer."""

    def __init__(self, config: SpanEncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[activation_of(config.discriminator)]
        self.dense_prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores (batch, tokens) from hidden states (batch, tokens, hidden)."""
        return self.dense_prediction(self.activation(self.dense(hidden))).squeeze(-1)


def is_of_heads(name: str) -> bool:
    return not name.startswith(("discriminator.", "generator."))


__all__ = ["SpanEncoderForPreTraining"]
