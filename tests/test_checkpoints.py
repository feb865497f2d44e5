"""Where a pretraining checkpoint loads: with our classes, with stock ELECTRA's, and without this package at all."""

import copy
import json
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from trainer_examples import tiny_pair
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraModel,
    PreTrainedTokenizerFast,
    pipeline,
)

import span_electra
from span_electra import SpanElectraConfig, SpanElectraForMaskedLM, SpanElectraForPreTraining, SpanElectraModel
from span_electra.common.errors import InputError
from span_electra.configuration_span_electra import DERIVED
from span_electra.conversion.export import export
from span_electra.conversion.warm_start import from_generator
from span_electra.modeling_span_electra import DISENTANGLED
from span_electra.pretraining.arguments import ModelArguments
from span_electra.pretraining.electra_pair import load_model
from span_electra.pretraining.tokenizer import build_tokenizer

WORDS = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
SHARING = ("tied", "disentangled", "separate")
TINY = {"vocab_size": len(WORDS), "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "intermediate_size": 37, "max_position_embeddings": 64, "pad_token_id": 2}
TINY |= {"boundary_position_size": 12}


@pytest.fixture(scope="module", params=[*SHARING, "one encoder"])
def checkpoint(request, tmp_path_factory) -> tuple[SpanElectraForPreTraining, Path]:
    """A model whose weights all differ from their initialisation, and the folder it was saved to."""
    config = SpanElectraConfig(
        **TINY,
        embedding_sharing=request.param if request.param in SHARING else "tied",
        generator_hidden_size=None if request.param in SHARING else 32,
    )
    torch.manual_seed(0)
    model = SpanElectraForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model, folder


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", unk_token="[UNK]", **names)


IDS = torch.tensor([[0, 7, 8, 9, 10, 3, 12, 1], [0, 20, 21, 3, 23, 24, 25, 1]])


def test_a_reloaded_model_is_the_same(checkpoint):
    model, folder = checkpoint
    loaded, report = SpanElectraForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    weights = loaded.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)


def test_a_checkpoint_of_earlier_versions_is_the_same_model(checkpoint, tmp_path):
    model, folder = checkpoint
    write_as_before(folder, tmp_path)
    loaded, report = SpanElectraForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    generator = SpanElectraForMaskedLM.from_pretrained(tmp_path).eval()
    encoder = SpanElectraModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)
    assert torch.equal(loaded.generator(IDS).logits, model.generator(IDS).logits)
    assert torch.equal(generator(IDS).logits, model.generator(IDS).logits)
    assert torch.equal(encoder(IDS).last_hidden_state, model.electra(IDS).last_hidden_state)
    assert loaded.config.share_encoder == model.config.share_encoder
    loaded.save_pretrained(tmp_path / "again")
    again = SpanElectraForPreTraining.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def write_as_before(folder, target):
    """Write a checkpoint as earlier versions did: derived sizes in the configuration, and a residual of its own."""
    config = SpanElectraConfig.from_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | {"sampling_head": "mlm"}
    settings |= {name: getattr(config, name) for name in DERIVED}
    (target / "config.json").write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    weights.pop(f"{DISENTANGLED}shared.weight", None)
    if f"{DISENTANGLED}residual.weight" in weights:
        weights["embedding_residual"] = weights.pop(f"{DISENTANGLED}residual.weight")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("sharing", SHARING)
def test_a_model_that_is_to_share_other_embeddings_begins_where_the_checkpoint_ended(checkpoint, tmp_path, sharing):
    model, folder = checkpoint
    load = partial(SpanElectraForPreTraining.from_pretrained, output_loading_info=True)
    changed, report = load(folder, embedding_sharing=sharing)
    assert not report["missing_keys"]
    changed.save_pretrained(tmp_path)
    for other in (changed.eval(), load(tmp_path)[0].eval()):
        assert torch.allclose(other(IDS).logits, model(IDS).logits, atol=1e-5)
        if sharing != "tied" or model.config.embedding_sharing == "tied":  # else the discriminator's take their place
            assert torch.allclose(other.generator(IDS).logits, model.generator(IDS).logits, atol=1e-5)


