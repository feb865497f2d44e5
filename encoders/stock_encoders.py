"""What the span objectives ask of Transformers' own classes: their parts, their heads, their masks, their folders."""

import copy
import inspect
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import is_flash_attention_requested


class GivenHiddenStates(nn.Module):
    """Stands in for an encoder: returns the hidden states that it is given as `inputs_embeds`."""

    def forward(self, *args, inputs_embeds: torch.Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def without_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """A masked language model that scores given hidden states, by sharing every part of `model` but the encoder.

    Each family has a head of its own under names of its own; the model's `forward` runs them all.
    """
    head = copy.copy(model)
    head._modules = model._modules | {model.base_model_prefix: GivenHiddenStates()}
    return head


def new_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The family's encoder with random weights, without a pooler, which nothing here would train."""
    return AutoModel.from_config(config, **without_pooler(config))


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The argument by which a family leaves its pooler out, if it has one."""
    model_class = MODEL_MAPPING.get(type(config), nn.Module)
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}


def load_whole(model_class: Any, name: str | os.PathLike, **kwargs) -> tuple[Any, set[str]]:
    """Load a model of `model_class`. Return it and the names of the saved weights that it has no place for.

    `kwargs` are those of [`PreTrainedModel.from_pretrained`].

    Raises:
        ValueError: weights are missing or of another shape, so they would be random. (A pooler's may be: it is not
            used.)
    """
    model, loaded = model_class.from_pretrained(name, output_loading_info=True, **kwargs)
    refuse_missing(name, [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])])
    return model, {*loaded["unexpected_keys"]}


def refuse_missing(name: str | os.PathLike, keys: Iterable[str]) -> None:
    """Raise a ValueError if `keys`, which a checkpoint lacks, name anything but a pooler."""
    if missing := sorted(key for key in keys if "pooler." not in key):
        raise ValueError(
            f"{name} lacks {len(missing)} of its weights, or has them in another shape ({', '.join(missing[:3])}). "
            "Give a complete checkpoint."
        )


def within(settings: dict, folder: str) -> dict:
    """The same settings for a folder in the one that they are for."""
    return settings | {"subfolder": "/".join(part for part in (settings.get("subfolder", ""), folder) if part)}


def embeddings_of(encoder: nn.Module) -> nn.Module:
    """The module that holds an encoder's word embeddings, and often its positions and their norm."""
    path = module_path(encoder, encoder.get_input_embeddings())
    return encoder.get_submodule(path.rpartition(".")[0] or path)  # EuroBERT's stand alone


def module_path(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


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
