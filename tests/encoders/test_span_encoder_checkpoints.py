"""Where a span encoder's folder loads: as the pair, with stock classes, and without this package at all."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from span_encoder_examples import FAMILIES, SHARING, batch_for, random_pair
from transformers import AutoModel, AutoModelForMaskedLM

from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining

EVERY_FAMILY = pytest.mark.parametrize("kind", FAMILIES)
EVERY_SHARING = pytest.mark.parametrize("sharing", SHARING)
# BERT's kind builds a pooler that no hidden state depends on.
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}


def results(model, inputs):
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return model(**inputs).logits, model.generator(**inputs).logits


@EVERY_FAMILY
@EVERY_SHARING
def test_a_folder_is_a_stock_folder_and_goes_on_as_it_was(tmp_path, kind, sharing):
    model = random_pair(kind, embedding_sharing=sharing, rtd_weight=7.0, use_sbpo=kind != "bert")
    model.save_pretrained(tmp_path)
    inputs = {name: batch_for(model.config)[name] for name in ("input_ids", "attention_mask")}
    encoder, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is type(model.discriminator)
    assert set(report["missing_keys"]) <= POOLER and not report["unexpected_keys"]
    hidden = model.discriminator(**inputs).last_hidden_state
    torch.testing.assert_close(encoder.eval()(**inputs).last_hidden_state, hidden, rtol=0, atol=1e-6)
    generator, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "generator", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(generator.eval()(**inputs).logits, model.generator(**inputs).logits, rtol=0, atol=1e-6)

    loaded = SpanEncoderForPreTraining.from_pretrained(tmp_path)
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    assert loaded.config.own_settings() == model.config.own_settings()
    requires = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert {name: weight.requires_grad for name, weight in loaded.named_parameters()} == requires
    other = random_pair(kind, embedding_sharing=sharing, rtd_weight=7.0, use_sbpo=kind != "bert")
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1)
    other.load_checkpoint(tmp_path)
    for name, weight in other.state_dict().items():
        assert torch.equal(weights[name], weight), name


@EVERY_SHARING
@pytest.mark.parametrize("other", SHARING)
def test_another_sharing_begins_where_the_checkpoint_ended(tmp_path, sharing, other):
    model = random_pair("modernbert", embedding_sharing=sharing)
    model.save_pretrained(tmp_path)
    changed = SpanEncoderForPreTraining.from_pretrained(tmp_path, embedding_sharing=other)
    assert changed.config.embedding_sharing == other
    inputs = batch_for(model.config)
    (logits, guesses), (expected, expected_guesses) = results(changed, inputs), results(model, inputs)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    if other != "tied":  # else the discriminator's embeddings take their place
        torch.testing.assert_close(guesses, expected_guesses, rtol=1e-5, atol=1e-5)


def test_arguments_of_loading_reach_both_networks_and_the_heads(tmp_path):
    random_pair("modernbert").save_pretrained(tmp_path)
    model = SpanEncoderForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    for network in (model.discriminator, model.generator):
        assert network.config._attn_implementation == "eager"
    assert torch.isfinite(model(**batch_for(model.config)).loss)
    model.save_pretrained(tmp_path)
    assert SpanEncoderForPreTraining.from_pretrained(tmp_path).dtype == torch.bfloat16
    for network in vars(SpanEncoderForPreTraining.from_pretrained(tmp_path))["_modules"].values():
        assert getattr(getattr(network, "config", None), "_attn_implementation", "sdpa") == "sdpa"


def test_pretraining_holds_the_settings_that_are_in_neither_network(tmp_path):
    random_pair("bert", rtd_weight=9.0).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "generator",
        "pretraining",
    }
    settings = json.loads((tmp_path / "pretraining" / "config.json").read_text())
    assert settings["rtd_weight"] == 9.0 and not {"discriminator", "generator", "hidden_size"} & settings.keys()
    for part in (tmp_path, tmp_path / "generator"):
        assert json.loads((part / "config.json").read_text())["model_type"] == "bert"
    assert all("residual" not in name and "shared" not in name for name in load_file(tmp_path / "model.safetensors"))


def test_an_encoder_that_was_not_trained_is_named(tmp_path, caplog):
    random_pair("bert", objective="generator").save_pretrained(tmp_path)
    assert "the encoder in this folder is not trained. Use the one in generator/" in caplog.text


@pytest.mark.parametrize("part, name", [("", "layer.1."), ("generator", "layer.0."), ("pretraining", "sbgo_head")])
def test_a_folder_that_lacks_weights_is_refused(tmp_path, part, name):
    model = random_pair("bert")
    model.save_pretrained(tmp_path)
    file = tmp_path / part / "model.safetensors"
    kept = {key: weight for key, weight in load_file(file).items() if name not in key}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks \d+ of its weights.*{name}"):
        SpanEncoderForPreTraining.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"lacks \d+ of its weights.*{name}"):
        model.load_checkpoint(tmp_path)


def test_a_misspelt_setting_is_refused_before_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="Did you mean `rtd_weight`"):
        SpanEncoderForPreTraining.from_pretrained(tmp_path, rtd_wieght=1)


@pytest.mark.slow
def test_every_family_loads_where_the_package_cannot_be_imported(tmp_path):
    expected = {}
    for kind in FAMILIES:
        for sharing in SHARING:
            model = random_pair(kind, embedding_sharing=sharing)
            inputs = {name: batch_for(model.config)[name] for name in ("input_ids", "attention_mask")}
            hidden = model.discriminator(**inputs).last_hidden_state.detach()
            model.save_pretrained(tmp_path / f"{kind} {sharing}")
            expected[f"{kind} {sharing}"] = inputs | {
                "hidden": hidden,
                "guesses": model.generator(**inputs).logits.detach(),
            }
    torch.save(expected, tmp_path / "expected.pt")
    program = """
        import sys
        class NoSuchPackage:
            def find_spec(self, name, *rest):
                if name.split(".")[0] == "span_electra":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, NoSuchPackage())
        import torch, transformers
        seen = 0
        for folder, values in torch.load("expected.pt", weights_only=True).items():
            inputs = {name: values[name] for name in ("input_ids", "attention_mask")}
            encoder = transformers.AutoModel.from_pretrained(folder).eval()
            torch.testing.assert_close(encoder(**inputs).last_hidden_state, values["hidden"], rtol=0, atol=1e-6)
            generator = transformers.AutoModelForMaskedLM.from_pretrained(folder + "/generator").eval()
            torch.testing.assert_close(generator(**inputs).logits, values["guesses"], rtol=0, atol=1e-6)
            for task in ("SequenceClassification", "TokenClassification", "QuestionAnswering"):
                auto = getattr(transformers, f"AutoModelFor{task}")
                if type(encoder.config) not in auto._model_mapping:
                    print("no", task, encoder.config.model_type)
                    continue
                model, report = auto.from_pretrained(folder, output_loading_info=True)
                prefix = model.base_model_prefix + "."
                missing = [key for key in report["missing_keys"] if key.startswith(prefix) and "pooler." not in key]
                assert not missing and not report["unexpected_keys"], (folder, task, report)
                hidden = model.eval().base_model(**inputs)[0]
                torch.testing.assert_close(hidden, values["hidden"], rtol=0, atol=1e-6)
                seen += 1
        assert "span_electra" not in sys.modules
        print("loaded", seen)
    """
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lacking = [f"no QuestionAnswering {kind}" for kind in ("eurobert", "esm") for _ in SHARING]
    assert result.stdout.splitlines() == [*lacking, f"loaded {3 * (3 * len(FAMILIES) - 2)}"]
