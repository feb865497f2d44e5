"""The recipe, the report, and a journey for each task."""

import json
import re
import struct
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from finetuning_examples import NER, QA, SCORES, SHAPE, arguments, results_of, task_of, write_lines
from huggingface_hub import ModelCard
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ElectraForPreTraining,
    RobertaConfig,
)

from span_electra import run_finetuning
from span_electra.common.errors import InputError
from span_electra.finetuning import sentence_tasks as sentences
from span_electra.finetuning.arguments import FinetuningArguments, parse_arguments, settle_by_size
from span_electra.finetuning.encoder import build_model, load_config, load_tokenizer, longest_row, set_dropout
from span_electra.finetuning.model_card import finetuned_card
from span_electra.finetuning.question_answering import Answer, QuestionAnswering
from span_electra.finetuning.report import SeedResult, best_result, plot_confusion, results_table, summarise
from span_electra.finetuning.sentence_tasks import Classification, Regression
from span_electra.finetuning.task import model_inputs
from span_electra.finetuning.token_classification import TokenClassification
from span_electra.finetuning.trainer import FinetuningTrainer, parameter_depths
from span_electra.run_finetuning import main, seed_arguments

# --- the recipe --------------------------------------------------------------------------------------------------


def test_the_defaults_are_electras(home, tmp_path):
    args = FinetuningArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.adam_epsilon, args.weight_decay, args.max_grad_norm) == (1e-6, 0.0, 1.0)
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.warmup_steps) == (32, 3.0, 0.1)
    assert args.lr_scheduler_type == "linear" and args.load_best_model_at_end


def test_models_are_not_sharded(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"FSDP: .*best checkpoint.*; use DDP"):
        parse_arguments(arguments(home, tmp_path / "out"))


@pytest.mark.parametrize("metric, mode", [("accuracy", "max"), ("loss", "min")])
def test_a_schedule_by_evaluations_knows_what_is_better(tmp_path, metric, mode):
    given = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": metric}
    args = FinetuningArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    assert seed_arguments(args, 1).lr_scheduler_kwargs == {"mode": mode} and not args.lr_scheduler_kwargs


@pytest.mark.parametrize(
    "hidden_size, rate, decay", [(256, 3e-4, 0.8), (384, 3e-4, 0.8), (768, 1e-4, 0.8), (1024, 5e-5, 0.9)]
)
def test_rates_go_by_the_encoders_size_unless_they_are_given(tmp_path, hidden_size, rate, decay):
    args = FinetuningArguments(output_dir=str(tmp_path), use_cpu=True)
    settle_by_size(args, hidden_size)
    assert (args.learning_rate, args.layerwise_lr_decay) == (rate, decay)
    args = FinetuningArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=2e-5, layerwise_lr_decay=1.0)
    settle_by_size(args, hidden_size)
    assert (args.learning_rate, args.layerwise_lr_decay) == (2e-5, 1.0)


@pytest.mark.parametrize("name", ["electra", "bert", "span_electra"])
def test_rates_fall_from_the_head_to_the_embeddings(home, tmp_path, name):
    encoder, _, training = parse_arguments(
        arguments(home, tmp_path, model_name_or_path=home / name, learning_rate=1.0, weight_decay=0.1)
    )
    training.layerwise_lr_decay, training.metric_for_best_model = 0.5, "accuracy"
    config = load_config(encoder)
    task = task_of(Classification, home, home / "train.jsonl", home / "dev.jsonl")
    model = build_model(encoder, config, task)
    groups = FinetuningTrainer(model=model, args=training, eval_dataset=[]).create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    prefix = model.base_model_prefix
    assert len(rates) == sum(1 for _ in model.parameters())
    assert groups[0]["lr"] == 1.0  # the one that the Trainer logs
    expected = {"classifier": 1.0, "encoder.layer.1.": 0.25, "encoder.layer.0.": 0.125, "embeddings": 0.0625}
    for parameter_name, parameter in model.named_parameters():
        part = next(part for part in (*expected, "pooler") if part in parameter_name)
        assert rates[id(parameter)] == (0.5 if part == "pooler" else expected[part]), parameter_name
        is_exempt = parameter_name.endswith("bias") or "LayerNorm" in parameter_name
        assert decays[id(parameter)] == (0.0 if is_exempt else 0.1), parameter_name
    depths = parameter_depths(model, prefix)
    assert ("pooler" in str(list(depths))) == (name == "bert")


