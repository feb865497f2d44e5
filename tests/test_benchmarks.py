"""The benchmarks are run by hand: here only that they still run, and that what they compare does the same work."""

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from trainer_examples import word_tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import data
import ladder
import pieces
import step

from span_electra.common.errors import InputError
from span_electra.configuration_span_electra import SpanElectraConfig
from span_electra.pretraining.arguments import parse_arguments
from span_electra.pretraining.electra_pair import settle_config
from span_electra.pretraining.model_files import read_config, read_overrides
from span_electra.tokenization.create_features import create_features, load_features

SETTING = step.Setting("tiny", length=24, vocab_size=300, batch=2, precision="fp32", dropout=0.1, device="cpu")


@pytest.mark.parametrize("family", step.FAMILIES)
def test_all_contestants_of_the_step_have_the_same_losses(family):
    losses = step.check_losses(replace(SETTING, family=family))
    assert {step.NAIVE, step.OURS, step.TOKEN_OBJECTIVES} <= losses.keys()
    assert len({round(loss, 3) for loss in losses.values()}) == 1


def test_other_work_is_not_timed(monkeypatch):
    forward = step.Naive.forward
    monkeypatch.setattr(step.Naive, "forward", lambda self, **batch: 1.001 * forward(self, **batch))
    with pytest.raises(SystemExit, match="not the same work"):
        step.check_losses(SETTING)


