"""Starting a pair from stock encoders of any family."""

import logging

import pytest
import torch
from span_encoder_examples import SHARING, batch_for, family_config
from transformers import AutoModel, AutoModelForMaskedLM

from span_electra.conversion.warm_start import from_stock_encoder

HEAD = {
    "modernbert": "generator.head",
    "bert": "generator.cls.predictions",
    "deberta-v2": "generator.cls.predictions",
}


def saved(folder, kind, auto=AutoModelForMaskedLM, **settings):
    """A stock model with random weights of its own, and the folder it is saved in."""
    torch.manual_seed(3)
    model = auto.from_config(family_config(kind, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["modernbert", "bert", "deberta-v2"])
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("has_head", [True, False])
def test_both_networks_begin_with_the_checkpoint(tmp_path, caplog, kind, sharing, has_head):
    source = saved(tmp_path, kind, AutoModelForMaskedLM if has_head else AutoModel)
    encoder = source.base_model
    ids = batch_for(source.config)["input_ids"]
    with caplog.at_level(logging.WARNING):
        model = from_stock_encoder(tmp_path, generator_layers=2, embedding_sharing=sharing).eval()
    torch.testing.assert_close(
        model.discriminator(ids).last_hidden_state, encoder(ids).last_hidden_state, rtol=1e-5, atol=1e-5
    )
    assert model.generator.config.num_hidden_layers == 2
    generator = dict(model.generator.named_parameters(remove_duplicate=False))
    theirs = dict(source.named_parameters(remove_duplicate=False))
    prefix = "" if has_head else f"{model.generator.base_model_prefix}."
    same = {
        prefix + name for name in theirs if torch.equal(theirs[name], generator.get(prefix + name, torch.tensor(0)))
    }
    of_head = {name for name in generator if not name.startswith(f"{model.generator.base_model_prefix}.")}
    assert (of_head <= same) == has_head
    assert {name for name in generator if name not in of_head} <= same
    assert (HEAD[kind] in caplog.text.split("New, to be trained")[1]) != has_head
    assert (HEAD[kind].removeprefix("generator.") in caplog.text.split("New, to be trained")[0]) == has_head


@pytest.mark.parametrize("sharing", SHARING)
def test_the_model_names_its_new_parameters(tmp_path, sharing):
    source = saved(tmp_path, "bert", AutoModel)
    model = from_stock_encoder(tmp_path, embedding_sharing=sharing)
    heads = ("discriminator_predictions.", "sbgo_head.", "sbpo_head.", "sbpo_prediction.")
    assert model.new_parameters <= dict(model.named_parameters()).keys()
    assert {name for name in model.new_parameters if not name.startswith(heads)} == {
        f"generator.cls.predictions.{name}"
        for name in (
            "bias",
            "transform.dense.weight",
            "transform.dense.bias",
            "transform.LayerNorm.weight",
            "transform.LayerNorm.bias",
        )
    }
    new = from_stock_encoder(tmp_path, generator={"num_hidden_layers": 1}, embedding_sharing=sharing).new_parameters
    assert any(".embeddings." in name for name in new) == (sharing != "tied")
    assert not any(name.startswith("discriminator.") and not name.endswith("shared.weight") for name in new)
    assert source.config.num_hidden_layers == 3


def test_a_generator_of_any_size_has_embeddings_of_its_own(tmp_path):
    saved(tmp_path / "encoder", "modernbert")
    small = saved(tmp_path / "generator", "modernbert", hidden_size=16, num_hidden_layers=1)
    ids = batch_for(small.config)["input_ids"]
    model = from_stock_encoder(tmp_path / "encoder", tmp_path / "generator").eval()
    assert model.config.embedding_sharing == "separate"
    assert torch.equal(model.generator(ids).logits, small(ids).logits)
    model(**batch_for(small.config)).loss.backward()
    changed = from_stock_encoder(tmp_path / "encoder", {"hidden_size": 16})
    assert (changed.generator.config.hidden_size, changed.generator.config.num_hidden_layers) == (16, 1)


def test_a_larger_vocabulary_keeps_the_tokens_that_were_there(tmp_path):
    source = saved(tmp_path, "bert")
    ids = batch_for(source.config)["input_ids"]
    for sharing in SHARING:
        model = from_stock_encoder(tmp_path, embedding_sharing=sharing, vocab_size=107).eval()
        assert model.config.vocab_size == model.generator.config.vocab_size == 107
        expected = source.base_model(ids).last_hidden_state
        torch.testing.assert_close(model.discriminator(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
        assert model.new_parameters <= dict(model.named_parameters()).keys()


def test_a_trained_generator_starts_better_than_a_new_one(tmp_path):
    torch.manual_seed(0)
    source = AutoModelForMaskedLM.from_config(family_config("bert"))
    optimizer = torch.optim.AdamW(source.parameters(), lr=3e-3)
    inputs = batch_for(source.config)
    for _ in range(60):
        source(inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["labels"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    source.save_pretrained(tmp_path / "trained")
    source.base_model.save_pretrained(tmp_path / "encoder")
    losses = {}
    for name, arguments in (("named", ("encoder", "trained")), ("own", ("trained", None)), ("new", ("encoder", None))):
        paths = [path if path is None else tmp_path / path for path in arguments]
        losses[name] = from_stock_encoder(*paths).eval()(**inputs).mlm_loss.item()
    assert losses["named"] < 1 and losses["own"] < losses["new"] - 0.5, losses


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        ("bert", {}, ["'modernbert'", "'bert'", "same family"]),
        ("modernbert", {"vocab_size": 98}, ["`vocab_size`", "99", "98"]),
    ],
)
def test_a_generator_that_does_not_match_is_refused(tmp_path, kind, settings, words):
    saved(tmp_path / "encoder", "modernbert")
    saved(tmp_path / "generator", kind, **settings)
    with pytest.raises(ValueError) as error:
        from_stock_encoder(tmp_path / "encoder", tmp_path / "generator")
    assert all(word in str(error.value) for word in words)


def test_a_checkpoint_that_lacks_a_layer_is_refused(tmp_path):
    model = saved(tmp_path, "bert")
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if "layer.0." not in k})
    with pytest.raises(ValueError, match=r"lacks 16 of its weights"):
        from_stock_encoder(tmp_path)


def test_an_encoder_without_a_head_is_no_generator(tmp_path):
    saved(tmp_path / "encoder", "bert", AutoModel)
    with pytest.raises(ValueError, match=r"lacks \d+ of its weights.*cls\.predictions"):
        from_stock_encoder(tmp_path / "encoder", tmp_path / "encoder")
