"""Checkpoints: whole or not there, verified before use, kept until the next is whole, gone on from exactly."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainer_examples import make_trainer, rows, tiny_model
from transformers import TrainerCallback, TrainingArguments

from span_electra import SpanElectraForPreTraining
from span_electra.common.errors import InputError
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.trainer import SpanElectraTrainer
from span_electra.training import checkpoint_folders
from span_electra.training import checkpointing_trainer as checkpointing
from span_electra.training import shutdown as processes
from span_electra.training.checkpoint_folders import (
    ASIDE,
    MANIFEST,
    damage,
    file_digest,
    find_checkpoint,
    seal,
    sealed_facts,
)
from span_electra.training.checkpointing_trainer import SaveError
from span_electra.training.resuming import check_same_run, run_facts
from span_electra.training.shutdown import InterruptedRun

# The forked workers of a DataLoader are warned of by Python 3.12 and later, as this process has threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}


@pytest.fixture
def finished(tokenizer, tmp_path):
    """A run's folder with checkpoints of steps 2, 4 and 6."""
    make_trainer(tokenizer, tmp_path / "run", **SAVING | {"save_total_limit": None}).train()
    return tmp_path / "run"


# --- torn ---------------------------------------------------------------------------------------------------------


def truncate(path):
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "weights cut short": (
        lambda folder: truncate(folder / "model.safetensors"),
        r"model\.safetensors has .* bytes of",
    ),
    "optimizer cut short": (lambda folder: truncate(folder / "optimizer.pt"), r"optimizer\.pt has .* bytes of"),
    "a bit of the weights": (lambda folder: flip_a_bit(folder / "model.safetensors"), "is not what was written"),
    "no scheduler": (lambda folder: (folder / "scheduler.pt").unlink(), r"scheduler\.pt is missing"),
    "half written": (lambda folder: (folder / MANIFEST).unlink(), "was never finished"),
    "manifest cut short": (lambda folder: truncate(folder / MANIFEST), "cannot be read"),
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], "was never finished"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_by_name_and_refused_when_named(finished, caplog, case):
    harm, reason = DAMAGES[case]
    harm(finished / "checkpoint-6")
    with caplog.at_level("WARNING", logger="span_electra.training.checkpoint_folders"):
        assert find_checkpoint(finished, "true").name == "checkpoint-4"
    assert re.search(rf"Skipped .*checkpoint-6: .*{reason}", caplog.text)
    with pytest.raises(InputError, match=rf"checkpoint-6: not a usable checkpoint, .*{reason}"):
        find_checkpoint(finished, str(finished / "checkpoint-6"))


def test_a_folder_that_is_not_there_is_refused_as_such(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: not a usable checkpoint, there is no such folder"):
        find_checkpoint(tmp_path, str(tmp_path / "nowhere"))


def test_the_trainer_itself_passes_over_a_damaged_checkpoint(finished, tokenizer):
    truncate(finished / "checkpoint-6" / "model.safetensors")
    trainer = make_trainer(tokenizer, finished, model=tiny_model())
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.batches) == 2  # from step 4 on


def test_where_no_checkpoint_is_whole_each_is_named(finished):
    for step in (2, 4, 6):
        (finished / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"those in .* are damaged \(checkpoint-6: .*checkpoint-4: .*checkpoint-2: "):
        find_checkpoint(finished, "true")


def test_everything_in_a_checkpoint_is_in_its_manifest(finished):
    names = {path.name for path in (finished / "checkpoint-4").iterdir()} - {MANIFEST, "training_args.bin"}
    assert set(json.loads((finished / "checkpoint-4" / MANIFEST).read_text())["files"]) == names
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "accumulators_0.safetensors"} <= names
    assert damage(finished / "checkpoint-4") is None and not (finished / ASIDE).exists()