def test_what_stays_on_the_disk_is_not_filled():
    model = SpanElectraForPreTraining(SpanElectraConfig(**TINY, embedding_sharing="disentangled"))
    model.generator.to("meta")  # as Accelerate leaves what it loads when it is needed
    assert model.fill_generator({"electra.embeddings.word_embeddings.residual.weight"}) == set()


@pytest.mark.parametrize("sharing", SHARING)
def test_stock_electras_embeddings_are_both_networks_first(tmp_path, sharing):
    config = SpanElectraConfig(**TINY).discriminator_config()
    stock = ElectraForPreTraining(config).eval()
    stock.save_pretrained(tmp_path)
    model = SpanElectraForPreTraining.from_pretrained(tmp_path, embedding_sharing=sharing).eval()
    assert torch.allclose(model(IDS).logits, stock(IDS).logits, atol=1e-5)
    table = model.generator.get_input_embeddings().weight
    assert torch.equal(table, stock.get_input_embeddings().weight)


def test_each_auto_class_takes_its_half(checkpoint):
    model, folder = checkpoint
    assert type(AutoModel.from_pretrained(folder)) is SpanElectraModel
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is SpanElectraForPreTraining
    generator, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(generator) is SpanElectraForMaskedLM
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(generator.eval()(IDS).logits, model.generator(IDS).logits)


def test_the_generator_survives_a_round_of_its_own(checkpoint, tmp_path):
    model, folder = checkpoint
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(IDS).logits, model.generator(IDS).logits)


def test_stock_electra_loads_it_as_it_is(checkpoint):
    model, folder = checkpoint
    discriminator = ElectraForPreTraining.from_pretrained(folder).eval()
    assert torch.allclose(discriminator(IDS).logits, model(IDS).logits, atol=1e-6)
    hidden = model.electra(IDS).last_hidden_state
    assert torch.allclose(ElectraModel.from_pretrained(folder).eval()(IDS).last_hidden_state, hidden, atol=1e-6)
    classifier, report = ElectraForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert all(name.startswith("classifier.") for name in report["missing_keys"])
    assert torch.allclose(classifier.eval().electra(IDS).last_hidden_state, hidden, atol=1e-6)


def test_the_folder_names_a_class_for_every_auto_class(checkpoint):
    _, folder = checkpoint
    tasks = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
    names = {f"AutoModelFor{task}" for task in ("PreTraining", "MaskedLM", "TextEncoding", *tasks)}
    names |= {"AutoConfig", "AutoModel"}
    assert set(json.loads((folder / "config.json").read_text())["auto_map"]) == names
    code = {"modeling_span_electra.py", "span_objectives.py", "configuration_span_electra.py"}
    assert {path.name for path in folder.glob("*.py")} == code


@pytest.mark.slow
def test_it_loads_where_the_package_cannot_be_imported(checkpoint, tmp_path):
    model, folder = checkpoint
    torch.save({"logits": model(IDS).logits, "generator": model.generator(IDS).logits}, tmp_path / "expected.pt")
    program = f"""
        import sys
        class NoSuchPackage:
            def find_spec(self, name, *rest):
                if name.split(".")[0] == "span_electra":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, NoSuchPackage())
        import torch, transformers
        expected = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
        ids = torch.tensor({IDS.tolist()})
        def load(auto):
            return getattr(transformers, auto).from_pretrained({str(folder)!r}, trust_remote_code=True).eval()
        for task in ("SequenceClassification", "TokenClassification", "QuestionAnswering"):
            load("AutoModelFor" + task)(ids)
        load("AutoModelForMultipleChoice")(ids[None])
        load("AutoModel")(ids)
        load("AutoModelForTextEncoding")(ids)
        assert torch.allclose(load("AutoModelForPreTraining")(ids).logits, expected["logits"], atol=1e-6)
        assert torch.allclose(load("AutoModelForMaskedLM")(ids).logits, expected["generator"], atol=1e-6)
        assert "span_electra" not in sys.modules
        # A model that was loaded so is saved whole too.
        load("AutoModelForPreTraining").save_pretrained("again")
        again = transformers.AutoModelForPreTraining.from_pretrained("again", trust_remote_code=True).eval()
        assert torch.allclose(again(ids).logits, expected["logits"], atol=1e-6)
        print("loaded", len(transformers.AutoConfig.from_pretrained("again", trust_remote_code=True).auto_map))
    """
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("loaded 9\n")


