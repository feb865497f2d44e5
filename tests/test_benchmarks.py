"""The benchmarks are run by hand: here only that they still run, and that what they compare does the same work."""

import json
import random
import re
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
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import data
import going_on
import ladder
import ladder_report
import pieces
import readme_table
import step
import time_to_quality

from span_electra.common.errors import InputError
from span_electra.pretraining.arguments import parse_arguments
from span_electra.pretraining.model import build_model
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


@pytest.mark.slow
def test_going_on_from_an_encoder_is_measured_once(tmp_path, monkeypatch, capsys):
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path / "bert")
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=64, max_position_embeddings=64)).save_pretrained(tmp_path / "bert")
    words = np.random.default_rng(0).integers(94, size=(200, 30))
    lines = [" ".join(f"w{word}" for word in row) for row in words]
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    pairs = [{"sentence1": lines[i - 1], "sentence2": line, "label": i} for i, line in enumerate(lines)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    options = ["--encoder", "bert", "--text", "text.txt", "--pairs", "pairs.jsonl", "--output_dir", "out"]
    options += ["--steps", "10", "--measure_at", "0", "2", "--variants", "one_rate", "separate_0.1_zero_heads"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["going_on.py", *options])
    going_on.main()
    assert capsys.readouterr().out.count("| 2 |") == 2
    start = json.loads((tmp_path / "out" / "separate_0.1_zero_heads.json").read_text())["0"]
    assert start["discriminator_auc"] == 0.5  # a head of zeros says nothing
    monkeypatch.setattr(going_on, "train", None)  # complete: not run again
    going_on.main()
    assert "| separate_0.1_zero_heads | 2 |" in capsys.readouterr().out


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


SIZES = sorted(path.stem for path in ladder.HERE.glob("*.yaml"))


def climbing(size, tmp_path, **options):
    defaults = dict.fromkeys(("only", "only_tasks", "steps", "minutes", "seeds", "pieces"))
    defaults |= {"jobs": 1, "finetuning_seeds": 2, "output_dir": tmp_path, "tasks": tmp_path / "tasks"}
    path = size if isinstance(size, Path) else ladder.HERE / f"{size}.yaml"
    runs = ladder.Ladder(Namespace(**defaults | options, size=path))
    runs.tokenizer, runs.features = tmp_path / "tokenizer", tmp_path / "features"
    runs.folder.mkdir(exist_ok=True)
    return runs


@pytest.mark.parametrize(
    "size",
    [pytest.param(name, marks=pytest.mark.slow) if name.startswith(("gpu", "hour")) else name for name in SIZES],
)
def test_every_rung_of_every_size_is_another_recipe_that_pretraining_takes(size, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runs = climbing(size, tmp_path)
    recipes = {}
    monkeypatch.setattr(runs, "call", lambda module, *files: recipes.update({module[1].stem: module[1]}))
    monkeypatch.setattr(runs, "equal_time", lambda name, other: {"max_steps": 7})
    seen = set()
    for name in runs.rungs:
        runs.pretrain(name, 0, runs.run_folder(name, 0))
        model, data, training = parse_arguments([str(recipes[f"{name}-seed0"])])
        config = build_model(model, data, word_tokenizer()).config.to_dict()
        options = {name: value for name, value in training.to_dict().items() if name != "output_dir"}
        seen.add(json.dumps([config, vars(data), options], default=str))
    assert len(seen) == len(runs.rungs)


def test_a_rung_at_equal_time_gets_the_steps_that_a_measured_rate_allows(tmp_path, monkeypatch):
    runs, seconds = climbing("cpu_long", tmp_path), {"2_sbgo": [3, 5, 4], "0_mlm_equal_time": [2, 2, 2]}
    monkeypatch.setattr(runs, "seconds_per_step", lambda name, steps: seconds[name].pop(0))
    recipes = {}
    monkeypatch.setattr(runs, "call", lambda module, *files: recipes.update({module[1].stem: module[1]}))
    for seed in (0, 1):  # measured once for both
        runs.pretrain("0_mlm_equal_time", seed, runs.run_folder("0_mlm_equal_time", seed))
    steps = [yaml.safe_load(recipe.read_text())["max_steps"] for recipe in recipes.values()]
    assert steps == [2 * 16000, 2 * 16000]
    kept = json.loads((runs.folder / "0_mlm_equal_time.equal_time.json").read_text())
    assert (kept["ratio"], kept["seconds_of"], len(kept["seconds_per_step"])) == (2, "2_sbgo", 3)


def test_only_the_deciding_rungs_have_a_second_seed(tmp_path, monkeypatch):
    runs, climbed = climbing("cpu_long", tmp_path), []
    monkeypatch.setattr(runs, "climb", lambda name, seed: climbed.append((name, seed)))
    assert runs.climb_all(list(runs.rungs))
    decide = ["0_mlm", "0_mlm_equal_time", "2_sbgo"]
    assert sorted(climbed) == sorted([(name, 0) for name in runs.rungs] + [(name, 1) for name in decide])
    assert climbed[0][1] == 0 and climbed[-1][1] == 1  # every rung before a second seed of any


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_training_data_is_held_out_whole_and_by_articles(tmp_path, suffix):
    items = [json.dumps({"title": i}) for i in range(30)]
    text = "\n".join(items) + "\n" if suffix == ".jsonl" else json.dumps({"data": [json.loads(x) for x in items]})
    (train := tmp_path / f"train{suffix}").write_text(text)
    parts = ladder.hold_out(train, tmp_path / "parts")
    read = [
        [json.loads(line) for line in path.read_text().splitlines()]
        if suffix == ".jsonl"
        else json.loads(path.read_text())["data"]
        for path in (parts["train_file"], parts["validation_file"])
    ]
    assert [len(part) for part in read] == [27, 3]
    assert sorted(item["title"] for part in read for item in part) == list(range(30))
    assert ladder.hold_out(train, tmp_path / "again")["train_file"].read_text() == parts["train_file"].read_text()


def test_the_learning_rate_is_chosen_once_for_a_rung_and_a_task_without_the_validation_data(tmp_path, monkeypatch):
    runs, calls = climbing("cpu_long", tmp_path), []
    (tmp_path / "tasks" / "sst2").mkdir(parents=True)
    for part in ("train", "dev"):
        (tmp_path / "tasks" / "sst2" / f"{part}.jsonl").write_text("{}\n" * 20)

    def call(module, *files):
        recipe = yaml.safe_load(module[1].read_text())
        calls.append((recipe["learning_rate"], recipe["seeds"], Path(recipe["validation_file"]).stem))
        scores = {
            "metric": "accuracy",
            "median": {"accuracy": {1e-4: 0.6, 3e-4: 0.8, 1e-3: 0.5}[recipe["learning_rate"]]},
        }
        Path(recipe["output_dir"]).mkdir()
        (Path(recipe["output_dir"]) / "results.json").write_text(json.dumps(scores))

    monkeypatch.setattr(runs, "call", call)
    for seed in (0, 1):
        run = runs.run_folder("2_sbgo", seed)
        ladder.write_recipe({}, ladder.beside(run, ".yaml"))
        runs.finetune("sst2", "2_sbgo", seed, run)
    assert calls == [*((rate, 1, "held_out") for rate in (1e-4, 3e-4, 1e-3)), (3e-4, 2, "dev"), (3e-4, 2, "dev")]


@pytest.mark.parametrize(("part", "setting"), [("pretraining", "learning_rate"), ("finetuning", "num_train_epochs")])
def test_a_run_made_with_other_settings_is_neither_gone_on_from_nor_reported(tmp_path, monkeypatch, part, setting):
    tasks = {"sst2": {}}

    def pretend(module, *files):
        if "finetuning" in module[0]:
            output = Path(yaml.safe_load(module[1].read_text())["output_dir"])
            output.mkdir()
            (output / "results.json").write_text("{}")

    def climb(value):
        runs = climbing("cpu", tmp_path)
        runs.size["tasks"] = runs.tasks = tasks
        runs.size[part][setting] = value
        monkeypatch.setattr(runs, "call", pretend)
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
        seeds = [{"metrics": {ladder_report.TASKS[task][1]: value}} for value in values]
        (output / "results.json").write_text(json.dumps({"seeds": seeds, "collapsed": 1, "baseline": {}}))
        (runs.options.tasks / task).mkdir(parents=True, exist_ok=True)
        (runs.options.tasks / task / "dev.jsonl").write_text("{}\n" * 400)


def test_means_are_of_the_tasks_that_every_rung_has(tmp_path):
    runs = climbing("cpu", tmp_path)
    write_results(runs, "0_mlm", {"sst2": [0.7, 0.8, 0.5], "rte": [0.6, 0.5, 0.4]})
    write_results(runs, "1_electra", {"sst2": [0.9, 0.8, 0.7]})
    first, second = runs.results()
    assert (first["tasks"]["sst2"]["median"], first["mean"], second["mean"]) == (70, 70, 80)
    shown = ladder_report.table([first, second], "python ladder.py")
    assert "70.0 (50.0 to 80.0), 1 collapsed" in shown and "± 4.5 (95 %)" in shown
    probes = {name: ladder_report.spread([0.25, 0.75, 0.5]) for name in ladder_report.PROBES[1:]}
    probes[ladder_report.PROBES[0]] = ladder_report.spread([30.0])
    probes["eval_probe_sst2_train_accuracy"] = ladder_report.spread([0.625])
    trained = {**second, "tokens": 10**6, "flops": 1, "probes": probes, "pretraining_seeds": 3}
    trained["seconds"] = ladder_report.spread([1000.0, 3000.0, 2000.0])
    shown = ladder_report.table([first, trained], "python ladder.py")
    assert "| fixed AUC | probe sst2 train accuracy |" in shown and "| 0.500 (0.250 to 0.750) | 0.625 |" in shown
    assert "| 2,000 (1,000 to 3,000) | 30 | 0.500 (0.250 to 0.750) |" in shown and "of 3 seeds of pretraining" in shown
    ladder_report.picture([first, second], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


SMALL = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 64, "max_position_embeddings": 64, "generator_size": 1}
WORDS = ("the", "a", "old", "new", "house", "river", "cat", "dog", "red", "blue", "sees", "likes", "under", "over")


def sentence(chance, words=12):
    return " ".join(chance.choices(WORDS, k=words))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Text, and a small SQuAD."""
    home, chance = tmp_path_factory.mktemp("corpus"), random.Random(0)
    (home / "text.txt").write_text("\n".join(sentence(chance, 30) + "\n" * (i % 3 == 0) for i in range(400)))
    for part in ("train", "dev"):
        articles = []
        for i in range(12):
            context = sentence(chance, 20)
            answers = [{"text": context.split()[3], "answer_start": context.index(context.split()[3])}]
            question = {"id": f"{part}{i}", "question": sentence(chance, 5), "answers": answers}
            articles.append({"title": str(i), "paragraphs": [{"context": context, "qas": [question]}]})
        (home / "tasks" / "squad").mkdir(parents=True, exist_ok=True)
        (home / "tasks" / "squad" / f"{part}.json").write_text(json.dumps({"data": articles, "version": "1.1"}))
    return home


@pytest.mark.slow
def test_a_dry_run_climbs_every_kind_of_rung_and_resumes(corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.json").write_text(json.dumps(SMALL))
    alone = {"objective": "generator", "config_overrides": {"use_sbgo": False, "use_sbpo": False}}
    size = {
        "tokenizer": {"tokenizer_type": "BERT", "lowercase": True, "vocab_size": 200},
        "pretraining": {"config": str(tmp_path / "model.json"), "max_seq_length": 32}
        | {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "learning_rate": 1e-3},
        "rungs": {"joint": {}, "mlm_time": alone | {"seconds_of": "joint"}},
        "finetuning": {"max_seq_length": 32, "learning_rates": [1e-3]},
        "tasks": {"squad": {"stride": 4}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(size))
    command = f"ladder.py {tmp_path}/small.yaml --text {corpus}/text.txt --tasks {corpus}/tasks --finetuning_seeds 2"
    command += f" --output_dir {tmp_path}/out --steps 2"
    monkeypatch.setattr(sys, "argv", f"{command} --minutes 0.1".split())
    ladder.main()  # stops somewhere
    assert "the same command resumes" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", command.split())
    ladder.main()
    entries = {entry["rung"]: entry for entry in json.loads((tmp_path / "out/small-dry/results.json").read_text())}
    assert [*entries] == ["scratch", "joint", "mlm_time"]
    assert [entry["pretraining_seeds"] for entry in entries.values()] == [0, 1, 1]
    scores = [entry["tasks"]["squad"] for entry in entries.values()]
    assert all(score["seeds"] == 2 and score["learning_rate"] == 1e-3 for score in scores)
    assert entries["mlm_time"]["equal_time"]["seconds_of"] == "joint"
    assert all(entry["seconds"]["median"] > 0 and entry["flops"] > 0 for entry in [*entries.values()][1:])
    assert (tmp_path / "out/small-dry/results.png").stat().st_size > 1000


FAMILIES = {"electra": SMALL, "modernbert": {"model_type": "modernbert", **SMALL}}
for setting in ("embedding_size", "generator_size"):
    del FAMILIES["modernbert"][setting]


def race(monkeypatch, capsys, folder, features, tokenizer, *options):
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    words = f"time_to_quality.py --features {features} --tokenizer {folder}/tokenizer --output_dir {folder}/out"
    words += " --slice_updates 2 --held_out 32 --batch 4 --seeds 0"
    for family, config in FAMILIES.items():
        (folder / f"{family}.json").write_text(json.dumps(config))
        words += f" --{family}_config {folder}/{family}.json"
    monkeypatch.setattr(sys, "argv", [*words.split(), *options])
    time_to_quality.main()
    content = json.loads((folder / "out" / "time_to_quality.json").read_text())
    assert (folder / "out" / "time_to_quality.png").stat().st_size > 1000
    return content["contestants"], capsys.readouterr().out


@pytest.mark.slow
def test_every_contestant_races_to_the_targets_and_a_resumed_race_is_the_same(features, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_to_quality, "TARGETS", {"auc": 0.0, "perplexity": 1.0})  # one at once, one never
    rows, tokenizer = features
    whole, shown = race(monkeypatch, capsys, tmp_path / "whole", rows, tokenizer, "--max_tokens", "1000")
    families, ours = ("ELECTRA", "ModernBERT"), "SpanElectra, ELECTRA"
    kinds = ("SpanElectra", "naive composition", "masked LM")
    assert {f"{kind}, {family}" for kind in kinds for family in families} <= whole.keys()
    for name, entry in whole.items():
        first, *_, last = entry["points"]["0"]
        assert last["tokens"] >= 1000 and 0 < first["seconds"] < last["seconds"]
        assert ("auc" in first) == ("auc" in entry["reached"]) == (not name.startswith("masked LM"))
        assert "perplexity" not in entry["reached"]
    assert "not yet: " in shown
    race(monkeypatch, capsys, tmp_path / "parts", rows, tokenizer, "--max_tokens", "300", "--only", ours)
    parts, _ = race(monkeypatch, capsys, tmp_path / "parts", rows, tokenizer, "--max_tokens", "1000", "--only", ours)
    timeless = [
        [point | {"seconds": None} for point in contestants[ours]["points"]["0"]] for contestants in (whole, parts)
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) > 2


@pytest.mark.slow
def test_shapes_train_for_equal_seconds(features, tmp_path, monkeypatch, capsys):
    contestants, _ = race(*(monkeypatch, capsys, tmp_path, *features, "--shapes", "1x32", "2x64", "--seconds", "0.3"))
    assert [*contestants] == ["1x32", "2x64"]
    assert all(entry["points"]["0"][-1]["seconds"] >= 0.3 for entry in contestants.values())


RESULTS = {entry["rung"]: entry for entry in json.loads(readme_table.RESULTS.read_text())}


@pytest.mark.parametrize("page", readme_table.PAGES, ids=lambda path: path.parent.name)
def test_a_page_shows_the_figures_of_the_json(page):
    shown = page.read_text(encoding="utf-8")
    assert shown == readme_table.with_table(shown, readme_table.PAGES[page](RESULTS)), (
        "run python benchmarks/readme_table.py --write"
    )


def test_a_table_holds_medians_and_spreads_of_every_rung():
    table = readme_table.short_table(RESULTS).splitlines()
    assert len(table) == 2 + len(readme_table.ON_THE_README) and len({line.count("|") for line in table}) == 1
    sbgo = next(line for line in table if line.startswith("| … with SBGO |"))
    assert "0.84 (0.84 to 0.85)" in sbgo and "18.2 (16.4 to 21.0)" in sbgo and sbgo.endswith("45.9 |")
    page = "before\n<!-- results: x -->\nold\n<!-- end of results -->\nafter"
    assert readme_table.with_table(page, "new") == page.replace("old", "new")
    with pytest.raises(ValueError, match="end of results"):
        readme_table.with_table("no markers", "new")


@pytest.mark.parametrize("name", ["cpu_hour", "cpu_day", "gpu_hour"])
def test_a_recipe_says_how_many_tokens_it_buys_and_that_they_are_computed(name):
    path = ladder.RECIPES / f"{name}.yaml"
    options = [str(path), "--use_cpu", "true", "--train_file", str(path), "--output_dir", "out"]
    model, data, training = parse_arguments(options)
    comment = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    million = float(re.search(r"([\d,.]+) million tokens", comment)[1].replace(",", ""))
    assert "Computed, not measured" in comment
    tokens = training.max_steps * training.per_device_train_batch_size * data.max_seq_length
    assert tokens / 1e6 == pytest.approx(million, rel=0.005)
    assert build_model(model, data, word_tokenizer()).config.discriminator.model_type == "modernbert"


@pytest.mark.slow
def test_intervals_hold_the_true_score_as_often_as_they_say():
    chance, count, runs = np.random.default_rng(1), 200, 2000
    normal = 2 * np.sin(0.85 * np.pi / 6)  # the correlation of normal variates whose ranks have one of 0.85
    held = {"spearmanr": 0, "accuracy": 0}
    for _ in range(runs):
        first, noise = chance.standard_normal((2, count))
        ranks = stats.spearmanr(first, normal * first + np.sqrt(1 - normal**2) * noise).statistic
        for metric, true, score in (("spearmanr", 85, ranks), ("accuracy", 80, chance.binomial(count, 0.8) / count)):
            low, high = ladder_report.interval(metric, score, count)
            held[metric] += low <= true <= high
    assert all(0.94 < times / runs < 0.97 for times in held.values()), held