def test_who_goes_on_with_fewer_processes_takes_over_what_the_others_had_counted(finished, tokenizer):
    name = finished / "checkpoint-4" / "accumulators_{}.safetensors"
    own = {key: torch.full_like(value, 3) for key, value in load_file(str(name).format(0)).items()}
    for writer, factor in ((0, 1), (1, 10)):
        save_file({key: factor * value for key, value in own.items()}, str(name).format(writer))
    trainer = make_trainer(tokenizer, finished)
    for _ in range(2):
        trainer.load_process_state(finished / "checkpoint-4")
        for key, tensor in trainer.resumable_tensors.items():
            assert torch.equal(tensor, 11 * own[key]), key


def test_a_checkpoint_from_the_hub_which_gets_no_pickled_arguments_is_whole(finished):
    (finished / "checkpoint-4" / "training_args.bin").unlink()
    assert damage(finished / "checkpoint-4") is None


def test_the_newest_is_the_one_that_was_written_last(finished, tokenizer):
    trainer = make_trainer(tokenizer, finished, **SAVING | {"save_steps": 3, "save_total_limit": None, "max_steps": 3})
    trainer.train(resume_from_checkpoint=str(finished / "checkpoint-2"))
    assert sorted(path.name for path in finished.glob("checkpoint-*"))[-1] == "checkpoint-6"
    assert find_checkpoint(finished, "true").name == "checkpoint-3"


def test_a_checkpoint_of_before_manifests_had_a_time_is_older_than_one_with_it(finished):
    manifest = finished / "checkpoint-6" / MANIFEST
    manifest.write_text(json.dumps({"files": json.loads(manifest.read_text())["files"]}))
    assert find_checkpoint(finished, "true").name == "checkpoint-4"


def test_a_checkpoint_that_the_disk_cannot_read_is_passed_over(finished, monkeypatch):
    def failing(path):
        if path.parent.name == "checkpoint-6":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return file_digest(path)

    monkeypatch.setattr(checkpoint_folders, "file_digest", failing)
    assert re.search(r"cannot be read \(Input/output error\)", damage(finished / "checkpoint-6"))
    assert find_checkpoint(finished, "true").name == "checkpoint-4"


# --- the next before the last goes -------------------------------------------------------------------------------


class Killed(BaseException):
    """What no `except Exception` stops, as no kill is stopped."""


@pytest.mark.parametrize("place", ["_save_optimizer_and_scheduler", "_save_rng_state", "seal", "move_into_place"])
def test_a_run_killed_while_it_saves_keeps_its_only_checkpoint(tokenizer, tmp_path, monkeypatch, place):
    trainer = make_trainer(tokenizer, tmp_path, **SAVING)
    owner = checkpointing if hasattr(checkpointing, place) else trainer
    original = getattr(owner, place)

    def killed_at_the_second(*args, **kwargs):
        if trainer.state.global_step == 4:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, place, killed_at_the_second)
    with pytest.raises(Killed):
        trainer.train()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert damage(tmp_path / "checkpoint-2") is None
    again = make_trainer(tokenizer, tmp_path, model=tiny_model(), **SAVING)
    again.train(resume_from_checkpoint=str(find_checkpoint(tmp_path, "true")))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    assert not (tmp_path / ASIDE).exists()


def test_what_a_killed_run_left_unfinished_goes_at_the_next_start(tokenizer, tmp_path):
    (tmp_path / ASIDE / "checkpoint-3").mkdir(parents=True)
    (tmp_path / ASIDE / "checkpoint-3" / "optimizer.pt").write_text("half")
    make_trainer(tokenizer, tmp_path, **SAVING).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]


def test_a_damaged_checkpoint_gives_way_to_the_one_that_is_written_anew(finished, tokenizer):
    truncate(finished / "checkpoint-6" / "optimizer.pt")
    (finished / "checkpoint-6" / "of_the_damaged").write_text("")
    make_trainer(tokenizer, finished, model=tiny_model(), **SAVING).train(resume_from_checkpoint=True)
    assert damage(finished / "checkpoint-6") is None
    assert not (finished / "checkpoint-6" / "of_the_damaged").exists()


