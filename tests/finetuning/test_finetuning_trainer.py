"""The Trainer: rates by depth, updates however their rows are divided, every row scored in its place."""

import os
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from finetuning_examples import SHAPE, arguments, results_of
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ElectraConfig,
    EuroBertConfig,
    GPT2Config,
    ModernBertConfig,
    T5Config,
)

from span_electra.finetuning.arguments import FinetuningArguments
from span_electra.finetuning.trainer import FinetuningTrainer, parameter_depths
from span_electra.run_finetuning import main

ROWS, TOKENS = 8, 12
IDS = torch.randint(5, 99, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
CLASSES = [{"labels": row % 3} for row in range(ROWS)]
SCORES = [{"labels": row / 3} for row in range(ROWS)]
TAGS = [{"labels": [(row + place) % 3 for place in range(TOKENS)]} for row in range(ROWS)]
ENDS = [{"start_positions": row, "end_positions": row + 2} for row in range(ROWS)]
TINY = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = TINY | {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_trainer(
    folder, labels, auto_class=AutoModelForSequenceClassification, num_labels=3, lengths=(TOKENS,) * ROWS, **settings
):
    torch.manual_seed(0)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ElectraConfig(**SHAPE, **rates, vocab_size=99, pad_token_id=0, num_labels=num_labels)
    rows = [{"input_ids": ids[: lengths[row]], **labels[row]} for row, ids in enumerate(IDS)]
    defaults = {"layerwise_lr_decay": 0.8, "learning_rate": 1e-3, "max_steps": 1, "logging_steps": 1, "use_cpu": True}
    defaults |= {"eval_strategy": "steps", "report_to": "none", "disable_tqdm": True, "load_best_model_at_end": False}
    return FinetuningTrainer(
        model=auto_class.from_config(config),
        args=FinetuningArguments(output_dir=str(folder), **defaults | settings),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
    )


@pytest.mark.parametrize(
    ("auto_class", "num_labels", "labels", "smoothing"),
    [
        (AutoModelForSequenceClassification, 3, CLASSES, 0.0),
        (AutoModelForSequenceClassification, 3, CLASSES, 0.1),
        (AutoModelForSequenceClassification, 1, SCORES, 0.0),
        (AutoModelForTokenClassification, 3, TAGS, 0.0),
        (AutoModelForQuestionAnswering, 2, ENDS, 0.0),
    ],
    ids=["classes", "smoothed classes", "scores", "tags", "answers"],
)
def test_one_batch_of_8_is_the_update_of_4_batches_of_2(tmp_path, auto_class, num_labels, labels, smoothing):
    logs = []
    for batch_size, accumulated in ((8, 1), (2, 4)):
        divided = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulated}
        trainer = make_trainer(tmp_path, labels, auto_class, num_labels, label_smoothing_factor=smoothing, **divided)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    for name in ("loss", "grad_norm"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-4), name


@pytest.mark.slow
def test_two_processes_learn_what_one_does(home, tmp_path):
    # Gradients of another size lead plain gradient descent elsewhere. Each process evaluates one batch, a full one.
    options = {"max_steps": 6, "optim": "sgd", "max_grad_norm": 1e9, "learning_rate": 0.3, "dropout": 0}
    options |= {"per_device_eval_batch_size": 20}
    main(arguments(home, tmp_path / "1", **options, per_device_train_batch_size=8))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--module", "span_electra.run_finetuning"]
    command += arguments(home, tmp_path / "2", **options, per_device_train_batch_size=4)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [results_of(tmp_path / processes)["seeds"][0]["metrics"]["loss"] for processes in ("1", "2")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("setting", [{"train_sampling_strategy": "group_by_length"}, {"dataloader_drop_last": True}])
def test_every_row_is_scored_in_its_place_however_training_draws_its_batches(tmp_path, setting):
    lengths = [3, 12, 5, 7, 4, 11, 6, 9]
    seen = []
    trainer = make_trainer(tmp_path, SCORES, num_labels=1, lengths=lengths, per_device_eval_batch_size=3, **setting)
    trainer.compute_metrics = lambda output: seen.append(output.label_ids.tolist()) or {}
    trainer.data_collator = padded
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    expected = pytest.approx([row["labels"] for row in SCORES])
    assert seen == [expected, expected]
    assert {name: getattr(trainer.args, name) for name in setting} == setting  # in training it holds


def padded(rows):
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


@pytest.mark.parametrize(
    ("auto_class", "config", "depths"),
    [
        (
            AutoModelForSequenceClassification,
            GPT2Config(**TINY, n_embd=8, n_layer=2, n_head=2),
            {".wte.": 0, ".wpe.": 0, ".h.0.": 1, ".h.1.": 2, ".ln_f.": 3, "score.": 4},
        ),
        (
            AutoModelForTokenClassification,
            T5Config(vocab_size=99, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2),
            {".shared.": 0, ".block.0.": 1, ".block.1.": 2, ".final_layer_norm.": 3, "classifier.": 4},
        ),
        (
            AutoModelForSequenceClassification,
            EuroBertConfig(**LLAMA, num_key_value_heads=2, mask_token_id=3),
            {".embed_tokens.": 0, ".layers.0.": 1, ".layers.1.": 2, "model.norm.": 3, "dense.": 4, "classifier.": 4},
        ),
        (
            AutoModelForSequenceClassification,
            ModernBertConfig(**LLAMA, cls_token_id=1, sep_token_id=2),
            {".embeddings.": 0, ".layers.0.": 1, ".layers.1.": 2, ".final_norm.": 3, "head.": 4, "classifier.": 4},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_rates_fall_towards_the_input_in_encoders_with_other_names(auto_class, config, depths):
    model = auto_class.from_config(config)
    found = parameter_depths(model, model.base_model_prefix)
    expected = {name: next(depths[part] for part in depths if part in name) for name in found}
    assert found == expected and {*found.values()} == {*depths.values()}