def test_random_weights_are_random_and_the_loaded_ones_are_not(home, tmp_path):
    saved = ElectraForPreTraining.from_pretrained(home / "electra").electra.state_dict()
    for from_scratch in (False, True):
        encoder, _, _ = parse_arguments(arguments(home, tmp_path, from_scratch=from_scratch))
        model = build_model(
            encoder, load_config(encoder), task_of(Classification, home, home / "train.jsonl", "x.csv")
        )
        same = all(torch.equal(saved[name], value) for name, value in model.electra.state_dict().items())
        assert same != from_scratch and model.config.hidden_size == 32


def test_rows_are_padded_on_the_right_where_places_are_counted_from(home, tmp_path):
    AutoTokenizer.from_pretrained(home / "tokenizer", padding_side="left").save_pretrained(tmp_path / "left")
    encoder, _, _ = parse_arguments(arguments(home, tmp_path / "out", tokenizer=tmp_path / "left"))
    assert load_tokenizer(encoder, load_config(encoder)).padding_side == "right"


def test_rows_are_no_longer_than_the_positions_that_tokens_have(home, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    shape = {name: value for name, value in SHAPE.items() if name != "embedding_size"} | {"vocab_size": len(tokenizer)}
    rooms = {}
    for name, config in (("roberta", RobertaConfig), ("bert", BertConfig)):
        model = AutoModel.from_config(config(**shape, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        encoder, _, _ = parse_arguments(arguments(home, tmp_path / "out", model_name_or_path=tmp_path / name))
        loaded = load_tokenizer(encoder, load_config(encoder))
        rooms[name] = longest_row(load_config(encoder), loaded)
        batch = loaded("film " * 99, "city", truncation=True, max_length=rooms[name], return_tensors="pt")
        assert model(**batch).last_hidden_state.shape[1] == rooms[name]  # nor does it have types of tokens
    assert rooms == {"roberta": 64 - tokenizer.pad_token_id - 1, "bert": 64}


@pytest.mark.parametrize(
    ("model_type", "settings"), [("xlnet", {}), ("bert", {"max_position_embeddings": 0}), ("t5", {}), ("funnel", {})]
)
def test_an_encoder_without_a_limit_takes_rows_of_any_length(home, tmp_path, model_type, settings):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer", model_max_length=10**30)
    config = AutoConfig.for_model(model_type, **settings)
    assert getattr(config, "max_position_embeddings", 0) < 1
    _, task_arguments, _ = parse_arguments(arguments(home, tmp_path / "out", max_seq_length=4096))
    longest = longest_row(config, tokenizer)
    assert Classification(task_arguments, tokenizer, longest).max_length == 4096


def test_weights_of_half_precision_are_trained_in_full(home, tmp_path):
    ElectraForPreTraining.from_pretrained(home / "electra").half().save_pretrained(tmp_path / "half")
    for from_scratch in (False, True):
        changes = {"model_name_or_path": tmp_path / "half", "from_scratch": from_scratch}
        encoder, _, _ = parse_arguments(arguments(home, tmp_path / "out", **changes))
        task = task_of(Classification, home, home / "train.jsonl", "x.csv")
        model = build_model(encoder, load_config(encoder), task)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_head_of_an_earlier_task_is_left_behind(home, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(home / "electra").save_pretrained(tmp_path / "tuned")
    encoder, _, _ = parse_arguments(arguments(home, tmp_path / "out", model_name_or_path=tmp_path / "tuned"))
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        task = task_of(Classification, home, home / "train.jsonl", "x.csv")
        model = build_model(encoder, load_config(encoder), task)
        heads.append(model.classifier.out_proj.weight)
    assert not torch.equal(*heads)
    saved = ElectraForPreTraining.from_pretrained(home / "electra").electra.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in model.electra.state_dict().items())


def test_dropout_is_electras_whatever_it_was_in_pretraining(home):
    config = AutoConfig.from_pretrained(home / "electra", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config.classifier_dropout = 0.5
    for asked, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        assert set_dropout(config, asked) == expected
        model = AutoModelForSequenceClassification.from_config(config)
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {expected} and model.electra.encoder.layer[0].attention.self.dropout.p == expected


def test_dropout_under_other_names_is_left_alone_and_not_asked_for(caplog):
    config = DistilBertConfig(dropout=0.2)
    assert set_dropout(config, None) is None
    assert config.dropout == 0.2 and "keeps its own dropout" in caplog.text
    with pytest.raises(
        InputError, match=r"--dropout is 0\.3, but the configuration of a distilbert lacks hidden_dropout_prob and"
    ):
        set_dropout(config, 0.3)


# --- report ------------------------------------------------------------------------------------------------------


def result(seed, accuracy, collapsed=False):
    metrics = {"accuracy": accuracy, "loss": 1 - accuracy}
    return SeedResult(seed, metrics, collapsed, kept_step=3, steps=9, seconds=1.5, answers=[seed])


def test_the_report_has_median_spread_and_who_collapsed():
    results = [result(1, 0.8), result(2, 0.5, collapsed=True), result(3, 0.9)]
    summary = summarise(results, "accuracy", {"accuracy": 0.5}, "the most frequent answer")
    assert (summary["median"]["accuracy"], summary["min"]["accuracy"], summary["max"]["accuracy"]) == (0.8, 0.5, 0.9)
    assert summary["collapsed"] == 1 and summary["best_seed"] == 3 and len(summary["seeds"]) == 3
    assert json.loads(json.dumps(summary))["seeds"][1]["collapsed"] is True
    table = results_table(summary)
    assert re.search(r"seed 2 \(collapsed\) +0\.5000 +0\.5000\n", table)
    assert re.search(r"seed 3 \(kept\) +0\.9000 +0\.1000\n", table)
    assert re.search(r"median +0\.8000", table) and re.search(r"baseline \(always the most .*\) +0\.5000", table)
    assert "collapsed: 1 of 3 seeds" in table


def test_figures_of_any_size_have_a_column_of_their_own():
    table = results_table(summarise([result(1, -123456.7), result(2, 0.5)], "accuracy", {}, ""))
    assert re.search(r"seed 1 .*-123456\.7000 +123457\.7000", table)
    assert len({len(line) for line in table.splitlines()[:3]}) <= 2


def test_labels_of_any_characters_are_drawn_as_they_are(tmp_path):
    labels = ["$_$", "^_^", "x" * 300]
    plot_confusion(np.array([0, 1, 2]), [0, 1, 1], labels, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_the_best_seed_has_the_highest_metric_or_the_lowest_loss():
    results = [result(1, 0.8), result(2, float("nan")), result(3, 0.9)]
    assert best_result(results, "accuracy").seed == 3
    results = [SeedResult(seed, {"loss": loss}, False, 1, 1, 1.0, None) for seed, loss in ((1, 0.5), (2, 0.3))]
    assert best_result(results, "loss").seed == 2


# --- card --------------------------------------------------------------------------------------------------------


SETTINGS = {"task": "token-classification", "model_name_or_path": "ada/spans", "train_file": "wnut_17"}
SETTINGS |= {"output_dir": "runs/tagger", "seeds": 2}


def tagging(seed, f1):
    metrics = {"overall_f1": f1, "overall_accuracy": 0.9, "loss": 0.3}
    return SeedResult(seed, metrics, collapsed=f1 == 0, kept_step=3, steps=9, seconds=1.5, answers=[seed])


def test_the_card_has_the_kept_models_scores_and_says_what_the_others_came_to():
    summary = summarise(
        [tagging(1, 0.0), tagging(2, 0.4)],
        "overall_f1",
        {"overall_accuracy": 7 / 8 + 1e-6},
        "the most frequent answer",
    )
    card = finetuned_card(summary, SETTINGS)
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["base_model"], data["datasets"]) == (
        "token-classification",
        "ada/spans",
        ["wnut_17"],
    )
    scores = {result.metric_name: (result.metric_type, result.metric_value) for result in card.data.eval_results}
    assert scores == {"overall f1": ("f1", 0.4), "overall accuracy": ("accuracy", 0.9)}
    assert results_table(summary) in card.text and "seed 2 (kept)" in card.text
    assert "AutoModelForTokenClassification.from_pretrained" in card.text
    assert 'aggregation_strategy="first"' in card.text


def test_the_card_names_no_path_of_this_machine(home):
    files = {"train_file": str(home / "train.jsonl"), "validation_file": str(home / "dev.jsonl")}
    summary = summarise([tagging(1, 0.4)], "overall_f1", {}, "the most frequent answer")
    card = finetuned_card(summary, {**SETTINGS, **files, "model_name_or_path": str(home / "electra")})
    assert str(home) not in str(card) and "base_model" not in card.data.to_dict()
    assert "electra, fine-tuned for token-classification on train.jsonl." in card.text and "on dev.jsonl" in card.text
    assert card.data.eval_results[0].dataset_type == "text" and card.data.eval_results[0].dataset_name == "dev.jsonl"
    scratch = finetuned_card(summary, {**SETTINGS, "from_scratch": True})
    assert "base_model" not in scratch.data.to_dict()
    assert "random weights in the architecture of ada/spans, fine-tuned" in scratch.text


# --- what is published -------------------------------------------------------------------------------------------


def test_no_token_and_no_folder_of_a_seed_is_published(home, tmp_path):
    main(arguments(home, tmp_path / "out", max_steps=1, hub_token="hf_secret", save_strategy="epoch"))
    assert b"hf_secret" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    # By this the Hub's clients and server leave out the folders of the seeds, with all that the Trainer wrote there.
    assert (tmp_path / "out" / ".gitignore").read_text().split() == ["seed-*/", ".lock"]
    assert not list((tmp_path / "out").glob("*.bin"))


# --- journeys ----------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_not_the_last(home, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.2, 0.9])  # three epochs, then the one that was kept
    monkeypatch.setattr(Classification, "score", lambda self, answers: {"accuracy": next(scores, 0.0)})
    weights = []
    save = FinetuningTrainer._save_checkpoint

    def remember(self, model, trial):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        save(self, model, trial)

    monkeypatch.setattr(FinetuningTrainer, "_save_checkpoint", remember)
    main(arguments(home, tmp_path / "out", num_train_epochs=3, max_train_samples=32))
    (seed,) = results_of(tmp_path / "out")["seeds"]
    assert (seed["kept_step"], seed["steps"]) == (4, 6)
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(kept[name], value) for name, value in weights[1].items())
    assert not all(torch.equal(kept[name], value) for name, value in weights[2].items())


@pytest.mark.slow
def test_seeds_see_the_rows_in_orders_of_their_own(home, tmp_path, monkeypatch):
    orders = []
    monkeypatch.setattr("accelerate.data_loader.SeedableRandomSampler.__iter__", recorded(orders))
    main(arguments(home, tmp_path / "out", seeds=2, num_train_epochs=2))
    assert len(orders) == 4 and len(set(orders)) == 4


def recorded(orders):
    iterate = SeedableRandomSampler.__iter__

    def iterate_and_record(self):
        order = list(iterate(self))
        orders.append(tuple(order))
        return iter(order)

    return iterate_and_record


def test_a_run_that_collapses_is_counted(home, tmp_path, capsys):
    main(arguments(home, tmp_path / "out", learning_rate=1e-1, seeds=2, num_train_epochs=2))
    results = results_of(tmp_path / "out")
    assert results["collapsed"] == 2 and all(seed["collapsed"] for seed in results["seeds"])
    assert "collapsed: 2 of 2 seeds give all examples the same answer" in capsys.readouterr().out


def test_a_recipe_may_hold_everything_and_options_win(home, tmp_path):
    recipe = {"model_name_or_path": str(home / "electra"), "task": "classification", "use_cpu": True, "seeds": 3}
    recipe |= {"train_file": str(home / "train.jsonl"), "validation_file": str(home / "dev.jsonl")}
    recipe |= {"columns": ["sentence1=sentence1"], "output_dir": str(tmp_path / "out"), "report_to": "none"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    encoder, task_arguments, training = parse_arguments([str(tmp_path / "recipe.json"), "--seeds", "2"])
    assert (encoder.model_name_or_path, training.seeds) == (str(home / "electra"), 2)
    assert task_arguments.columns == ["sentence1=sentence1"] and task_arguments.train_file == str(home / "train.jsonl")


def test_overwriting_replaces_the_earlier_run_and_nothing_else(home, tmp_path):
    folder = tmp_path / "out"
    main(arguments(home, folder, seed=7, max_steps=2, eval_strategy="steps", eval_steps=1))
    (folder / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("of the earlier run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("span_electra.run_finetuning.finetuned_card", MagicMock())
        main(arguments(home, folder, max_steps=1, overwrite_output_dir=True))
    assert not (folder / "README.md").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.glob("seed-*")] == ["seed-42"]


LEARNT = {"learning_rate": 1e-2, "num_train_epochs": 12, "seeds": 2, "layerwise_lr_decay": 0.9}


@pytest.fixture(scope="module")
def classified(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classified") / "out"
    main(arguments(home, folder, model_name_or_path=home / "span_electra", **LEARNT))
    return folder


@pytest.mark.slow
def test_classification_leaves_the_best_model_its_results_and_a_picture(home, classified):
    results = results_of(classified)
    assert results["metric"] == "accuracy" and results["median"]["accuracy"] > 0.9 and results["collapsed"] == 0
    assert results["baseline"]["accuracy"] < 0.7 and results["arguments"]["layerwise_lr_decay"] == 0.9
    image = (classified / "confusion.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", image[16:24])) > 300
    names = {path.name for path in classified.iterdir()}
    assert ModelCard.load(classified / "README.md").data.pipeline_tag == "text-classification"
    assert {"model.safetensors", "tokenizer.json", "modeling_span_electra.py", "seed-42", "seed-43"} <= names
    assert not list(classified.rglob("checkpoint-*")) and "training_args.bin" not in names


@pytest.mark.slow
def test_the_kept_model_gives_the_score_that_is_reported(home, classified):
    model = AutoModelForSequenceClassification.from_pretrained(classified).eval()
    tokenizer = AutoTokenizer.from_pretrained(classified)
    rows = [json.loads(line) for line in (home / "dev.jsonl").read_text().splitlines()]
    batch = tokenizer([row["sentence1"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = [model.config.id2label[i] for i in model(**batch).logits.argmax(-1).tolist()]
    accuracy = np.mean([answer == str(row["label"]) for answer, row in zip(answers, rows, strict=True)])
    results = results_of(classified)
    assert accuracy == pytest.approx(results["max"]["accuracy"])
    assert accuracy == next(s["metrics"]["accuracy"] for s in results["seeds"] if s["seed"] == results["best_seed"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra", "bert", "span_electra"])
def test_scores_of_pairs_are_learnt_from_any_encoder(home, tmp_path, name):
    changes = {key: value.format(home=home) for key, value in SCORES.items()}
    main(arguments(home, tmp_path / "out", model_name_or_path=home / name, **changes, **LEARNT | {"seeds": 1}))
    results = results_of(tmp_path / "out")
    assert results["metric"] == "spearmanr" and results["median"]["pearsonr"] > 0.7 and results["collapsed"] == 0
    assert not (tmp_path / "out" / "confusion.png").exists()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 1


@pytest.mark.parametrize("labels, name, expected", [("aaab", "accuracy", 0.75), ([1.0, 2.0, 6.0], "mae", 2.0)])
def test_a_baseline_gives_the_most_frequent_class_or_the_mean(home, tmp_path, labels, name, expected):
    task_class = Classification if name == "accuracy" else Regression
    write_lines(tmp_path / "data.jsonl", [{"text": "a word", "label": label} for label in labels])
    task = task_of(task_class, home, tmp_path / "data.jsonl", tmp_path / "data.jsonl")
    task.build_rows()
    assert task.baseline()[name] == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra", "bert"])
def test_a_model_of_scores_answers_in_the_datas_own(home, tmp_path, name):
    for part in ("train", "dev"):
        rows = [json.loads(line) for line in (home / f"scores_{part}.jsonl").read_text().splitlines()]
        for row in rows:
            row["label"] = 60_000 + 8_000 * row["label"]  # 60,000 or 80,000
        write_lines(tmp_path / f"{part}.jsonl", rows)
    files = {"train_file": tmp_path / "train.jsonl", "validation_file": tmp_path / "dev.jsonl"}
    changes = {"task": "regression", "model_name_or_path": home / name} | files
    main(arguments(home, tmp_path / "out", **changes, **LEARNT | {"seeds": 1}))
    results = results_of(tmp_path / "out")
    assert results["baseline"]["mae"] > 9_000 and results["median"]["mae"] < 8_000
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(
        [r["sentence1"] for r in rows], [r["sentence2"] for r in rows], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        answers = model(**batch).logits[:, 0]
    distance = (answers - torch.tensor([row["label"] for row in rows])).abs().mean()
    assert distance.item() == pytest.approx(results["median"]["mae"], rel=1e-3)


@pytest.mark.slow
def test_token_labels_are_learnt(home, tmp_path):
    changes = {key: value.format(home=home) for key, value in NER.items()}
    main(arguments(home, tmp_path / "out", **changes, **LEARNT))
    results = results_of(tmp_path / "out")
    assert results["metric"] == "overall_f1" and results["median"]["overall_f1"] > 0.9
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == ["O", "B-person", "I-person", "B-place", "I-place"]


@pytest.mark.slow
def test_answers_are_learnt(home, tmp_path):
    changes = {key: value.format(home=home) for key, value in QA.items()}
    main(arguments(home, tmp_path / "out", **changes, **LEARNT))
    results = results_of(tmp_path / "out")
    assert results["metric"] == "f1" and results["median"]["exact_match"] > 80
    assert AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").config.num_labels == 2


def test_one_answer_is_no_collapse_where_it_is_the_right_one(home, tmp_path):
    write_lines(tmp_path / "dev.jsonl", [{"sentence1": "film", "label": 0}] * 2)
    task = task_of(Classification, home, home / "train.jsonl", tmp_path / "dev.jsonl")
    task.build_rows()
    assert not task.all_alike(np.array([0, 0]))
    assert task.score([0, 0])["f1_macro"] == 1.0 and task.score([0, 1])["f1_macro"] == pytest.approx(2 / 3)
    write_lines(tmp_path / "ner.jsonl", [{"tokens": ["Rome"], "ner_tags": ["B-place"]}])
    task = task_of(TokenClassification, home, home / "ner_train.jsonl", tmp_path / "ner.jsonl")
    task.build_rows()
    assert not task.all_alike([["B-place"]])


@pytest.mark.slow
@pytest.mark.parametrize("fails", [2, 3])
def test_a_seed_that_fails_takes_no_others_figures_along(home, tmp_path, monkeypatch, fails):
    finished = run_finetuning.train

    def train(arguments, *rest):
        if arguments.seed == fails:
            raise RuntimeError("out of memory")
        return finished(arguments, *rest)

    monkeypatch.setattr(run_finetuning, "train", train)
    with pytest.raises(RuntimeError):
        main(arguments(home, tmp_path / "out", max_steps=1, seed=1, seeds=3))
    assert [seed["seed"] for seed in results_of(tmp_path / "out")["seeds"]] == list(range(1, fails))


def test_what_was_used_is_written_down(home, tmp_path):
    main(arguments(home, tmp_path / "out", max_steps=1))
    used = results_of(tmp_path / "out")["arguments"]
    assert (used["max_seq_length"], used["dropout"], used["stride"]) == (64, 0.1, None)
    saved = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None


def test_rows_that_an_earlier_version_made_are_not_used(home, tmp_path, monkeypatch):
    Dataset.from_json(str(home / "train.jsonl")).to_parquet(tmp_path / "train.parquet")
    task_of(Classification, home, tmp_path / "train.parquet", home / "dev.jsonl").build_rows()
    calls = []
    monkeypatch.setattr(sentences, "model_inputs", lambda *args: calls.append(args) or model_inputs(*args))
    task_of(Classification, home, tmp_path / "train.parquet", home / "dev.jsonl").build_rows()
    assert len(calls) == 2


def test_answers_at_one_place_have_collapsed(home):
    task = task_of(QuestionAnswering, home, home / "squad_train.json", home / "squad_dev.json")
    assert task.all_alike([Answer("a", (0, 2)), Answer("b", (0, 2))])
    assert not task.all_alike([Answer("a", (0, 2)), Answer("a", (1, 2))])


@pytest.mark.parametrize(("answers", "alike"), [([1.0, 1.0, 1.0001], True), ([0.0, 2.5, 1.0], False)])
def test_scores_that_hardly_differ_have_collapsed(home, answers, alike):
    task = task_of(Regression, home, home / "scores_train.jsonl", home / "scores_dev.jsonl")
    task.build_rows()
    assert task.all_alike(np.array(answers)) == alike
    assert task.all_alike(np.array([np.nan, 1.0, 2.0]))


@pytest.mark.parametrize("unit", [1, 10_000])
def test_what_hardly_differs_is_a_matter_of_the_labels_own_spread(home, tmp_path, unit):
    lines = [{"text": "a word", "label": label * unit} for label in (1, 2, 3)]
    write_lines(tmp_path / "data.jsonl", lines)
    task = task_of(Regression, home, tmp_path / "data.jsonl", tmp_path / "data.jsonl")
    task.build_rows()
    assert task.all_alike(unit * np.array([1, 1, 1.001])) and not task.all_alike(unit * np.array([1, 1, 1.003]))
