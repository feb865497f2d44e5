"""A pair of stock encoders as `run_pretraining.py` builds it: from a family's configuration, or from weights."""

import json

import pytest
import torch
from trainer_examples import word_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
)

from span_electra import SpanEncoderForPreTraining
from span_electra.common.errors import InputError
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.pretraining.model import build_model
from span_electra.pretraining.rows import resolve_rows
from span_electra.pretraining.tokenizer import build_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
IDS = {"pad_token_id": 2, "cls_token_id": 0, "sep_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tokenizer, a family's configuration, and stock checkpoints."""
    home = tmp_path_factory.mktemp("home")
    word_tokenizer().save_pretrained(home / "tokenizer")
    (home / "modernbert.json").write_text(json.dumps({"model_type": "modernbert", **SIZES, "rtd_weight": 7}))
    (home / "unknown.json").write_text(json.dumps({"model_type": "modernbret", **SIZES}))
    torch.manual_seed(0)
    models = {
        "modernbert": ModernBertForMaskedLM(ModernBertConfig(**SIZES, **IDS, vocab_size=99)),
        "bert": BertForMaskedLM(BertConfig(**SIZES, vocab_size=99, pad_token_id=2)),
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99)),
    }
    for name, model in models.items():
        model.save_pretrained(home / name)
        word_tokenizer().save_pretrained(home / name)
    return home


def built(home, **options):
    for name in ("config", "model_name_or_path", "tokenizer", "generator_name_or_path"):
        if options.get(name) is not None:
            options[name] = str(home / options[name])
    arguments, data = ModelArguments(**options), DataArguments(train_file=["a.txt"])
    model = build_model(arguments, data, build_tokenizer(arguments))
    resolve_rows(data, model.config)
    return model


def test_a_familys_configuration_makes_a_pair_with_the_tokenizers_ids(home):
    model = built(home, config="modernbert.json", tokenizer="tokenizer")
    assert isinstance(model, SpanEncoderForPreTraining) and isinstance(model.discriminator, ModernBertModel)
    assert isinstance(model.generator, ModernBertForMaskedLM)
    config = model.config
    assert (config.rtd_weight, config.vocab_size, config.generator.num_hidden_layers) == (7, 99, 1)
    ids = [getattr(config.discriminator, f"{role}_token_id") for role in ("pad", "cls", "sep", "bos", "eos")]
    assert ids == [2, 0, 1, 0, 1]


def test_overrides_reach_the_family_the_objectives_and_the_generator(home):
    overrides = {"num_hidden_layers": 4, "sbgo_weight": 2, "generator": {"num_hidden_layers": 2}}
    model = built(home, config="modernbert.json", tokenizer="tokenizer", config_overrides=json.dumps(overrides))
    config = model.config
    assert (config.num_hidden_layers, config.sbgo_weight, config.generator.num_hidden_layers) == (4, 2, 2)


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_an_encoder_becomes_the_discriminator_and_its_first_layers_the_generator(home, family):
    model = built(home, model_name_or_path=family)
    source = (ModernBertForMaskedLM if family == "modernbert" else BertForMaskedLM).from_pretrained(home / family)
    ids = torch.randint(5, 99, (2, 12))
    expected = source.base_model.eval()(ids).last_hidden_state
    assert torch.allclose(model.eval().discriminator(ids).last_hidden_state, expected, atol=1e-6)
    assert model.config.generator.num_hidden_layers == 1
    head = {name: weight for name, weight in source.state_dict().items() if name.startswith(("head.", "cls."))}
    assert head and all(torch.equal(model.generator.state_dict()[name], weight) for name, weight in head.items())


def test_a_saved_pair_continues_as_it_was(home, tmp_path):
    model = built(home, config="modernbert.json", tokenizer="tokenizer")
    model.save_pretrained(tmp_path / "pair")
    again = built(
        tmp_path, model_name_or_path="pair", tokenizer=home / "tokenizer", config_overrides='{"rtd_weight": 9}'
    )
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert again.config.rtd_weight == 9 and again.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "unknown.json"}, "`model_type` is 'modernbret'"),
        ({"config": "modernbert.json", "generator_name_or_path": "bert"}, "--generator .*second stage"),
        ({"model_name_or_path": "gpt2"}, "gpt2.*ModernBERT"),
        ({"model_name_or_path": "bert", "config_overrides": '{"hidden_size": 8}'}, "`hidden_size` would contradict"),
        ({"model_name_or_path": "bert", "objective": "generator"}, "--objective generator.*leave it out"),
        ({"model_name_or_path": "bert", "generator_name_or_path": "modernbert"}, "same family"),
    ],
)
def test_what_cannot_be_a_pair_is_refused(home, options, message):
    with pytest.raises(InputError, match=message):
        built(home, **{"tokenizer": "tokenizer"} | options)
