"""Runs of a pair of stock encoders, which is saved in several folders: exact resumption, the best model, uploads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from span_encoder_examples import FAMILIES, random_pair
from test_run_pretraining import arguments
from trainer_examples import make_trainer, tiny_model, tiny_pair, word_tokenizer
from transformers import TrainerCallback

from span_electra.common.errors import InputError
from span_electra.pretraining.report import describe
from span_electra.run_pretraining import run
from span_electra.training.checkpoint_folders import MANIFEST, damage
from span_electra.training.output_dir import start_run

# The forked workers of a DataLoader are warned of by Python 3.12 and later, as this process has threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SAVING = {"save_strategy": "steps", "save_steps": 2}
FOLDERS = ("generator", "pretraining")


def assert_same_weights(model, other):
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sharing", ["tied", "disentangled"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(tokenizer, tmp_path, caplog, sharing, workers):
    settings = {"count": 12, "dataloader_num_workers": workers} | SAVING
    trainers = [make_trainer(tokenizer, tmp_path, tiny_pair(embedding_sharing=sharing), **settings) for _ in range(2)]
    for trainer, resume in zip(trainers, (None, str(tmp_path / "checkpoint-2")), strict=True):
        trainer.train(resume_from_checkpoint=resume)
    whole, resumed = trainers
    assert len(resumed.batches) == 4 and "keys" not in caplog.text
    assert_same_weights(whole.model, resumed.model)
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in trainers]
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_twenty_steps_of_every_family_resume_bit_for_bit(tokenizer, tmp_path, kind):
    if kind == "mpnet":  # which always pads with token 1
        tokenizer = word_tokenizer(["[CLS]", "[PAD]", "[SEP]", "[MASK]", "[UNK]"])
    settings = {"max_steps": 20, "save_strategy": "steps", "save_steps": 10}
    trainers = []
    for resume in (None, str(tmp_path / "checkpoint-10")):
        trainers.append(make_trainer(tokenizer, tmp_path, random_pair(kind), **settings))
        trainers[-1].train(resume_from_checkpoint=resume)
    whole, resumed = trainers
    assert_same_weights(whole.model, resumed.model)
    assert len(resumed.batches) == 10


@pytest.mark.parametrize("sharing", ["tied", "disentangled"])
def test_the_best_model_is_loaded_whole_at_the_end(tokenizer, tmp_path, sharing):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1.0}
    trainer = make_trainer(tokenizer, tmp_path, tiny_pair(embedding_sharing=sharing), **SAVING, **best, warmup_steps=3)
    trainer.train()
    assert trainer.kept_step() == 2
    assert_same_weights(trainer.model, type(trainer.model).from_pretrained(tmp_path / "checkpoint-2"))


def test_a_checkpoint_is_sealed_with_its_folders(tokenizer, tmp_path):
    make_trainer(tokenizer, tmp_path, tiny_pair(), **SAVING).train()
    checkpoint = tmp_path / "checkpoint-6"
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert {f"{folder}/{name}" for folder in FOLDERS for name in ("config.json", "model.safetensors")} <= set(files)
    (checkpoint / "generator" / "model.safetensors").unlink()
    assert damage(checkpoint) == "generator/model.safetensors is missing"


def test_a_model_is_saved_over_an_earlier_one(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, tiny_pair())
    trainer.save_model()
    (tmp_path / "generator" / "of_the_earlier").touch()
    trainer.train()
    trainer.save_model()
    names = {path.name for path in (tmp_path / "generator").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert_same_weights(trainer.model, type(trainer.model).from_pretrained(tmp_path))
    start_run(str(tmp_path), {}, resumes=False)
    assert not any((tmp_path / folder).exists() for folder in FOLDERS)


class Upload(TrainerCallback):
    """Notes what an upload of a checkpoint would send, as far as the library does not copy it."""

    def __init__(self):
        self.uploads: list[set[str]] = []

    def on_push_begin(self, args, state, control, **kwargs):
        self.uploads.append({path.name for path in Path(args.output_dir).iterdir()})
        raise OSError  # before the library opens a connection


@pytest.mark.parametrize(
    "make_model, names",
    [(tiny_pair, set(FOLDERS)), (tiny_model, {"modeling_span_electra.py", "span_objectives.py"})],
)
def test_an_upload_during_training_has_the_folders_and_the_code_of_the_checkpoint(
    tokenizer, tmp_path, make_model, names
):
    trainer = make_trainer(tokenizer, tmp_path, make_model(), **SAVING)
    trainer.args.push_to_hub, trainer.push_in_progress = True, None
    trainer.add_callback(upload := Upload())
    trainer.train()
    assert len(upload.uploads) == 3 and all(names <= sent for sent in upload.uploads)
    if make_model is tiny_pair:
        sent, last = (
            load_file(folder / "generator/model.safetensors") for folder in (tmp_path, trainer.last_checkpoint)
        )
        assert all(torch.equal(sent[name], last[name]) for name in last)


def test_a_pair_is_described_and_not_sharded(tokenizer, tmp_path, caplog, monkeypatch):
    with caplog.at_level("INFO", logger="span_electra.pretraining.report"):
        describe(make_trainer(tokenizer, tmp_path, tiny_pair()), 22)
    assert "an encoder each, disentangled embeddings" in caplog.text
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    (tmp_path / "tiny.json").write_text(json.dumps({"model_type": "modernbert", **sizes}))
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text("w1 w2 w3\n" * 20)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"FSDP .* span_encoder .* use DDP"):
        run(arguments(tmp_path, tmp_path / "out"))
