"""Give the new pieces of an extended tokenizer their rows in a model."""

from collections.abc import Mapping

import torch

from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining
from span_electra.modeling_span_electra import SpanElectraForPreTraining


@torch.no_grad()
def extend_vocabulary(
    model: SpanElectraForPreTraining | SpanEncoderForPreTraining, rows: Mapping[int, list[int]]
) -> None:
    """Start each new row as the mean of its old ones: in the embeddings of both networks, in the generator's output
    layer, and in its bias.

    Args:
        rows: The ids of new pieces, each with the ids that it is made of (see `new_rows`).
    """
    if (needed := max(rows) + 1) > model.config.vocab_size:
        model.resize_token_embeddings(needed, mean_resizing=False)
    generator = model.generator
    tables = (model.get_input_embeddings(), generator.get_input_embeddings(), generator.get_output_embeddings())  # type: ignore[operator]
    for parameter in {parameter for table in tables for parameter in table.parameters()}:
        for new, old in rows.items():
            parameter[new] = parameter[old].mean(dim=0)
