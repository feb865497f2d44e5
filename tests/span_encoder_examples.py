"""A tiny pair of every tested family, and a batch for it."""

import torch
from transformers import CONFIG_MAPPING

from span_electra.encoders.configuration_span_encoder import SpanEncoderConfig
from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining

SHARING = ("tied", "disentangled", "separate")
CLS, SEP, MASK = 0, 4, 3
SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 2}
# DeBERTaV3's way of counting positions.
RELATIVE = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
RELATIVE |= {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0}
SPECIAL = {"cls_token_id": CLS, "sep_token_id": SEP, "bos_token_id": CLS, "eos_token_id": SEP}
FAMILIES: dict[str, dict] = {
    "modernbert": SIZES | SPECIAL | {"local_attention": 8},
    "deberta-v2": SIZES | RELATIVE,
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "eurobert": SIZES | {"bos_token_id": CLS, "eos_token_id": SEP, "mask_token_id": MASK},
    "distilbert": {"vocab_size": 99, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "pad_token_id": 2}
    | {"max_position_embeddings": 64},
    "mpnet": SIZES | {"pad_token_id": 1},
    "esm": SIZES | {"mask_token_id": MASK, "position_embedding_type": "rotary", "token_dropout": True},
    "electra": SIZES | {"embedding_size": 16},
}


def family_config(kind: str, **settings):
    """A tiny configuration of the family."""
    return CONFIG_MAPPING[kind](**FAMILIES[kind] | settings)


def random_pair(kind: str, family_settings: dict | None = None, **settings) -> SpanEncoderForPreTraining:
    """A tiny pair in which no weight is zero, and no two are equal by their initialisation."""
    torch.manual_seed(0)
    discriminator = family_config(kind, **family_settings or {})
    config = SpanEncoderConfig(discriminator=discriminator, boundary_position_size=12, **settings)
    model = SpanEncoderForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_for(config, spans=((0, 3, 6), (0, 9, 10), (1, 2, 4), (2, 12, 14)), tokens: int = 20):
    """Three rows, the second padded, with spans (row, start, end)."""
    original = torch.randint(5, 99, (3, tokens), generator=torch.Generator().manual_seed(5))
    original[:, 0], original[:, -1] = CLS, SEP
    attention_mask = torch.ones_like(original)
    attention_mask[1, 12:] = 0
    original[1, 12:], original[1, 11] = config.pad_token_id, SEP
    labels = torch.full_like(original, -100)
    for row, start, end in spans:
        labels[row, start:end] = original[row, start:end]
    return {
        "input_ids": torch.where(labels == -100, original, MASK),
        "attention_mask": attention_mask,
        "labels": labels,
        "sampling_keys": torch.arange(3, dtype=torch.int32),
    }