@pytest.mark.slow
def test_the_installed_package_takes_the_place_of_a_checkpoints_code(checkpoint):
    program = f"""
        import transformers
        folder = {str(checkpoint[1])!r}
        remote = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
        import span_electra
        assert type(remote) is not span_electra.SpanElectraModel
        config = span_electra.SpanElectraConfig.from_pretrained(folder)
        for model in (transformers.AutoModel.from_config(config), transformers.AutoModel.from_pretrained(folder)):
            assert type(model) is span_electra.SpanElectraModel
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_a_fine_tuned_model_of_fewer_layers_can_be_loaded_again(checkpoint, tmp_path):
    _, folder = checkpoint
    load = AutoModelForSequenceClassification.from_pretrained
    model = load(folder, num_hidden_layers=1).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path).eval()(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForPreTraining])
def test_a_generator_follows_the_size_that_is_given_at_loading(checkpoint, auto):
    model, folder = checkpoint
    shorter = auto.from_pretrained(folder, num_hidden_layers=1)
    assert len(shorter.generator.electra.encoder.layer) == 1
    assert shorter.config.share_encoder == model.config.share_encoder
    whole = model.generator.electra.encoder.layer[0].state_dict()
    for name, weight in shorter.generator.electra.encoder.layer[0].state_dict().items():
        assert torch.equal(weight, whole[name]), name


def test_a_head_changes_nothing_in_the_configuration_that_it_is_given(checkpoint):
    config = SpanElectraConfig.from_pretrained(checkpoint[1], num_hidden_layers=1)
    before = config.to_dict()
    AutoModelForSequenceClassification.from_config(config)
    assert config.to_dict() == before


def test_settings_out_of_range_are_refused_before_a_head_is_trained(checkpoint):
    with pytest.raises(ValueError, match="`sampling_temperature` is 0"):
        AutoModelForSequenceClassification.from_pretrained(checkpoint[1], sampling_temperature=0.0)


def test_exported_halves_need_no_custom_code(checkpoint, tmp_path):
    model, folder = checkpoint
    export(folder, tmp_path / "stock")
    assert not list((tmp_path / "stock").rglob("*.py"))
    discriminator = ElectraForPreTraining.from_pretrained(tmp_path / "stock" / "discriminator").eval()
    assert torch.allclose(discriminator(IDS).logits, model(IDS).logits, atol=1e-6)
    encoder = AutoModel.from_pretrained(tmp_path / "stock" / "discriminator")
    assert type(encoder) is ElectraModel
    generator = AutoModelForMaskedLM.from_pretrained(tmp_path / "stock" / "generator").eval()
    assert torch.equal(generator(IDS).logits, model.generator(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "stock" / "generator").mask_token == "[MASK]"
    settings = json.loads((tmp_path / "stock" / "discriminator" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # Transformers 4 knows no TokenizersBackend


def test_both_halves_are_exported_in_the_checkpoints_precision(checkpoint, tmp_path):
    model, folder = checkpoint
    shutil.copytree(folder, tmp_path / "half")
    copy.deepcopy(model).bfloat16().save_pretrained(tmp_path / "half")
    export(tmp_path / "half", tmp_path / "stock")
    for half in ("discriminator", "generator"):
        weights = load_file(tmp_path / "stock" / half / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_what_an_export_lacks_is_named(checkpoint, tmp_path):
    shutil.copytree(checkpoint[1], tmp_path / "copy")
    for path in (tmp_path / "copy").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match=r"The tokenizer in .*copy: cannot be used .* tokenizer\.save_pretrained"):
        export(tmp_path / "copy", tmp_path / "stock")
    with (tmp_path / "copy" / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    with pytest.raises(InputError, match=r"copy: cannot be used \("):
        export(tmp_path / "copy", tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_checkpoint_that_lacks_a_layer_is_refused(checkpoint, tmp_path):
    model, folder = checkpoint
    lacking = rf"{tmp_path}.* lacks \d+ of its weights, or has them in another shape \(.*layer\.1\."
    shape = {name: getattr(model.config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    for source in (model, SpanElectraForMaskedLM.from_pretrained(folder)):
        rest = {name: weight for name, weight in source.state_dict().items() if "layer.1." not in name}
        source.save_pretrained(tmp_path, state_dict=rest)
        with pytest.raises(ValueError, match=lacking):
            from_generator(tmp_path, **shape)
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if "layer.1." not in k})
    with pytest.raises(InputError, match=lacking):
        load_model(ModelArguments(model_name_or_path=str(tmp_path)), {})
    with pytest.raises(InputError, match=lacking):
        export(tmp_path, tmp_path / "stock")


@pytest.mark.parametrize("sharing", SHARING)
def test_a_generator_with_more_tokens_survives_a_round_of_its_own(tmp_path, sharing):
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SpanElectraConfig(**sizes, generator_hidden_size=32, embedding_sharing=sharing)
    for settings in ({}, {"share_encoder": False}):
        model = SpanElectraForMaskedLM(SpanElectraConfig(**config.to_dict() | settings)).eval()
        model.resize_token_embeddings(103)
        model.save_pretrained(tmp_path)
        assert torch.equal(SpanElectraForMaskedLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_state_dict_may_be_given_by_its_place(checkpoint, tmp_path):
    model, _ = checkpoint
    model.save_pretrained(tmp_path, True, model.state_dict())
    assert torch.equal(SpanElectraForPreTraining.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_stock_configuration_loads_the_discriminator(checkpoint):
    model, folder = checkpoint
    loaded = SpanElectraModel.from_pretrained(folder, config=model.config.discriminator_config())
    hidden = model.electra(IDS).last_hidden_state
    assert torch.allclose(loaded(IDS).last_hidden_state, hidden, atol=1e-6)


def test_fill_mask_uses_the_generator(checkpoint, tmp_path):
    model, folder = checkpoint
    export(folder, tmp_path / "stock")
    answers = [
        pipeline("fill-mask", model=str(source), device="cpu")("a b [MASK] d")
        for source in (folder, tmp_path / "stock" / "generator")
    ]
    assert [a["token_str"] for a in answers[0]] == [a["token_str"] for a in answers[1]]
    ids = tokenizer()("a b [MASK] d", return_tensors="pt")["input_ids"]
    assert answers[0][0]["token"] == model.generator(ids).logits[0, 3].argmax().item()


def test_a_task_model_is_no_export(tmp_path):
    SpanElectraModel(SpanElectraConfig(vocab_size=9, num_hidden_layers=1)).save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="was saved as SpanElectraModel, which has no generator"):
        export(tmp_path / "encoder", tmp_path / "stock")
    with pytest.raises(InputError, match="nowhere: cannot be used"):
        export(tmp_path / "nowhere", tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_pair_of_stock_encoders_needs_no_export(tmp_path):
    tiny_pair().save_pretrained(tmp_path / "pair")
    with pytest.raises(
        InputError, match=r"needs no export\. It is a stock ModernBertModel .* in its folder generator/"
    ):
        export(tmp_path / "pair", tmp_path / "stock")


def test_an_export_replaces_nothing_else(checkpoint, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match=r"already holds something else \(diary.txt\)"):
        export(checkpoint[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_pretraining_pads_on_the_right(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, padding_side="left").save_pretrained(tmp_path)
    assert build_tokenizer(ModelArguments(tokenizer=str(tmp_path))).padding_side == "right"


def test_a_pad_token_with_another_role_is_refused(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, pad_token="[SEP]").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"\[SEP\] as its pad token.* tokenizer\.add_special_tokens\({'pad_token'"):
        build_tokenizer(ModelArguments(tokenizer=str(tmp_path)))


def test_there_is_one_copy_of_every_class():
    # A second import of the root under its folder's name would register other classes of the same names.
    copies = [
        module
        for module in list(sys.modules.values())
        if getattr(module, "__file__", None) == str(Path(span_electra.__file__).parent / "modeling_span_electra.py")
    ]
    assert [module.__name__ for module in copies] == ["span_electra.modeling_span_electra"]
