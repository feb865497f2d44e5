"""The rows of new pieces in a model: means of old rows, wherever a token has a row."""

import pytest
import torch
from span_encoder_examples import SHARING, batch_for, random_pair
from trainer_examples import tiny_model
from transformers import AutoModel, AutoModelForMaskedLM

from span_electra.conversion.extend_vocabulary import extend_vocabulary

ROWS = {99: [5, 6, 7], 100: [8], 101: [9, 9, 10]}


def scattered(model):
    """The model with no two weights equal, not even a bias."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("kind", ["the ELECTRA pair", "bert", "modernbert", "deberta-v2", "distilbert", "electra"])
def test_new_rows_are_means_in_both_networks_and_the_output_layer(kind, sharing, tmp_path):
    is_electra = kind == "the ELECTRA pair"
    model = scattered(
        tiny_model(embedding_sharing=sharing) if is_electra else random_pair(kind, embedding_sharing=sharing)
    )
    inputs = {
        name: value for name, value in batch_for(model.config).items() if name in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        before, scores = model(**inputs).logits, model.generator(**inputs).logits
        extend_vocabulary(model, ROWS)
        after, more = model(**inputs).logits, model.generator(**inputs).logits
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(more[..., :99], scores)
    for new, old in ROWS.items():  # a mean of rows and of biases gives the mean score
        torch.testing.assert_close(more[..., new], scores[..., old].mean(-1), rtol=1e-4, atol=1e-5)
        for network in (model, model.generator):
            table = network.get_input_embeddings().weight
            torch.testing.assert_close(table[new], table[old].mean(0))
    assert model.config.vocab_size == 102
    assert torch.isfinite(model.train()(**batch_for(model.config)).loss)
    model.save_pretrained(tmp_path)
    stock = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(stock.get_input_embeddings().weight, model.get_input_embeddings().weight)
    if not is_electra:
        loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "generator").eval()
        torch.testing.assert_close(loaded(**inputs).logits, more)


def test_rows_that_a_table_has_to_spare_are_used():
    model = scattered(random_pair("bert"))
    extend_vocabulary(model, {97: [5, 6], 98: [7]})
    assert model.config.vocab_size == 99
    table = model.get_input_embeddings().weight
    torch.testing.assert_close(table[97], table[[5, 6]].mean(0))
