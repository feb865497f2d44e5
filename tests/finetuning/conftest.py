"""A folder of models and data that the tests of fine-tuning share."""

import json
import shutil

import datasets
import pytest
import torch
from finetuning_examples import (
    BAD,
    GOOD,
    NEUTRAL,
    PEOPLE,
    PLACES,
    SHAPE,
    SURNAMES,
    documents,
    sentences,
    squad,
    write_bad_data,
    write_lines,
)
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ViTConfig,
)

from span_electra import SpanElectraConfig, SpanElectraForMaskedLM, SpanElectraForPreTraining
from span_electra.tokenization.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keeps what is read out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with models of every kind and data for every task; nothing in it may change."""
    home = tmp_path_factory.mktemp("home")
    words = [*GOOD, *BAD, *NEUTRAL, *PEOPLE, *SURNAMES, *PLACES, "who"]
    (home / "text.txt").write_text("\n".join(" ".join(words) for _ in range(50)), encoding="utf-8")
    train_tokenizer([home / "text.txt"], home / "tokenizer", vocab_size=600)  # a token for each word
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    torch.manual_seed(0)
    common = SHAPE | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    bert = {name: value for name, value in common.items() if name != "embedding_size"}
    models = {
        "electra": ElectraForPreTraining(ElectraConfig(**common)),
        "generator": ElectraForMaskedLM(ElectraConfig(**common)),
        "bert": BertForMaskedLM(BertConfig(**bert)),
        "span_electra": SpanElectraForPreTraining(SpanElectraConfig(**common)),
        "span_generator": SpanElectraForMaskedLM(SpanElectraConfig(**common)),
        "first_stage": SpanElectraForPreTraining(SpanElectraConfig(**common, objective="generator")),
    }
    for name, model in models.items():
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    models["electra"].save_pretrained(home / "halves" / "discriminator")
    models["generator"].save_pretrained(home / "halves" / "generator")
    truncated = {key: value for key, value in models["electra"].state_dict().items() if "layer.1." not in key}
    models["electra"].save_pretrained(home / "half_empty", state_dict=truncated)
    tokenizer.save_pretrained(home / "half_empty")
    models["electra"].save_pretrained(home / "other_shape")
    tokenizer.save_pretrained(home / "other_shape")
    config = json.loads((home / "other_shape" / "config.json").read_text())
    (home / "other_shape" / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    shutil.copytree(home / "electra", home / "cut_short")
    with (home / "cut_short" / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    for part, seed, count in (("train", 1, 160), ("dev", 2, 40)):
        rows = sentences(count, seed)
        write_lines(home / f"{part}.jsonl", rows)
        scores = [{"sentence1": row["sentence1"], "sentence2": "film", "label": row["label"] * 2.5} for row in rows]
        write_lines(home / f"scores_{part}.jsonl", scores)
        write_lines(home / f"ner_{part}.jsonl", documents(count, seed))
        (home / f"squad_{part}.json").write_text(json.dumps(squad(count, seed)))
    write_bad_data(home)
    ViTConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(home / "vit")
    (home / "used").mkdir()
    (home / "used" / "thesis.txt").write_text("my only copy")
    for name, marker in (("run", "finetuning.json"), ("pretraining_run", "arguments.json")):
        (home / name).mkdir()
        (home / name / marker).write_text("{}")
        (home / name / "model.safetensors").write_text("weights")
    return home
