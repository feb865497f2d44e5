"""The Trainer: masks by epoch, evaluation that repeats itself, accumulation, alarms, and what decay spares."""

import dataclasses
import logging
import math
import re
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from trainer_examples import make_trainer, rows, tiny_model
from transformers import TrainerCallback, TrainerState
from transformers.utils import PushInProgress

from span_electra import SpanElectraForPreTraining
from span_electra.data_collator import DataCollatorForSpanMasking, largest_masked_share
from span_electra.pretraining.alarms import LearningMonitor, learning_problems
from span_electra.pretraining.arguments import PretrainingArguments
from span_electra.pretraining.fixed_corruption import EvaluationCollator
from span_electra.pretraining.trainer import NonFiniteLossError, SpanElectraTrainer
from span_electra.training.private_trainer import PrivateTrainer

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}

# The forked workers of a DataLoader are warned of by Python 3.12 and later, as this process has threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def masked_in_epoch(tokenizer, batch, epoch):
    """What the collator makes of the rows of `batch` in that epoch."""
    original = torch.where(batch["labels"] != -100, batch["labels"], batch["input_ids"])
    collator = DataCollatorForSpanMasking(tokenizer, seed=0)
    collator.set_epoch(epoch)
    return collator([{"input_ids": row} for row in original.tolist()])


