"""The recipe, the report, and a journey for each task."""

import json
import re
import struct

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from finetuning_examples import NER, QA, SCORES, arguments, results_of, task_of
from huggingface_hub import ModelCard
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DistilBertConfig,
    ElectraForPreTraining,
)

from span_electra.finetuning.arguments import FinetuningArguments, parse_arguments, settle_by_size
from span_electra.finetuning.card import finetuned_card
from span_electra.finetuning.encoders import build_model, load_config, load_tokenizer, set_dropout
from span_electra.finetuning.questions import Answer, QuestionAnswering
from span_electra.finetuning.report import SeedResult, best_result, results_table, summarise
from span_electra.finetuning.sentences import Classification, Regression
from span_electra.finetuning.trainer import FinetuningTrainer, parameter_depths
from span_electra.run_finetuning import main
from span_electra.tokenization.text import InputError

# --- the recipe --------------------------------------------------------------------------------------------------


def test_the_defaults_are_electras(home, tmp_path):
    args = FinetuningArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.adam_epsilon, args.weight_decay, args.max_grad_norm) == (1e-6, 0.0, 1.0)
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.warmup_steps) == (32, 3.0, 0.1)
    assert args.lr_scheduler_type == "linear" and args.load_best_model_at_end


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


def test_rates_fall_towards_the_input_in_encoders_with_other_names():
    layer = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleDict(
        {
            "model": torch.nn.ModuleDict(
                {"embeddings": layer, "layers": torch.nn.ModuleList([layer, layer]), "final_norm": layer}
            ),
            "head": torch.nn.Linear(2, 2),
        }
    )
    model["model"]["layers"] = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Linear(2, 2)]) for _ in range(2)])
    model["model"]["final_norm"] = torch.nn.LayerNorm(2)
    depths = parameter_depths(model, "model")
    assert {name.removesuffix(".weight"): depth for name, depth in depths.items() if name.endswith("weight")} == {
        "model.embeddings": 0,
        "model.layers.0.0": 1,
        "model.layers.1.0": 2,
        "model.final_norm": 3,
        "head": 4,
    }


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
    assert load_tokenizer(encoder).padding_side == "right"


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
    for asked, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        set_dropout(config, asked)
        model = AutoModelForSequenceClassification.from_config(config)
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {expected} and model.electra.encoder.layer[0].attention.self.dropout.p == expected


def test_dropout_under_other_names_is_left_alone_and_not_asked_for():
    config = DistilBertConfig(dropout=0.2)
    set_dropout(config, None)
    assert config.dropout == 0.2
    with pytest.raises(InputError, match=r"--dropout is 0\.3, but a distilbert has no hidden_dropout_prob and"):
        set_dropout(config, 0.3)


# --- report ------------------------------------------------------------------------------------------------------


def result(seed, accuracy, collapsed=False):
    metrics = {"accuracy": accuracy, "loss": 1 - accuracy}
    return SeedResult(seed, metrics, collapsed, kept_step=3, steps=9, seconds=1.5, answers=[seed])


def test_the_report_has_median_spread_and_who_collapsed():
    results = [result(1, 0.8), result(2, 0.5, collapsed=True), result(3, 0.9)]
    summary = summarise(results, "accuracy", {"accuracy": 0.5})
    assert (summary["median"]["accuracy"], summary["min"]["accuracy"], summary["max"]["accuracy"]) == (0.8, 0.5, 0.9)
    assert summary["collapsed"] == 1 and summary["best_seed"] == 3 and len(summary["seeds"]) == 3
    assert json.loads(json.dumps(summary))["seeds"][1]["collapsed"] is True
    table = results_table(summary)
    assert re.search(r"seed 2 +0\.5000 +0\.5000  collapsed\n", table)
    assert re.search(r"seed 3 +0\.9000 +0\.1000  kept\n", table)
    assert re.search(r"median +0\.8000", table) and re.search(r"baseline +0\.5000 +always the most", table)
    assert "collapsed: 1 of 3 seeds" in table


def test_the_best_seed_has_the_highest_metric_or_the_lowest_loss():
    results = [result(1, 0.8), result(2, float("nan")), result(3, 0.9)]
    assert best_result(results, "accuracy").seed == 3
    results = [SeedResult(seed, {"loss": loss}, False, 1, 1, 1.0, None) for seed, loss in ((1, 0.5), (2, 0.3))]
    assert best_result(results, "loss").seed == 2


# --- card --------------------------------------------------------------------------------------------------------


SETTINGS = {"task": "token-classification", "model_name_or_path": "ada/spans", "train_file": "wnut_17"}
SETTINGS |= {"output_dir": "runs/tagger", "seeds": 2, "learning_rate": 3e-4, "max_train_samples": None}
SETTINGS |= {"weight_decay": 0.0, "max_eval_samples": 64}


def tagging(seed, f1):
    metrics = {"overall_f1": f1, "overall_accuracy": 0.9, "loss": 0.3}
    return SeedResult(seed, metrics, collapsed=f1 == 0, kept_step=3, steps=9, seconds=1.5, answers=[seed])


def test_the_card_has_the_kept_models_scores_and_says_what_the_others_came_to():
    summary = summarise([tagging(1, 0.0), tagging(2, 0.4)], "overall_f1", {"overall_accuracy": 7 / 8 + 1e-6})
    card = finetuned_card(summary, SETTINGS)
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["base_model"], data["datasets"]) == (
        "token-classification",
        "ada/spans",
        ["wnut_17"],
    )
    scores = {result.metric_name: (result.metric_type, result.metric_value) for result in card.data.eval_results}
    assert scores == {"overall f1": ("f1", 0.4), "overall accuracy": ("accuracy", 0.9)}
    assert "2 seeds were trained, of which 1 collapsed" in card.text
    assert "the weights of seed 2, which has the best overall_f1" in card.text
    assert "| overall_f1 | 0.4000 | 0.2000 | 0.0000 to 0.4000 |  |" in card.text
    assert "| overall_accuracy | 0.9000 | 0.9000 | 0.9000 to 0.9000 | 0.8750 |" in card.text
    assert "AutoModelForTokenClassification.from_pretrained" in card.text
    for row in ("| `learning_rate` | 0.0003 |", "| `weight_decay` | 0.0 |", "| `max_eval_samples` | 64 |"):
        assert row in card.text


def test_the_card_names_no_path_of_this_machine(home):
    files = {"train_file": str(home / "train.jsonl"), "validation_file": str(home / "dev.jsonl")}
    summary = summarise([tagging(1, 0.4)], "overall_f1", {})
    card = finetuned_card(summary, {**SETTINGS, **files, "model_name_or_path": str(home / "electra")})
    assert str(home) not in str(card) and "base_model" not in card.data.to_dict()
    assert "electra, fine-tuned for token-classification on train.jsonl." in card.text and "On dev.jsonl." in card.text
    assert "One seed was trained." in card.text and "baseline always" not in card.text
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
        patch.setattr("span_electra.run_finetuning.write_card", lambda *_: None)
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