def test_only_what_a_run_wrote_is_rotated_and_what_is_torn_goes_first(finished, tokenizer, tmp_path):
    for name in ("checkpoint-4-backup", "checkpoint-keep", "checkpoint-²"):
        shutil.copytree(finished / "checkpoint-4", finished / name)
    (finished / "checkpoint-2").rename(tmp_path / "elsewhere")
    (finished / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
    (finished / "checkpoint-4" / "optimizer.pt").unlink()  # as a removal does that was killed
    trainer = make_trainer(tokenizer, finished, **SAVING | {"save_total_limit": 3, "max_steps": 8})
    trainer.train(resume_from_checkpoint=True)
    copies = {"checkpoint-4-backup", "checkpoint-keep", "checkpoint-²"}
    assert {path.name for path in finished.glob("checkpoint-*")} == copies | {
        "checkpoint-2",
        "checkpoint-6",
        "checkpoint-8",
    }
    checkpoint_folders.rotate(finished, 1, {"checkpoint-8"})
    assert not (finished / "checkpoint-2").is_symlink() and damage(tmp_path / "elsewhere") is None


def test_a_clock_that_is_set_back_makes_no_checkpoint_older(finished, tokenizer, monkeypatch):
    monkeypatch.setattr(checkpoint_folders.time, "time", lambda: 1e9)
    trainer = make_trainer(tokenizer, finished, **SAVING | {"max_steps": 10})
    trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in finished.glob("checkpoint-*")] == ["checkpoint-10"]
    assert checkpoint_folders.time_written(finished / "checkpoint-10") > 1e9 + 1


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_reported_and_training_goes_on(tokenizer, tmp_path, caplog, monkeypatch):
    trainer = make_trainer(tokenizer, tmp_path, **SAVING)
    save = trainer._save_optimizer_and_scheduler
    monkeypatch.setattr(
        trainer,
        "_save_optimizer_and_scheduler",
        lambda folder: full_disk() if trainer.state.global_step == 4 else save(folder),
    )
    with caplog.at_level("ERROR"):
        trainer.train()
    assert re.search(r"checkpoint-4 could not be written .*No space left.*--stop_on_save_error", caplog.text)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_full_disk_stops_the_run_where_that_is_asked_for(tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(tokenizer, tmp_path, stop_on_save_error=True, **SAVING)
    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full_disk)
    with pytest.raises(SaveError, match=r"No space left .* --resume_from_checkpoint true"):
        trainer.train()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_really_full(finished, tokenizer, tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    checkpoint = sum(4096 + path.stat().st_size // 4096 * 4096 for path in (finished / "checkpoint-2").iterdir())
    size = f"size={checkpoint * 5 // 2}"  # two find room, the third does not
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        trainer = make_trainer(tokenizer, disk, **SAVING | {"save_total_limit": None})
        caplog.clear()
        with caplog.at_level("ERROR"):
            trainer.train()
        assert "checkpoint-6 could not be written" in caplog.text
        assert sorted(path.name for path in disk.iterdir()) == ["checkpoint-2", "checkpoint-4"]
        assert find_checkpoint(disk, "true").name == "checkpoint-4"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_best_checkpoint_is_known_by_its_final_name(tokenizer, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    trainer = make_trainer(tokenizer, tmp_path, **SAVING, **best, eval_strategy="steps", eval_steps=2)
    trainer.train()
    name = f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(tmp_path / name)
    state = json.loads((tmp_path / name / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / name) and damage(tmp_path / name) is None


def test_the_best_checkpoint_outlives_newer_ones(tokenizer, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1.0}
    trainer = make_trainer(tokenizer, tmp_path, **SAVING | {"save_total_limit": 1}, **best, warmup_steps=3)
    trainer.train()
    assert trainer.state.best_global_step == 2 and (tmp_path / "checkpoint-2").is_dir()


def test_the_best_evaluation_that_left_no_checkpoint_is_not_taken_for_the_weights(tokenizer, tmp_path):
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}
    settings |= SAVING | {"max_steps": 4, "learning_rate": 1.0, "warmup_steps": 1}
    trainer = make_trainer(tokenizer, tmp_path, **settings)
    trainer.train()
    assert trainer.state.best_global_step == 1  # between two checkpoints
    assert trainer.state.best_model_checkpoint is None and trainer.kept_step() == 4


class FullDiskAtUpload(TrainerCallback):
    def on_push_begin(self, args, state, control, **kwargs):
        full_disk()


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_upload_costs_no_step(tokenizer, tmp_path, caplog):
    trainer = make_trainer(tokenizer, tmp_path, **SAVING)
    trainer.add_callback(FullDiskAtUpload())
    trainer.args.push_to_hub, trainer.push_in_progress = True, None
    with caplog.at_level("ERROR"):
        trainer.train()
    assert re.search(r"checkpoint-2 could not be prepared for upload .*No space left", caplog.text)
    assert trainer.state.global_step == 6 and find_checkpoint(tmp_path, "true").name == "checkpoint-6"


def test_the_model_of_an_earlier_stop_stays_whole_until_the_next_is(tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(tokenizer, tmp_path)
    trainer.save_model()
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(trainer.processing_class, "save_pretrained", full_disk)
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1)
    with pytest.raises(OSError, match="No space"):
        trainer.save_model()
    assert (tmp_path / "model.safetensors").read_bytes() == before


# --- as if never interrupted --------------------------------------------------------------------------------------

TIMES = ("runtime", "per_second", "_time")


def history(trainer):
    """The log without what depends on the clock; as text, since what is not a number equals nothing."""
    entries = [{k: str(v) for k, v in e.items() if not any(t in k for t in TIMES)} for e in trainer.state.log_history]
    return [entry for entry in entries if entry.keys() - {"step", "epoch", "total_flos"}]


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 5))])
def test_weights_and_history_are_those_of_the_run_that_was_never_interrupted(
    tokenizer,
    tmp_path,
    step,
    workers,
    accumulated,
):
    settings = {"count": 12, "logging_steps": 4, "save_strategy": "steps", "save_steps": 1}
    settings |= {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulated}
    settings |= {"per_device_train_batch_size": 4 // accumulated, "eval_strategy": "steps", "eval_steps": 2}
    whole = make_trainer(tokenizer, tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name
    assert history(resumed) == history(whole)


def test_a_finished_run_that_is_resumed_takes_no_further_step(tokenizer, tmp_path):
    settings = SAVING | {"max_steps": 4, "lr_scheduler_type": "constant"}  # 4 steps end inside an epoch of 6
    whole = make_trainer(tokenizer, tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.batches == [] and history(resumed) == history(whole)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_alarms_that_were_given_are_not_given_again_after_a_resumption(tokenizer, tmp_path):
    class Alarmed(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            monitor_of(trainer).alarms = ["auc"]

    def monitor_of(trainer):
        return next(cb for cb in trainer.callback_handler.callbacks if type(cb).__name__ == "LearningMonitor")

    trainer = make_trainer(tokenizer, tmp_path, **SAVING)
    trainer.add_callback(Alarmed())
    trainer.train()
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert monitor_of(resumed).alarms == ["auc"]


def test_the_rows_of_an_update_are_those_of_all_processes(tokenizer, tmp_path, monkeypatch):
    args = make_trainer(tokenizer, tmp_path).args
    monkeypatch.setattr(type(args), "world_size", property(lambda self: 2))
    assert run_facts(args, rows(24))["rows_per_update"] == 8


def test_a_run_of_other_rows_may_not_resume(tokenizer, tmp_path):
    seal(tmp_path, **run_facts(make_trainer(tokenizer, tmp_path / "a").args, rows(24)), parameters="")
    same = make_trainer(tokenizer, tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    check_same_run(tmp_path, run_facts(same.args, rows(24)))
    mirrored = rows(24).map(lambda row: {"input_ids": row["input_ids"][::-1]})
    with pytest.raises(InputError, match="its run had content "):
        check_same_run(tmp_path, run_facts(same.args, mirrored))
    for count, settings, text in (
        (24, {"per_device_train_batch_size": 8}, "rows_per_update 4, this one 8"),
        (25, {}, "rows 24, this one 25"),
        (24, {"seed": 1}, "seed 0, this one 1"),
        (24, {"optim": "adafactor"}, "optim adamw_torch_fused, this one adafactor: its state would not fit"),
        (24, {"dataloader_drop_last": True}, "dataloader_drop_last False, this one True"),
        (24, {"train_sampling_strategy": "sequential"}, "train_sampling_strategy random, this one sequential"),
    ):
        other = make_trainer(tokenizer, tmp_path / "c", **settings)
        with pytest.raises(InputError, match=text):
            check_same_run(tmp_path, run_facts(other.args, rows(count)))


def test_a_run_that_trains_other_parameters_does_not_resume(finished, tokenizer):
    trainer = make_trainer(tokenizer, finished, max_steps=8, model=tiny_model())
    trainer.model.electra.embeddings.requires_grad_(False)
    with pytest.raises(InputError, match=r"its run had parameters \w+, this one \w+: its state would not fit"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("older", [{"masking_version": 2}, {"parameters": None}])
def test_runs_of_earlier_versions_do_not_resume(finished, tokenizer, tmp_path, older):
    checkpoint = shutil.copytree(finished / "checkpoint-6", tmp_path / "checkpoint-6")
    facts = sealed_facts(checkpoint) | older
    seal(checkpoint, **{name: value for name, value in facts.items() if value is not None or name not in older})
    trainer = make_trainer(tokenizer, tmp_path, max_steps=8)
    with pytest.raises(InputError, match=r"checkpoint-6: was written by a version .*--model_name_or_path"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mask_ratio": 0.3}, "mask_ratio 0.15, this one 0.3: it would mask in another way"),
        ({"whole_words": False}, "whole_words True, this one False"),
        ({"max_span_words": 3}, "max_span_words 10, this one 3"),
        ({"random_token_share": 0.0}, "random_token_share 0.1, this one 0.0"),
        ({"seed": 7}, "collator_seed 0, this one 7"),
    ],
)
def test_a_trainer_that_masks_in_another_way_does_not_resume(finished, tokenizer, changes, text):
    trainer = make_trainer(tokenizer, finished, max_steps=8)
    collator = DataCollatorForSpanMasking(tokenizer, **{"seed": 0} | changes)
    args, data = trainer.args, trainer.train_dataset
    other = SpanElectraTrainer(model=tiny_model(), args=args, train_dataset=data, data_collator=collator)
    with pytest.raises(InputError, match=text):
        other.train(resume_from_checkpoint=True)


def test_a_trainer_with_another_seed_does_not_resume(finished, tokenizer):
    with pytest.raises(InputError, match="seed 0, this one 1: some rows would come twice"):
        make_trainer(tokenizer, finished, max_steps=8, seed=1).train(resume_from_checkpoint=True)


# --- what is this run's --------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_by_its_own_settings(tokenizer, tmp_path):
    make_trainer(tokenizer, tmp_path, max_steps=4, learning_rate=1e-3, **SAVING).train()
    settings = {"learning_rate": 1e-5, "weight_decay": 0.3, "logging_steps": 1, "adam_beta2": 0.9}
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), max_steps=8, warmup_steps=0, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    rates = {entry["step"]: entry["learning_rate"] for entry in resumed.state.log_history if "learning_rate" in entry}
    assert [rates[step] for step in (5, 6, 7, 8)] == pytest.approx([5e-6 * left / 4 for left in (4, 3, 2, 1)])
    decayed, spared = resumed.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"], decayed["betas"]) == (0.3, 0.0, (0.9, 0.9))


def test_a_copy_of_a_checkpoint_is_its_owners(tokenizer, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, **SAVING}
    make_trainer(tokenizer, tmp_path, max_steps=2, **best).train()
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-2-mine")
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), **best)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2-mine", "checkpoint-6"}


def test_the_best_checkpoint_moves_with_its_run(tokenizer, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 0.3}
    best |= SAVING | {"save_total_limit": None, "max_steps": 4}
    make_trainer(tokenizer, tmp_path / "run", **best).train()
    (tmp_path / "run").rename(tmp_path / "moved")
    resumed = make_trainer(tokenizer, tmp_path / "moved", model=tiny_model(), **best)
    resumed.train(resume_from_checkpoint=str(tmp_path / "moved" / "checkpoint-4"))
    kept = tmp_path / "moved" / f"checkpoint-{resumed.kept_step()}"
    assert resumed.state.best_model_checkpoint == str(kept) and kept.name == "checkpoint-2"
    expected = SpanElectraForPreTraining.from_pretrained(kept).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in resumed.model.state_dict().items())


@pytest.mark.slow
def test_a_resumption_with_workers_that_persist_is_exact(tokenizer, tmp_path):
    settings = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "count": 12, "max_steps": 9}
    settings |= SAVING | {"save_steps": 4, "save_total_limit": None}
    whole = make_trainer(tokenizer, tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tokenizer, tmp_path, model=tiny_model(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_the_trainers_own_arguments_outlive_a_disk_that_is_full(tokenizer, tmp_path):
    args = TrainingArguments(str(tmp_path), max_steps=2, save_steps=1, use_cpu=True, report_to="none")
    collator = DataCollatorForSpanMasking(tokenizer)
    trainer = SpanElectraTrainer(model=tiny_model(), args=args, train_dataset=rows(24), data_collator=collator)
    (tmp_path / ASIDE).write_text("in the way")  # of a folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        trainer.train()
    assert trainer.state.global_step == 2 and not list(tmp_path.glob("checkpoint-*"))


# --- signals ------------------------------------------------------------------------------------------------------


class Send(TrainerCallback):
    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_ends_the_run_after_a_checkpoint_that_goes_on_exactly(tokenizer, tmp_path, number):
    whole = make_trainer(tokenizer, tmp_path / "whole")
    whole.train()
    stopped = make_trainer(tokenizer, tmp_path / "run", model=tiny_model())
    stopped.add_callback(Send(number, step=3))
    before = [signal.getsignal(number) for number in processes.STOP_SIGNALS]
    name = signal.Signals(number).name
    with pytest.raises(InterruptedRun, match=rf"{name} after step 4 of 6\. .*--resume_from_checkpoint true") as caught:
        stopped.train()
    assert caught.value.signal == number
    assert [signal.getsignal(number) for number in processes.STOP_SIGNALS] == before
    resumed = make_trainer(tokenizer, tmp_path / "run", model=tiny_model())
    resumed.train(resume_from_checkpoint=str(find_checkpoint(tmp_path / "run", "true")))
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_signals_are_given_back_when_training_fails(tokenizer, tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in processes.STOP_SIGNALS]
    trainer = make_trainer(tokenizer, tmp_path)
    monkeypatch.setattr(trainer, "compute_loss", full_disk)
    with pytest.raises(OSError, match="No space"):
        trainer.train()
    assert [signal.getsignal(number) for number in processes.STOP_SIGNALS] == before


def test_a_run_in_another_thread_leaves_signals_alone(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(trainer.train).result()
    assert trainer.state.global_step == 6


class SendToWorkers(TrainerCallback):
    """What a launcher does: it signals the process and the data workers."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            signalled = [str(process.pid) for process in (*workers, multiprocessing.current_process())]
            subprocess.run(["kill", "-TERM", *signalled], check=True)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="a system that does not tell who sends a signal")
def test_a_signal_to_the_data_workers_too_ends_the_run_after_a_checkpoint(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, count=60, max_steps=12, dataloader_num_workers=2)
    trainer.add_callback(SendToWorkers())
    with pytest.raises(InterruptedRun, match=r"after step 3 of 12\. Nothing is lost: .* at checkpoint-3\."):
        trainer.train()


LEAVES_WORKERS = """
import sys
from torch.utils.data import DataLoader
from span_electra.training.shutdown import ignore_stop_signals
if __name__ == "__main__":
    method = sys.argv[1]
    batches = iter(
        DataLoader(range(1000), num_workers=2, worker_init_fn=ignore_stop_signals, multiprocessing_context=method)
    )
    next(batches)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_that_leaves_data_workers_behind_ends(method, tmp_path):
    script = tmp_path / "leaves_workers.py"
    script.write_text(LEAVES_WORKERS)
    subprocess.run([sys.executable, script, method], check=True, timeout=120)


class SendInEvaluation(TrainerCallback):
    def on_prediction_step(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_during_an_evaluation_costs_no_further_step(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=5)
    trainer.add_callback(SendInEvaluation())
    with pytest.raises(InterruptedRun, match=r"after step 2 of 6\. Nothing is lost"):
        trainer.train()
    assert (tmp_path / "checkpoint-2" / MANIFEST).is_file()


def test_a_signal_during_an_evaluation_is_saved_where_only_the_best_is(tokenizer, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "learning_rate": 1.0}
    trainer = make_trainer(tokenizer, tmp_path, **settings, warmup_steps=1)  # at step 2 it is worse
    trainer.add_callback(SendInEvaluation())
    with pytest.raises(InterruptedRun, match=r"after step 2 of 6\. Nothing is lost"):
        trainer.train()
    assert trainer.state.best_global_step == 1
    assert (tmp_path / "checkpoint-2" / MANIFEST).is_file()


def test_what_a_signal_and_a_full_disk_leave_is_said(tokenizer, tmp_path, monkeypatch):
    for name, saves, text in (
        ("none", False, "No checkpoint was written"),
        ("one", True, "The steps after checkpoint-2 are lost"),
    ):
        trainer = make_trainer(tokenizer, tmp_path / name, **SAVING if saves else {})
        trainer.add_callback(Send(signal.SIGTERM, step=2))
        save = trainer._save_rng_state
        monkeypatch.setattr(
            trainer,
            "_save_rng_state",
            lambda *args, t=trainer, s=save: (full_disk if t.state.global_step > 2 else s)(*args),
        )
        with pytest.raises(InterruptedRun, match=rf"after step 3 of 6\. .*{text}"):
            trainer.train()


def test_a_signal_after_the_last_step_leaves_a_finished_run(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    trainer.add_callback(Send(signal.SIGTERM, step=5))
    trainer.train()
    assert trainer.state.global_step == 6


def test_a_process_that_is_forked_off_and_inherits_the_handlers_ends_at_once(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    with trainer.stop_on_signal.listening():
        worker = os.fork()
        if worker == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


def test_a_signal_that_a_launcher_repeats_is_one(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path)
    trainer.add_callback(Send(signal.SIGINT, step=3))
    trainer.add_callback(Send(signal.SIGTERM, step=3))
    with pytest.raises(InterruptedRun, match="Stopped by SIGINT after step 4"):
        trainer.train()


def test_a_second_signal_ends_the_run_at_once(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "REPEATED_WITHIN", 0.0)
    trainer = make_trainer(tokenizer, tmp_path)
    trainer.add_callback(Send(signal.SIGINT, step=3))
    trainer.add_callback(Send(signal.SIGINT, step=3))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert list(tmp_path.glob("checkpoint-*")) == []


# --- nothing in a checkpoint is run ------------------------------------------------------------------------------


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_that_would_run_code_is_refused_unread(finished, tokenizer, name):
    trace = finished / "was_run"
    checkpoint = finished / "checkpoint-4"
    torch.save(Malicious(trace), checkpoint / name)
    torch.load(checkpoint / name, weights_only=False).close()
    assert trace.exists()  # the trap works
    trace.unlink()
    seal(checkpoint, **sealed_facts(checkpoint))  # as an attacker would
    resumed = make_trainer(tokenizer, finished, model=tiny_model())
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert not trace.exists()


def test_pickled_arguments_beside_the_weights_are_never_read(finished, tokenizer):
    trace = finished / "was_run"
    torch.save(Malicious(trace), finished / "checkpoint-4" / "training_args.bin")
    seal(finished / "checkpoint-4", **sealed_facts(finished / "checkpoint-4"))
    make_trainer(tokenizer, finished, model=tiny_model()).train(resume_from_checkpoint=str(finished / "checkpoint-4"))
    assert not trace.exists()