@pytest.mark.slow
@pytest.mark.parametrize("family", step.FAMILIES)
def test_a_step_of_each_contestant_is_timed_and_counted(family):
    rows = step.measure(replace(SETTING, family=family), rounds=1, compiled=False, memory=False)
    assert all(row["seconds"] > 0 and row["flops"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1 and rows[-1]["contestant"] == step.OURS
    assert step.measure_packing(SETTING, rounds=1).keys() == {"padded", "several to a row"}
    shares = step.profile_step(SETTING, steps=1)
    assert sum(shares.values()) == pytest.approx(1) and shares["linear layers"] > 0


def test_every_collator_is_timed():
    speeds = data.bench_collation(rows=2, length=32, vocabulary_size=300, rounds=1)
    assert len(speeds) == 4 and min(speeds.values()) > 0


def test_the_way_from_the_disk_to_batches_is_timed_with_and_without_a_worker():
    speeds = data.bench_loader((0, 1), rows=2, length=32, batches=6, rounds=1)
    assert speeds.keys() == {0, 1} and min(speeds.values()) > 0


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A folder of features, and their tokenizer."""
    folder = tmp_path_factory.mktemp("features")
    lines = [" ".join(f"w{i * j * j % 94}" for j in range(5 + i % 20)) for i in range(2000)]
    (folder / "text.txt").write_text("\n".join(lines))
    tokenizer = word_tokenizer()
    create_features(folder / "text.txt", tokenizer, folder / "rows", max_seq_length=32)
    return folder / "rows", tokenizer


def test_pieces_are_small_enough_and_come_together_again(features, tmp_path):
    rows, tokenizer = features
    packed = pieces.pack(rows, tmp_path / "pieces", megabytes=0.01)
    assert len(packed) > 1 and max(piece.stat().st_size for piece in packed) <= 10_000
    pieces.unpack(tmp_path / "pieces", tmp_path / "again")
    expected, again = (list(load_features(folder, tokenizer)["input_ids"]) for folder in (rows, tmp_path / "again"))
    assert again == expected


def test_a_missing_piece_is_named(features, tmp_path):
    packed = pieces.pack(features[0], tmp_path / "pieces", megabytes=0.01)
    packed[1].unlink()
    with pytest.raises(SystemExit, match=rf"{packed[1].name} is missing; carry all"):
        pieces.unpack(tmp_path / "pieces", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    packed[0].rename(packed[0].with_name("piece-0000-of-0099.parquet"))
    with pytest.raises(SystemExit, match="holds pieces of several packs"):
        pieces.unpack(tmp_path / "pieces", tmp_path / "again")


@pytest.mark.parametrize("action", ["pack", "unpack"])
def test_pieces_replace_nothing(features, tmp_path, action):
    pieces.pack(features[0], tmp_path / "pieces", megabytes=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("my only copy")
    with pytest.raises(InputError, match=r"already holds something else \(thesis\.txt\)"):
        if action == "pack":
            pieces.pack(features[0], tmp_path / "mine", megabytes=1)
        else:
            pieces.unpack(tmp_path / "pieces", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "my only copy"


SWEEPS = list(yaml.safe_load(ladder.SWEEPS.read_text()))


def climbing(size, tmp_path, **options):
    defaults = {
        "sweep": None,
        "only": None,
        "only_tasks": None,
        "steps": None,
        "minutes": None,
        "jobs": 1,
        "seeds": [0],
    }
    path = ladder.HERE / f"{size}.yaml"
    return ladder.Ladder(Namespace(**defaults | options, size=path, output_dir=tmp_path, tasks=tmp_path / "tasks"))


@pytest.mark.parametrize(
    ("size", "sweep"), [("cpu", None), ("gpu", None), ("hour", None), ("sweep", SWEEPS), ("gpu", SWEEPS)]
)
def test_every_rung_of_every_size_is_another_recipe_that_pretraining_takes(size, sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runs = climbing(size, tmp_path, sweep=sweep)
    recipes = {}
    monkeypatch.setattr(runs, "call", lambda module, log: recipes.update({module[1].stem: module[1]}))
    runs.tokenizer, runs.features = tmp_path / "tokenizer", tmp_path / "features"
    runs.folder.mkdir()
    seen = set()
    for name in runs.rungs:
        runs.pretrain(name, 0, runs.run_folder(name, 0))
        model, data, training = parse_arguments([str(recipes[f"{name}-seed0"])])
        settings = settle_config(
            model.config, read_config(model.config), read_overrides(model.config_overrides), data, word_tokenizer()
        )
        config = SpanElectraConfig(**settings, vocab_size=99)
        seen.add(json.dumps([config.to_dict(), vars(data), training.max_grad_norm]))
    assert len(seen) == len(runs.rungs)


@pytest.mark.parametrize(("part", "setting"), [("pretraining", "learning_rate"), ("finetuning", "num_train_epochs")])
def test_a_run_made_with_other_settings_is_neither_gone_on_from_nor_reported(tmp_path, monkeypatch, part, setting):
    tasks = {"sst2": {}}

    def climb(value):
        runs = climbing("cpu", tmp_path, finetuning_seeds=2)
        runs.size["tasks"] = tasks
        runs.size[part][setting] = value
        monkeypatch.setattr(runs, "call", lambda module, log: None)
        runs.tokenizer, runs.features = tmp_path / "tokenizer", tmp_path / "features"
        runs.folder.mkdir(exist_ok=True)
        runs.climb("1_electra", 0)

    climb(0.5)
    climb(0.5)
    with pytest.raises(SystemExit, match=f"{setting} 0.5 then, 0.25 now.*1_electra-seed0"):
        climb(0.25)
    recipes = tmp_path / "cpu" / f"1_electra-seed0{'-sst2' if part == 'finetuning' else ''}.yaml"
    recipes.write_text(recipes.read_text() + "weight_decay: 0.5\n")
    with pytest.raises(SystemExit, match=r"\(weight_decay 0.5 then, None now\)"):
        climb(0.5)


def test_a_run_that_fails_keeps_others_from_beginning(tmp_path, monkeypatch):
    runs, begun = climbing("cpu", tmp_path), []

    def climb(name, seed):
        begun.append(name)
        time.sleep(0.2)
        sys.exit("failed")

    monkeypatch.setattr(runs, "climb", climb)
    with pytest.raises(SystemExit, match="failed"):
        runs.climb_all(runs.rungs)
    assert len(begun) <= 2 < len(runs.rungs)


def write_results(runs, name, tasks):
    run = runs.run_folder(name, 0)
    for task, values in tasks.items():
        output = run.with_name(f"{run.name}-{task}")
        output.mkdir(parents=True)
        seeds = [{"metrics": {ladder.TASKS[task][1]: value}} for value in values]
        (output / "results.json").write_text(json.dumps({"seeds": seeds, "collapsed": 1, "baseline": {}}))
        (runs.options.tasks / task).mkdir(parents=True, exist_ok=True)
        (runs.options.tasks / task / "dev.jsonl").write_text("{}\n" * 400)


def test_means_are_of_the_tasks_that_every_rung_has(tmp_path):
    runs = climbing("cpu", tmp_path)
    write_results(runs, "0_mlm", {"sst2": [0.7, 0.8, 0.5], "rte": [0.6, 0.5, 0.4]})
    write_results(runs, "1_electra", {"sst2": [0.9, 0.8, 0.7]})
    first, second = runs.results()
    assert (first["tasks"]["sst2"]["median"], first["mean"], second["mean"]) == (70, 70, 80)
    shown = ladder.table([first, second], "python ladder.py")
    assert "70.0 (50.0 to 80.0), 1 collapsed" in shown and "± 4.5 (95 %)" in shown
    probes = {name: ladder.spread([0.25, 0.75, 0.5]) for name in ladder.PROBES[1:]}
    probes[ladder.PROBES[0]] = ladder.spread([30.0])
    trained = {**second, "tokens": 10**6, "flops": 1, "tokens_per_second": 1, "probes": probes, "pretraining_seeds": 3}
    shown = ladder.table([first, trained], "python ladder.py")
    assert "| 30 | 0.500 (0.250 to 0.750) |" in shown and "of 3 seeds of pretraining" in shown
    ladder.picture([first, second], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.slow
def test_intervals_hold_the_true_score_as_often_as_they_say():
    chance, count, runs = np.random.default_rng(1), 200, 2000
    normal = 2 * np.sin(0.85 * np.pi / 6)  # the correlation of normal variates whose ranks have one of 0.85
    held = {"spearmanr": 0, "accuracy": 0}
    for _ in range(runs):
        first, noise = chance.standard_normal((2, count))
        ranks = stats.spearmanr(first, normal * first + np.sqrt(1 - normal**2) * noise).statistic
        for metric, true, score in (("spearmanr", 85, ranks), ("accuracy", 80, chance.binomial(count, 0.8) / count)):
            low, high = ladder.interval(metric, score, count)
            held[metric] += low <= true <= high
    assert all(0.94 < times / runs < 0.97 for times in held.values()), held
