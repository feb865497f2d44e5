"""The span objectives on any encoder of Transformers: its own classes in, its own checkpoints out.

Letters for axes: B batch, T tokens, E embedding, H hidden, V vocabulary, N masked tokens in the batch.

The discriminator is what `AutoModel` builds, the generator what `AutoModelForMaskedLM` builds for the same family. A
saved folder *is* the discriminator's stock folder; `generator/` in it is a stock masked-LM folder, and `pretraining/`
holds what only pretraining needs: the objectives' heads and settings.
"""

import copy
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file, logging
from transformers.utils.generic import is_flash_attention_requested

from .configuration_span_encoder import GENERATOR_FOLDER, PRETRAINING_FOLDER, SpanEncoderConfig, first_position
from .span_objectives import DisentangledEmbedding, SpanObjectives, sequence_numbers

logger = logging.get_logger(__name__)

# Families whose attention takes a mask of pairs of tokens, so that several sequences may share a row: see the tests.
SEPARATE_SEQUENCES = (
    *(
        "modernbert",
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "distilbert",
        "mpnet",
        "esm",
        "eurobert",
        "electra",
    ),
)
# Parts of some families' encoders that no hidden state depends on.
UNUSED_PARTS = ("pooler", "contact_head")
SUB_MODELS = ("discriminator", "generator")
HUB_SETTINGS = ("revision", "token", "cache_dir", "subfolder", "trust_remote_code")