@pytest.mark.parametrize("kind", ["map-style", "iterable"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_epoch_has_masks_of_its_own_with_and_without_workers(tokenizer, tmp_path, workers, kind):
    trainer = make_trainer(
        tokenizer,
        tmp_path,
        count=8,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        eval_strategy="steps",
        eval_steps=1,
    )
    if kind == "iterable":
        trainer.train_dataset = trainer.train_dataset.to_iterable_dataset(num_shards=max(workers, 1))
    trainer.train()
    assert len(trainer.batches) == 6
    for epoch, (_, batch) in zip([0, 0, 1, 1, 2, 2], trainer.batches, strict=True):
        expected = masked_in_epoch(tokenizer, batch, epoch)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize("step", [2, 3, 5])  # an epoch has 3 steps: inside the first, at its end, inside the second
def test_a_resumed_run_sees_the_same_batches_and_ends_with_the_same_weights(tokenizer, tmp_path, step, caplog):
    settings = {"count": 12, "save_strategy": "steps", "save_steps": step, "logging_steps": step}
    whole = make_trainer(tokenizer, tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), **settings)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert "missing keys" not in caplog.text
    assert len(resumed.batches) == 6 - step
    for (epoch, batch), (same_epoch, same_batch) in zip(whole.batches[step:], resumed.batches, strict=True):
        assert epoch == same_epoch and torch.equal(batch["input_ids"], same_batch["input_ids"])
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[0] == losses[1]


def test_evaluation_repeats_itself_and_leaves_the_randomness_of_training_alone(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    before = torch.get_rng_state()
    first = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    trainer.data_collator.set_epoch(5)
    second = trainer.evaluate()
    timing = {name for name in first if "runtime" in name or "per_second" in name or "time" in name}
    # As text, for a score that does not exist is not a number, which equals nothing.
    texts = [{k: str(v) for k, v in metrics.items() if k not in timing} for metrics in (first, second)]
    assert texts[0] == texts[1]
    assert 0 < first["eval_discriminator_auc"] < 1 and first["eval_mlm_loss"] == pytest.approx(math.log(99), rel=0.05)


def test_the_trainer_on_the_page_runs(tokenizer, tmp_path, monkeypatch):
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "SpanElectraTrainer(" in block
    ]
    for large, small in {
        "max_steps=100_000": "max_steps=2, use_cpu=True",
        "vocab_size=": f"**{SIZES}, vocab_size=",
    }.items():
        assert block.count(large) == 1
        block = block.replace(large, small)
    monkeypatch.chdir(tmp_path)
    tokenizer.save_pretrained("my_tokenizer")
    rows(200).save_to_disk("my_features")
    names = {}
    exec(block, names)
    history = names["trainer"].state.log_history
    assert history[-1]["step"] == 2 and math.isfinite(names["trainer"].evaluate()["eval_loss"])
    assert SpanElectraForPreTraining.from_pretrained("my_model").config.vocab_size == len(tokenizer)


def rows_of_many_lengths(count):
    return datasets.Dataset.from_dict(
        {"input_ids": [row[: 6 + 3 * i] for i, row in enumerate(rows(count)["input_ids"])]}
    )


def test_one_batch_of_8_has_the_gradient_of_4_batches_of_2(tokenizer, tmp_path):
    gradients = []
    for batch_size, accumulated in ((8, 1), (2, 4)):
        trainer = make_trainer(
            tokenizer,
            tmp_path,
            model=tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_grad_norm=1e9,
        )
        trainer.train_dataset = rows_of_many_lengths(8)  # the means of the small batches are of unequal weight
        trainer.train()
        gradients.append(trainer.gradients)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_evaluation_is_the_same_in_batches_of_any_size(tokenizer, tmp_path):
    metrics = []
    for size in (8, 3):
        trainer = make_trainer(tokenizer, tmp_path, per_device_eval_batch_size=size)
        trainer.eval_dataset = rows_of_many_lengths(8)
        metrics.append(trainer.evaluate())
    for name in ("eval_loss", "eval_mlm_loss", "eval_rtd_loss", "eval_discriminator_auc", "eval_replaced_share"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-5), name


def test_training_logs_hold_the_metrics_since_the_last_log(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4, 6]
    for i, entry in enumerate(logs):
        assert entry["loss"] == pytest.approx(float(sum(trainer.losses[2 * i : 2 * i + 2])) / 2, rel=1e-5)
        assert entry["loss"] > entry["mlm_loss"] + entry["sbgo_loss"] > 0
        assert 0 < entry["replaced_share"] < 0.2 and 0 <= entry["generator_accuracy"] <= 1
    assert trainer.train_metrics.originals.sum() == 0


@pytest.mark.parametrize("is_noted", [True, False])  # whether the library's own norm of the gradient can be had
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_gradient_alone_that_is_not_finite_is_noticed(tokenizer, tmp_path, optim, is_noted):
    trainer = make_trainer(tokenizer, tmp_path, optim=optim)
    if not is_noted:
        trainer.accelerator.clip_grad_norm_ = partial(Accelerator.clip_grad_norm_, trainer.accelerator)
    weight = trainer.model.generator.electra.encoder.layer[0].output.dense.weight
    weight.register_hook(lambda gradient: gradient * (float("inf") if trainer.state.global_step == 2 else 1.0))
    with pytest.raises(NonFiniteLossError):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_the_norm_of_a_gradient_is_taken_once(tokenizer, tmp_path, monkeypatch, max_grad_norm):
    monkeypatch.delattr("span_electra.pretraining.trainer.get_total_norm")  # which takes it a second time
    make_trainer(tokenizer, tmp_path, max_grad_norm=max_grad_norm).train()


def test_a_loss_alone_that_is_not_finite_is_noticed(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    forward = trainer.model.forward

    def infinite(**inputs):
        output = forward(**inputs)
        output.mlm_loss = output.mlm_loss + (float("inf") if trainer.state.global_step == 2 else 0.0)  # no gradient
        return output

    trainer.model.forward = infinite
    with pytest.raises(NonFiniteLossError):
        trainer.train()


class Poison(TrainerCallback):
    """Makes the model's loss not a number from a step on."""

    def __init__(self, model, step):
        self.model, self.step, self.before = model, step, None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            forward = self.model.forward

            def poisoned(**inputs):
                output = forward(**inputs)
                output.mlm_loss = output.mlm_loss * float("nan")
                return output

            self.model.forward = poisoned


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_loss_that_is_not_finite_reaches_neither_weights_nor_checkpoints(tokenizer, tmp_path, optim, max_grad_norm):
    model = tiny_model()
    settings = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 100}
    trainer = make_trainer(tokenizer, tmp_path, model, optim=optim, max_grad_norm=max_grad_norm, **settings)
    poison = Poison(model, step=2)
    trainer.add_callback(poison)
    with pytest.raises(NonFiniteLossError, match=r"stopped being finite .* --resume_from_checkpoint true"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, poison.before[name]), name
    with pytest.raises(NonFiniteLossError):
        trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()


def test_weights_that_only_an_evaluation_finds_broken_are_not_kept(tokenizer, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    trainer = make_trainer(tokenizer, tmp_path, metric_for_best_model="probe_sst_accuracy", **settings)
    forward = trainer.model.forward

    def broken_when_judged(**inputs):
        output = forward(**inputs)
        if not trainer.model.training and trainer.state.global_step == 4 and output.loss is not None:
            output.rtd_loss = output.rtd_loss * float("inf")
        return output

    class Probe:  # a classifier cannot be fitted to numbers that are none
        def metrics(self, model):
            assert trainer.state.global_step < 4
            return {"probe_sst_accuracy": 0.75}

    trainer.model.forward = broken_when_judged
    trainer.probes = [Probe()]
    with pytest.raises(NonFiniteLossError):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_that_becomes_a_revision_waits_for_the_upload_before_it(tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(tokenizer, tmp_path, hub_strategy="all_checkpoints")
    earlier, upload, tagged = Future(), Future(), []
    trainer.hub_model_id, trainer.push_in_progress = "ada/spans", PushInProgress([earlier])
    threading.Timer(0.2, earlier.set_result, [None]).start()

    def send(self, checkpoint):  # the library does nothing here while an upload is in progress
        assert earlier.done()
        upload.set_result(None)
        self.push_in_progress = PushInProgress([upload])

    def tag(*args, token):
        time.sleep(0.2)
        tagged.append(args)

    monkeypatch.setattr(PrivateTrainer, "send_checkpoint", send)
    monkeypatch.setattr("span_electra.pretraining.trainer.tag_checkpoint", tag)
    trainer.send_checkpoint(tmp_path / "checkpoint-2")
    trainer.push_in_progress.wait_until_done()  # as the end of the run does
    assert tagged == [(tmp_path / "checkpoint-2", "ada/spans", upload)]


def test_a_run_that_is_not_to_log_does_not(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, logging_strategy="no")
    trainer.train()
    assert not any("loss" in entry for entry in trainer.state.log_history)


def test_arguments_can_be_changed_in_python():
    arguments = PretrainingArguments("out", eval_strategy="steps", use_cpu=True)
    assert dataclasses.replace(arguments, learning_rate=0.5).learning_rate == 0.5


@pytest.mark.parametrize("objective", ["joint", "generator"])
def test_rows_without_a_word_to_mask_are_trained_on_and_judged(tokenizer, tmp_path, objective):
    trainer = make_trainer(tokenizer, tmp_path, tiny_model(objective=objective), eval_strategy="steps", eval_steps=2)
    nothing = datasets.Dataset.from_dict({"input_ids": [[0, 4, 4, 1]] * 24})  # [UNK] is no word
    trainer.train_dataset = trainer.eval_dataset = nothing
    trainer.train()
    losses = [entry.get("loss", entry.get("eval_loss")) for entry in trainer.state.log_history[:-1]]
    assert len(losses) == 6 and np.isfinite(losses).all()
    assert not any("mlm_loss" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("objective", ["joint", "generator", "discriminator"])
@pytest.mark.parametrize("settings", [{}, {"use_sbgo": False, "use_sbpo": False}, {"embedding_sharing": "separate"}])
def test_every_trainable_parameter_gets_a_gradient_so_that_processes_need_not_search(
    tokenizer, tmp_path, objective, settings
):
    if objective == "discriminator":
        settings = settings | {"embedding_sharing": "separate"}
    trainer = make_trainer(tokenizer, tmp_path, tiny_model(objective=objective, **settings), max_steps=1)
    trainer.train_dataset = datasets.Dataset.from_dict({"input_ids": [[0, 4, 4, 1]] * 4})  # nothing to mask
    trainer.train()
    assert trainer.args.ddp_find_unused_parameters is False
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trainable and trainable == trainer.gradients.keys()


def test_the_last_steps_are_logged_however_few(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, max_steps=5, logging_steps=3)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [3, 5]
    assert "train_runtime" in trainer.state.log_history[-1] and "train_loss" not in trainer.state.log_history[-1]


def test_decay_spares_biases_and_norms_but_not_embeddings(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    model = trainer.model
    decayed = set(trainer.get_decay_parameter_names(model))
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    spared = {name for name, _ in model.named_parameters() if name.endswith("bias")} | norms
    assert len(spared) > 40
    names = {name for name, _ in model.named_parameters()}  # of tied ones only one, as the optimizer is given them
    assert decayed & names == names - spared
    assert any("word_embeddings" in name for name in decayed & names)


def test_the_collator_that_evaluation_has_by_default_begins_with_the_first_epoch(tokenizer, tmp_path):
    collator, row = DataCollatorForSpanMasking(tokenizer, seed=0), {"input_ids": rows(1)[0]["input_ids"]}
    first = collator([row])["labels"]
    collator.set_epoch(3)
    args = PretrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="no")
    trainer = SpanElectraTrainer(model=tiny_model(), args=args, data_collator=collator)
    assert torch.equal(trainer.eval_data_collator([row])["labels"], first)
    assert not torch.equal(collator([row])["labels"], first)


def test_what_the_model_takes_for_padding_is_what_the_collator_pads_with(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"`pad_token_id` is 0, but `data_collator` pads with the tokenizer's, 2\. "):
        make_trainer(tokenizer, tmp_path, model=tiny_model(pad_token_id=0))


@pytest.mark.parametrize("share, pad_to", [(0.1, None), (0.15, 22), (0.2, 8)])
def test_a_model_with_too_little_room_for_the_masked_tokens_is_refused(tokenizer, tmp_path, share, pad_to):
    model = tiny_model()
    model.largest_masked_share = share
    collator = DataCollatorForSpanMasking(tokenizer, pad_to_multiple_of=pad_to)
    args = PretrainingArguments(str(tmp_path), use_cpu=True, eval_strategy="no")
    with pytest.raises(ValueError, match=rf"`largest_masked_share` is {share},.*`mask_ratio` 0\.15.*to None"):
        SpanElectraTrainer(model=model, args=args, data_collator=collator)
    model.largest_masked_share = 0.15 if pad_to is None else largest_masked_share(0.15, pad_to)
    SpanElectraTrainer(model=model, args=args, data_collator=collator)
    greedy = EvaluationCollator(DataCollatorForSpanMasking(tokenizer, mask_ratio=0.5), collator)
    with pytest.raises(ValueError, match=r"`mask_ratio` 0\.5"):
        SpanElectraTrainer(model=model, args=args, data_collator=collator, eval_data_collator=greedy)


def test_evaluation_needs_a_collator_of_its_own(tokenizer, tmp_path):
    collator = DataCollatorForSpanMasking(tokenizer)
    with pytest.raises(ValueError, match="a collator of its own"):
        SpanElectraTrainer(model=tiny_model(), data_collator=collator, eval_data_collator=collator)


# --- alarms ------------------------------------------------------------------------------------------------------

HEALTHY = {
    "discriminator_auc": 0.9,
    "discriminator_recall": 0.4,
    "generator_accuracy": 0.3,
    "generator_accuracy_baseline": 0.06,
}


@pytest.mark.parametrize(
    "broken, text",
    [
        (
            {"discriminator_auc": 0.51},
            r"discriminator has learnt nothing: its AUC is 0\.510.* short rows first",
        ),
        ({"discriminator_recall": 0.0}, r"finds 0\.0% of the replaced tokens.* raise rtd_weight"),
        ({"generator_accuracy": 0.06}, r"generator has learnt nothing: its accuracy of 0\.060 .* \(0\.060\)"),
    ],
)
def test_what_has_learnt_nothing_is_said_in_words(broken, text):
    (message,) = learning_problems(HEALTHY | broken).values()
    assert re.search(text, message)


def test_a_generator_alone_is_judged_without_a_discriminator():
    alone = {name: value for name, value in HEALTHY.items() if name.startswith("generator")}
    assert learning_problems(alone) == {}
    assert learning_problems(alone | {"generator_accuracy": 0.0}).keys() == {"generator"}


def counting_rows(count, length=22):
    """Rows that count up from anywhere: to learn from them is easy."""
    starts = torch.arange(count) * 7
    content = 5 + (starts[:, None] + torch.arange(length)) % 94
    content[:, 0], content[:, -1] = 0, 1
    return datasets.Dataset.from_dict({"input_ids": content.tolist()})


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken, alarm",
    [
        ({}, None),
        ({"rtd_weight": 0.0, "sbpo_weight": 0.0}, "the discriminator has learnt nothing"),
        ({"mlm_weight": 0.0, "sbgo_weight": 0.0}, "the generator has learnt nothing"),
        # It ranks as well as any, but no score is above that of chance.
        ({"never_sure": True}, "calls everything original"),
    ],
)
def test_a_run_that_is_broken_on_purpose_raises_its_alarm(tokenizer, tmp_path, monkeypatch, caplog, broken, alarm):
    monkeypatch.setattr("span_electra.pretraining.alarms.PATIENCE_IN_STEPS", 250)
    weights = {name: value for name, value in broken.items() if name != "never_sure"}
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **weights)
    if "never_sure" in broken:
        model.discriminator_predictions.register_forward_hook(lambda head, inputs, scores: F.logsigmoid(scores))
    settings = {"max_steps": 300, "logging_steps": 50, "learning_rate": 3e-3, "warmup_steps": 20}
    trainer = make_trainer(tokenizer, tmp_path, model, per_device_train_batch_size=16, **settings)
    trainer.train_dataset = counting_rows(94)
    with caplog.at_level(logging.WARNING, logger="span_electra.pretraining.trainer"):
        trainer.train()
    alarms = [record.message for record in caplog.records if "Step" in record.message]
    assert (not alarms) if alarm is None else any(alarm in message for message in alarms)


def test_a_generator_that_stays_as_it_is_raises_no_alarm():
    weak = HEALTHY | {"generator_accuracy": 0.0}
    assert learning_problems(weak).keys() == {"generator"} and learning_problems(weak, "discriminator") == {}


def test_alarms_come_late_once_and_again_after_a_recovery(tmp_path, caplog):
    args = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", warmup_steps=3000)
    monitor = LearningMonitor()
    bad = HEALTHY | {"discriminator_auc": 0.5}
    counts = []
    for step, logs in [
        (5900, bad),
        (6000, bad),
        (6100, bad),
        (6200, HEALTHY),
        (6300, bad),
        (6400, {"eval_loss": 1.0}),
    ]:
        state = TrainerState(global_step=step, max_steps=10_000, is_world_process_zero=True)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            monitor.on_log(args, state, None, logs=logs)
        counts.append(len(caplog.records))
    assert counts == [0, 1, 0, 0, 1, 0]


def test_an_upload_finds_no_checkpoint_that_is_being_removed(tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(tokenizer, tmp_path, max_steps=4, save_strategy="steps", save_steps=2, save_total_limit=1)
    found = []
    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    monkeypatch.setattr(
        trainer, "send_checkpoint", lambda _: found.append([path.name for path in tmp_path.glob("checkpoint-*")])
    )
    trainer.train()
    assert found == [["checkpoint-2"], ["checkpoint-4"]]
