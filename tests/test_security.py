"""Secrets stay where they are, and what others wrote is never run."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from span_electra import SpanElectraConfig, run_finetuning
from span_electra.common.errors import InputError
from span_electra.conversion.export import export
from span_electra.run_pretraining import main, run
from span_electra.tokenization.train_tokenizer import train_tokenizer

SIZES = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64}
SECRET, OTHER_SECRET = "hf_TheTokenOnTheCommandLine", "hf_TheTokenInTheEnvironment"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text("some words to learn from, and some more of them\n" * 200)
    (home / "tiny.json").write_text(json.dumps(SIZES))
    train_tokenizer([home / "text.txt"], home / "tokenizer", vocab_size=280)
    return home


def command(home, folder, **options):
    options = {"train_file": home / "text.txt", "tokenizer": home / "tokenizer", "output_dir": folder} | options
    options |= {"documents": "file", "max_seq_length": 32, "max_steps": 2, "save_steps": 1, "eval_steps": 1}
    options |= {"features_cache_dir": folder.parent / "cache", "per_device_train_batch_size": 4, "use_cpu": True}
    options |= {"disable_tqdm": True, "logging_steps": 1}  # to tensorboard, if it is installed
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def test_a_token_is_written_nowhere(home, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", OTHER_SECRET)
    main(command(home, tmp_path / "run", config=home / "tiny.json", hub_token=SECRET))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"arguments.json", "history.json", "README.md", "config.json", "training_args.bin"} <= {
        path.name for path in written
    }
    for path in written:
        content = path.read_bytes()
        assert SECRET.encode() not in content and OTHER_SECRET.encode() not in content, path
    said = "".join(capfd.readouterr())
    assert SECRET not in said and OTHER_SECRET not in said


class Trap:
    """Whoever unpickles it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.fixture
def trapped(home, tmp_path):
    """A model whose weights leave a trace when they are read without care."""
    model = tmp_path / "model"
    SpanElectraConfig(**SIZES, vocab_size=280, architectures=["SpanElectraForPreTraining"]).save_pretrained(model)
    AutoTokenizer.from_pretrained(home / "tokenizer").save_pretrained(model)
    torch.save({"weight": Trap(tmp_path / "trace")}, model / "pytorch_model.bin")
    return model


@pytest.mark.parametrize("way", ["pretraining", "second stage", "fine-tuning", "export"])
def test_weights_that_would_run_code_are_refused_unread(home, tmp_path, trapped, way):
    def finetune():
        (tmp_path / "data.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
        files = {"train_file": tmp_path / "data.jsonl", "validation_file": tmp_path / "data.jsonl"}
        options = files | {"model_name_or_path": trapped, "task": "classification", "output_dir": tmp_path / "run"}
        run_finetuning.run([str(part) for name, value in options.items() for part in (f"--{name}", value)])

    second = {"config": home / "tiny.json", "objective": "discriminator", "generator": trapped}
    ways = {
        "pretraining": lambda: run(command(home, tmp_path / "run", model_name_or_path=trapped)),
        "second stage": lambda: run(command(home, tmp_path / "run", **second)),
        "fine-tuning": finetune,
        "export": lambda: export(trapped, tmp_path / "run"),
    }
    with pytest.raises(InputError, match="its weights are a pickle that holds more than tensors"):
        ways[way]()
    assert not (tmp_path / "trace").exists() and not (tmp_path / "run").exists()
