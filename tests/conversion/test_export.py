"""Stock folders out of checkpoints, and folders that hold a generator alone."""

import json

import pytest
import torch
from test_modeling import random_model, tiny_config
from tokenizer_examples import unigram_tokenizer
from trainer_examples import word_tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, CamembertTokenizer

from span_electra import (
    SpanElectraForMaskedLM,
    SpanElectraForPreTraining,
    SpanElectraForSequenceClassification,
    SpanElectraModel,
)
from span_electra.conversion.export import export, write_for_version_4
from span_electra.modeling_span_electra import AUTO_CLASSES
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.pretraining.model import build_model
from span_electra.pretraining.tokenizer import build_tokenizer

IDS = torch.tensor([[0, 7, 8, 9, 10, 3, 12, 1]])
ENCODER = {"AutoModel", "AutoModelForTextEncoding"}
TASKS = {
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
}
GENERATOR = {"AutoModelForMaskedLM"}


@pytest.fixture
def generator(tmp_path) -> SpanElectraForMaskedLM:
    """A generator and its tokenizer in `tmp_path / "mlm"`, as Transformers' run_mlm.py leaves them."""
    random_model().save_pretrained(tmp_path / "pretrained")
    model = SpanElectraForMaskedLM.from_pretrained(tmp_path / "pretrained").eval()
    model.save_pretrained(tmp_path / "mlm")
    word_tokenizer().save_pretrained(tmp_path / "mlm")
    return model


def test_a_generator_that_was_saved_alone_is_exported_and_what_is_missing_is_said(tmp_path, generator, caplog):
    assert export(tmp_path / "mlm", tmp_path / "stock") == [tmp_path / "stock" / "generator"]
    assert [path.name for path in (tmp_path / "stock").iterdir()] == ["generator"]
    assert "there is no discriminator to export" in caplog.text and f"--generator {tmp_path / 'mlm'}" in caplog.text
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path / "stock" / "generator").eval()
    assert type(stock).__name__ == "ElectraForMaskedLM"
    assert torch.equal(stock(IDS).logits, generator(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "stock" / "generator").mask_token == "[MASK]"
    export(tmp_path / "mlm", tmp_path / "stock", overwrite=True)


def test_the_first_of_two_stages_exports_its_generator(tmp_path, caplog):
    first = random_model(objective="generator")
    first.save_pretrained(tmp_path / "first")
    word_tokenizer().save_pretrained(tmp_path / "first")
    assert export(tmp_path / "first", tmp_path / "stock") == [tmp_path / "stock" / "generator"]
    assert "there is no discriminator to export" in caplog.text
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path / "stock" / "generator").eval()
    assert torch.equal(stock(IDS).logits, first.generator(IDS).logits)


def test_a_discriminator_is_trained_against_a_generator_that_was_saved_alone(tmp_path, generator):
    overrides = json.dumps({"embedding_size": tiny_config().embedding_size, "max_position_embeddings": 64})
    arguments = ModelArguments(
        "tiny",
        generator_name_or_path=str(tmp_path / "mlm"),
        objective="discriminator",
        tokenizer=str(tmp_path / "mlm"),
        config_overrides=overrides,
    )
    model = build_model(arguments, DataArguments(train_file=["x"]), build_tokenizer(arguments)).eval()
    assert model.config.objective == "discriminator"
    assert torch.equal(model.generator(IDS).logits, generator(IDS).logits)


@pytest.mark.parametrize(
    ("make", "served"),
    [
        (lambda: SpanElectraForMaskedLM(tiny_config()), GENERATOR),
        (
            lambda: SpanElectraForPreTraining(tiny_config(objective="generator")),
            GENERATOR | {"AutoModelForPreTraining"},
        ),
        (lambda: SpanElectraModel(tiny_config()), ENCODER | TASKS),
        (lambda: SpanElectraForSequenceClassification(tiny_config()), ENCODER | TASKS),
    ],
    ids=["generator", "first stage", "encoder", "classifier"],
)
def test_a_folder_offers_only_the_auto_classes_that_its_weights_can_serve(tmp_path, make, served):
    make().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"].keys() == {"AutoConfig", *served}


def test_a_whole_checkpoint_offers_every_auto_class(tmp_path):
    one_encoder = {"generator_hidden_size": 32, "generator_intermediate_size": 37, "generator_num_attention_heads": 2}
    first = tiny_config(objective="generator", **one_encoder)
    assert first.share_encoder  # so that the first stage trains the encoder of both
    for config in (tiny_config(), first):
        SpanElectraForPreTraining(config).save_pretrained(tmp_path)
        offered = json.loads((tmp_path / "config.json").read_text())["auto_map"].keys()
        assert offered == {"AutoConfig", *(auto.__name__ for auto in AUTO_CLASSES)}


# Tokenizers for Transformers 4


def camembert_tokenizer() -> CamembertTokenizer:
    pieces = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "▁the", "▁old", *"▁abcdefghijk"]
    return CamembertTokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)])


@pytest.mark.parametrize("make", [word_tokenizer, lambda: unigram_tokenizer("the old house"), camembert_tokenizer])
def test_special_tokens_of_ones_own_are_written_as_transformers_4_and_5_read_them(tmp_path, make):
    tokenizer = make()
    own = [*tokenizer.extra_special_tokens, "[URL]"]
    tokenizer.add_special_tokens({"additional_special_tokens": own})
    tokenizer.save_pretrained(tmp_path)
    write_for_version_4(tmp_path / "tokenizer_config.json")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["additional_special_tokens"] == own and "extra_special_tokens" not in settings
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("a [URL] b")["input_ids"] == tokenizer("a [URL] b")["input_ids"]
    assert "[URL]" in loaded.tokenize("a [URL] b") and "[URL]" in loaded.all_special_tokens
    assert loaded.extra_special_tokens == own


def test_special_tokens_with_names_keep_them(tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, extra_special_tokens={"url_token": "[URL]"}).save_pretrained(tmp_path)
    write_for_version_4(tmp_path / "tokenizer_config.json")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["extra_special_tokens"] == {"url_token": "[URL]"}
    assert AutoTokenizer.from_pretrained(tmp_path).url_token == "[URL]"