class SpanEncoderForPreTraining(SpanObjectives, PreTrainedModel):
    """
    A generator and a discriminator of any one family, trained together on the four objectives (see
    [`SpanObjectives`]).

    Args:
        config: the composed configuration.
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
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    accepts_loss_kwargs = False  # the losses are means over a batch, which the Trainer still has to divide

    def __init__(
        self,
        config: SpanEncoderConfig,
        discriminator: PreTrainedModel | None = None,
        generator: PreTrainedModel | None = None,
    ):
        config.check()
        super().__init__(config)
        self.discriminator = new_encoder(config.discriminator) if discriminator is None else discriminator
        self.generator = AutoModelForMaskedLM.from_config(config.generator) if generator is None else generator
        self.discriminator_predictions = ReplacedTokenHead(config)
        self.add_boundary_heads(
            config.generator.hidden_size,
            self.generator.get_output_embeddings().weight.shape[1],
            config.hidden_size,
            layer_norm_eps_of(config.discriminator),
        )
        self.share_embeddings()
        self.post_init()
        self.freeze_untrained()

    def share_embeddings(self) -> None:
        """Let the two networks share what the configuration says, and remember how to run the generator's head."""
        theirs = embeddings_of(self.generator.base_model)
        ours = embeddings_of(self.discriminator)
        if self.config.embedding_sharing == "tied":
            paths = {name: module_path(self, part) for name, part in (("ours", ours), ("theirs", theirs))}
            shared = [name for name, weight in ours.named_parameters() if has_shape(theirs, name, weight.shape)]
            self._tied_weights_keys = {f"{paths['theirs']}.{name}": f"{paths['ours']}.{name}" for name in shared}
        elif self.config.embedding_sharing == "disentangled":
            table = self.discriminator.get_input_embeddings()
            embedding = DisentangledEmbedding(table.num_embeddings, table.embedding_dim, table.padding_idx)
            shared = self.generator.get_input_embeddings()
            embedding.shared.weight = shared.weight
            for part in (embedding.shared, embedding.residual):
                part._is_hf_initialized = True  # or `post_init` would overwrite what both networks start with
            if self.discriminator.name_or_path:  # weights to start from
                embedding.set_weight(table.weight)
            self.discriminator.set_input_embeddings(embedding)
            source, target = (module_path(self, part) for part in (shared, embedding))
            self._tied_weights_keys = {f"{target}.shared.weight": f"{source}.weight"}
        self.vocabulary_head = (HeadAlone(self.generator),)  # in a tuple: its parts are the generator's already

    def freeze_untrained(self) -> None:
        """As in [`SpanObjectives`], and what no hidden state depends on."""
        super().freeze_untrained()
        for encoder in (self.discriminator, self.generator.base_model):
            for name, part in encoder.named_children():
                if name in UNUSED_PARTS:
                    part.requires_grad_(False)

    def set_attn_implementation(self, *args, **kwargs) -> None:
        """As [`PreTrainedModel.set_attn_implementation`], for both networks."""
        for network in (self.discriminator, self.generator):
            network.set_attn_implementation(*args, **kwargs)

    # What the objectives ask for.

    def encode_masked(self, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
        encoder = self.generator.base_model
        return encoder(input_ids=input_ids, **self.accepted(encoder, inputs)).last_hidden_state

    def score_at_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.vocabulary_head[0](hidden)

    def score_from_boundaries(self, represented: torch.Tensor) -> torch.Tensor:
        return self.vocabulary_head[0].decode(represented)

    def encode_corrupted(self, input_ids: torch.Tensor | None, **inputs) -> BaseModelOutput:
        return self.discriminator(input_ids=input_ids, **self.accepted(self.discriminator, inputs))

    def score_replaced(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.discriminator_predictions(hidden)

    def accepted(self, encoder: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
        """Those of `inputs` that the family takes, with positions counted as it counts them."""
        if "token_type_ids" in inputs and (inputs["token_type_ids"] is None or self.config.type_vocab_size < 2):
            inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        if inputs.get("position_ids") is not None:
            inputs = inputs | {"position_ids": inputs["position_ids"] + first_position(encoder.config)}
        return inputs

    def attention_mask_of(self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> dict:
        """`attention_mask` itself, from which each family makes its own masks, or, if sequences share a row
        (`position_ids`), masks of the pairs of tokens that see each other."""
        configs = {"generator": self.config.generator, "discriminator": self.config.discriminator}
        if position_ids is None:
            return dict.fromkeys(configs, attention_mask)
        kind = self.config.discriminator.model_type
        if kind not in SEPARATE_SEQUENCES:
            raise ValueError(
                f"Sequences share a row (`position_ids`), and the attention of a {kind} cannot separate them: make "
                "the features again without --pack_documents."
            )
        sequences = sequence_numbers(position_ids)  # (B, T)
        if attention_mask is not None:
            sequences = sequences.where(attention_mask.bool(), -1)  # padding sees padding: no row without a key
        return {name: packed_masks(config, sequences, self.dtype) for name, config in configs.items()}

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
        return self.generator.get_output_embeddings() if self.config.embedding_sharing == "tied" else None

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the vocabulary of both networks; arguments as in [`PreTrainedModel`]."""
        table = self.generator.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if isinstance(embedding := self.get_input_embeddings(), DisentangledEmbedding):
            embedding.resize(table.num_embeddings)
        else:
            self.discriminator.resize_token_embeddings(table.num_embeddings, mean_resizing=mean_resizing)
        for part in (self.config.discriminator, self.discriminator.config):
            part.vocab_size = table.num_embeddings
        if vars(self.config)["generator"] is not None:
            self.config.generator.vocab_size = table.num_embeddings
        self.vocabulary_head = (HeadAlone(self.generator),)
        self.tie_weights()
        self.freeze_untrained()
        return self.get_input_embeddings()

    # Folders.

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, state_dict: dict | None = None, **kwargs
    ) -> None:
        """Write the discriminator's stock folder, the generator's in `generator/`, and the rest in `pretraining/`."""
        folder = Path(save_directory)
        weights = self.state_dict() if state_dict is None else state_dict
        parts: dict[str, dict[str, torch.Tensor]] = {"discriminator": {}, "generator": {}, "": {}}
        for name, weight in weights.items():
            part, _, rest = name.partition(".")
            parts[part if part in parts else ""][rest if part in parts else name] = weight
        embedding = self.get_input_embeddings()
        if isinstance(embedding, DisentangledEmbedding):  # a stock class wants the sum alone
            path = module_path(self.discriminator, embedding)
            parts["discriminator"].pop(f"{path}.shared.weight", None)
            parts[""]["embedding_residual"] = parts["discriminator"].pop(f"{path}.residual.weight")
        save_stock(self.discriminator, folder, parts["discriminator"], is_main_process, **kwargs)
        save_stock(self.generator, folder / GENERATOR_FOLDER, parts["generator"], is_main_process, **kwargs)
        if is_main_process:
            rest = folder / PRETRAINING_FOLDER
            rest.mkdir(parents=True, exist_ok=True)
            heads = {name: weight.detach().cpu().contiguous() for name, weight in parts[""].items()}
            save_file(heads, rest / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
            (rest / CONFIG_NAME).write_text(json.dumps(self.config.own_settings(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *, config: SpanEncoderConfig | None = None, **settings):
        """Load what `save_pretrained` wrote.

        Args:
            name: folder or Hub name.
            config: another composed configuration than the saved one.
            settings: fields of [`SpanEncoderConfig`] to change, or arguments of [`PreTrainedModel.from_pretrained`]
                for both networks (`dtype`, `attn_implementation`, `revision`, …).

        Raises:
            OSError: there is no such folder.
            ValueError: it lacks some of its weights.
        """
        fields = set(SpanEncoderConfig.__dataclass_fields__)
        changes = {key: settings.pop(key) for key in list(settings) if key in fields - {"dtype"}}
        hub = {key: settings[key] for key in HUB_SETTINGS if key in settings}
        discriminator = load_stock(AutoModel, name, settings, sub="")
        generator = load_stock(AutoModelForMaskedLM, name, settings, sub=GENERATOR_FOLDER)
        if config is None:
            saved, _ = SpanEncoderConfig.get_config_dict(name, **sub_folder(hub, PRETRAINING_FOLDER))
            networks = {"discriminator": discriminator.config, "generator": generator.config}
            config = SpanEncoderConfig(**saved | changes | networks)
        model = cls(config, discriminator, generator)
        weights = load_file(cached_file(name, SAFE_WEIGHTS_NAME, **sub_folder(hub, PRETRAINING_FOLDER)))
        model.load_heads(weights)
        model.name_or_path = model.config.name_or_path = str(name)
        return model.eval()

    @torch.no_grad()
    def load_heads(self, weights: dict[str, torch.Tensor]) -> None:
        """Load what `pretraining/` holds: the objectives' heads, and the embedding's residual."""
        residual = weights.pop("embedding_residual", None)
        embedding = self.get_input_embeddings()
        if residual is not None and isinstance(embedding, DisentangledEmbedding):
            embedding.residual.weight.copy_(residual)
        own = {name: weight for name, weight in self.state_dict().items() if name.partition(".")[0] not in SUB_MODELS}
        if missing := sorted(own.keys() - weights.keys()):
            raise ValueError(f"The checkpoint lacks {len(missing)} weights of the heads ({', '.join(missing[:3])}).")
        self.load_state_dict({name: weights[name] for name in own}, strict=False)

    def load_checkpoint(self, folder: str | os.PathLike) -> None:
        """Load all weights from a folder of this very model, in place: to resume a run.

        Raises:
            RuntimeError: the folder's weights are of another shape.
        """
        folder = Path(folder)
        discriminator = load_file(folder / SAFE_WEIGHTS_NAME)
        heads = load_file(folder / PRETRAINING_FOLDER / SAFE_WEIGHTS_NAME)
        generator = load_file(folder / GENERATOR_FOLDER / SAFE_WEIGHTS_NAME)
        self.generator.load_state_dict(generator, strict=False)  # what is tied within it is saved once
        self.discriminator.load_state_dict(discriminator, strict=False)
        self.tie_weights()
        self.load_heads(heads)


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


class GivenHiddenStates(nn.Module):
    """Stands in for an encoder: returns the hidden states that it is given as `inputs_embeds`."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.__dict__["embeddings"] = getattr(encoder, "embeddings", None)  # DeBERTa's head looks at these

    def forward(self, *args, inputs_embeds: torch.Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


class HeadAlone:
    """A masked language model without its encoder: whatever it does with hidden states, applied to given ones.

    Every family has its own head under its own names. Its own `forward` runs them all, on a copy of the model that
    shares every part but the encoder.
    """

    def __init__(self, model: PreTrainedModel):
        self.head = copy.copy(model)
        self.head._modules = model._modules | {model.base_model_prefix: GivenHiddenStates(model.base_model)}
        self.decoder = model.get_output_embeddings()
        # Some families (ESM) add the bias outside of the decoder.
        outside = getattr(getattr(model, "lm_head", None), "bias", None)
        self.bias = outside if self.decoder.bias is None and isinstance(outside, nn.Parameter) else None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the vocabulary (N, V) from last hidden states (N, H)."""
        return self.head(inputs_embeds=hidden.unsqueeze(0), return_dict=True).logits.squeeze(0)

    def decode(self, represented: torch.Tensor) -> torch.Tensor:
        """Scores of the vocabulary (N, V) from what the family's output layer takes, (N, E)."""
        scores = self.decoder(represented)
        return scores if self.bias is None else scores + self.bias


def new_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The family's encoder with random weights, without a pooler, which nothing here would train."""
    return AutoModel.from_config(config, **without_pooler(config))


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The argument by which a family leaves its pooler out, if it has one."""
    names = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in names else {}


def load_stock(auto_class: Any, name: str | os.PathLike, settings: dict, sub: str) -> PreTrainedModel:
    """A stock model from a folder, or from a folder `sub` in it."""
    if sub:
        settings = settings | sub_folder(settings, sub)
    if auto_class is AutoModel:
        config = AutoConfig.from_pretrained(name, **{key: settings[key] for key in HUB_SETTINGS if key in settings})
        settings = settings | without_pooler(config)
    return auto_class.from_pretrained(name, **settings)


def sub_folder(settings: dict, name: str) -> dict:
    """The same settings for a folder within the one that they are for."""
    return settings | {"subfolder": "/".join(part for part in (settings.get("subfolder", ""), name) if part)}


def save_stock(model: PreTrainedModel, folder: Path, weights: dict, is_main_process: bool, **kwargs) -> None:
    tied = model.all_tied_weights_keys
    weights = {name: weight for name, weight in weights.items() if name not in tied}
    model.save_pretrained(folder, is_main_process, weights, **kwargs)


def embeddings_of(encoder: nn.Module) -> nn.Module:
    """The module that holds an encoder's word embeddings, and mostly its positions and their norm."""
    path = module_path(encoder, encoder.get_input_embeddings())
    return encoder.get_submodule(path.rpartition(".")[0])


def module_path(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def has_shape(module: nn.Module, name: str, shape: torch.Size) -> bool:
    parameters = dict(module.named_parameters())
    return name in parameters and parameters[name].shape == shape


def packed_masks(config: PreTrainedConfig, sequences: torch.Tensor, dtype: torch.dtype) -> Any:
    """The attention masks (a dictionary of them, if layers differ) by which tokens see only their own sequence."""
    if is_flash_attention_requested(config):
        raise ValueError(
            f"`attn_implementation` is {config._attn_implementation!r}, which cannot separate sequences that share a "
            "row, as `position_ids` may say: use 'sdpa', 'eager' or 'flex_attention', or leave them out."
        )
    shape = torch.empty(*sequences.shape, 0, dtype=dtype, device=sequences.device)
    function = packed_sequence_mask_function(sequences)
    full = create_bidirectional_mask(config, shape, None, and_mask_function=function)
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return full
    local = create_bidirectional_sliding_window_mask(config, shape, None, and_mask_function=function)
    return {"full_attention": full, "sliding_attention": local}


def activation_of(config: PreTrainedConfig) -> str:
    names = ("hidden_act", "hidden_activation", "activation")
    return next((value for name in names if (value := getattr(config, name, None)) in ACT2FN), "gelu")


def layer_norm_eps_of(config: PreTrainedConfig) -> float:
    names = ("layer_norm_eps", "norm_eps", "rms_norm_eps")
    return next((value for name in names if (value := getattr(config, name, None)) is not None), 1e-12)


__all__ = ["SpanEncoderForPreTraining"]
