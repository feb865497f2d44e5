"""Fine-tuning: metrics, data, windows, learning rates, what is refused in which words, and a journey for each task."""

import json
import random
import re
import struct

import datasets
import numpy as np
import pytest
import scipy.stats
import torch
from refusals import assert_refused
from seqeval.metrics import accuracy_score as seqeval_accuracy
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score as seqeval_precision
from seqeval.metrics import recall_score as seqeval_recall
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
)

from span_electra import SpanElectraConfig, SpanElectraForMaskedLM, SpanElectraForPreTraining
from span_electra.finetuning.arguments import FinetuningArguments, TaskArguments, parse_arguments, settle_by_size
from span_electra.finetuning.data import Column, read_examples, sample
from span_electra.finetuning.encoders import build_model, load_config
from span_electra.finetuning.metrics import F1, Accuracy, MatthewsCorrelation, Pearsonr, Seqeval, Spearmanr, Squad
from span_electra.finetuning.questions import LONGEST_ANSWER, Answer, QuestionAnswering, answer_tokens, best_span
from span_electra.finetuning.report import SeedResult, best_result, results_table, summarise
from span_electra.finetuning.sentences import Classification, Regression
from span_electra.finetuning.tokens import NO_LABEL, TokenClassification, first_tokens
from span_electra.finetuning.trainer import FinetuningTrainer, parameter_depths
from span_electra.run_finetuning import main, run
from span_electra.tokenization.text import InputError
from span_electra.tokenization.train_tokenizer import train_tokenizer

torch.set_num_threads(1)  # more cost time on models as small as these
GOOD, BAD = ["great", "lovely", "superb"], ["awful", "dreadful", "boring"]
NEUTRAL = ["film", "music", "city", "story", "evening", "table", "window", "river"]
PEOPLE, PLACES = ["Ada", "Grace", "Alan"], ["Paris", "Rome", "Oslo"]
SURNAMES = ["Lovelace", "Hopper", "Turing"]
SHAPE = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 64, "max_position_embeddings": 64}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sentences(count, seed):
    """A label that one word decides."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        words = [*draw.choices(NEUTRAL, k=draw.randrange(2, 7)), draw.choice((BAD, GOOD)[label])]
        draw.shuffle(words)
        rows.append({"sentence1": " ".join(words), "label": label})
    return rows


def documents(count, seed, longest=8):
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(draw.randrange(3, longest)):
            kind = draw.randrange(4)
            if kind == 0:
                words += [draw.choice(PEOPLE), draw.choice(SURNAMES)]
                tags += ["B-person", "I-person"]
            else:
                words.append(draw.choice(PLACES if kind == 1 else NEUTRAL))
                tags.append("B-place" if kind == 1 else "O")
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def squad(count, seed, length=10):
    """A question asks for the only name in its context."""
    draw = random.Random(seed)
    paragraphs = []
    for i in range(count):
        words = draw.choices(NEUTRAL, k=length)
        answer = draw.choice(PEOPLE)
        words[draw.randrange(length)] = answer
        context = " ".join(words)
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        paragraphs.append(
            {"context": context, "qas": [{"id": f"q{seed}-{i}", "question": "who story", "answers": answers}]}
        )
    return {"version": "1.1", "data": [{"title": "names", "paragraphs": paragraphs}]}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keeps what is read out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
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
    for part, seed, count in (("train", 1, 160), ("dev", 2, 40)):
        rows = sentences(count, seed)
        write_lines(home / f"{part}.jsonl", rows)
        scores = [{"sentence1": row["sentence1"], "sentence2": "film", "label": row["label"] * 2.5} for row in rows]
        write_lines(home / f"scores_{part}.jsonl", scores)
        write_lines(home / f"ner_{part}.jsonl", documents(count, seed))
        (home / f"squad_{part}.json").write_text(json.dumps(squad(count, seed)))
    write_bad_data(home)
    (home / "used").mkdir()
    (home / "used" / "thesis.txt").write_text("my only copy")
    for name, marker in (("run", "finetuning.json"), ("pretraining_run", "arguments.json")):
        (home / name).mkdir()
        (home / name / marker).write_text("{}")
        (home / name / "model.safetensors").write_text("weights")
    return home


def write_bad_data(home):
    good, entity = {"sentence1": "film", "label": 1}, {"tokens": ["Ada"], "ner_tags": ["B-person"]}
    write_lines(home / "unknown_label.jsonl", [good, {"sentence1": "city", "label": 7}])
    write_lines(home / "one_label.jsonl", [good, good])
    write_lines(home / "no_label.jsonl", [{"sentence1": "film", "kind": 1}])
    write_lines(home / "empty_label.jsonl", [good, {"sentence1": "film", "label": None}])
    write_lines(home / "number_text.jsonl", [{"sentence1": 5, "label": 1}])
    write_lines(home / "pairs.jsonl", [good | {"sentence2": "city"}])
    write_lines(home / "word_scores.jsonl", [{"sentence1": "a", "sentence2": "b", "label": "high"}])
    write_lines(home / "same_scores.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 2.5}] * 2)
    write_lines(home / "ner_unknown.jsonl", [entity, {"tokens": ["x"], "ner_tags": ["B-ship"]}])
    write_lines(home / "ner_uneven.jsonl", [{"tokens": ["x", "y"], "ner_tags": ["O"]}])
    write_lines(home / "ner_not_bio.jsonl", [{"tokens": ["x"], "ner_tags": ["NOUN"]}])
    write_lines(home / "ner_ids.jsonl", [{"tokens": ["x"], "ner_tags": [3]}])
    write_lines(home / "ner_outside.jsonl", [{"tokens": ["x"], "ner_tags": ["O"]}])
    (home / "empty.jsonl").write_text("")
    (home / "no_rows.csv").write_text("sentence1,label\n")
    (home / "broken.jsonl").write_text('{"sentence1": "film", "label": 1}\n{"sentence1": ')
    (home / "table.xlsx").write_text("")
    content = squad(1, 5)
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    (home / "squad_shifted.json").write_text(json.dumps(content))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "Zuse"
    (home / "squad_elsewhere.json").write_text(json.dumps(content))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    (home / "squad_unanswered.json").write_text(json.dumps(content))
    del content["data"][0]["paragraphs"][0]["context"]
    (home / "squad_no_context.json").write_text(json.dumps(content))
    (home / "squad_empty.json").write_text(json.dumps({"data": []}))


def arguments(home, folder, **changes):
    options = {"model_name_or_path": home / "electra", "task": "classification", "output_dir": folder}
    options |= {"train_file": home / "train.jsonl", "validation_file": home / "dev.jsonl", "num_train_epochs": 1}
    options |= {"per_device_train_batch_size": 16, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    options = {name: value for name, value in (options | changes).items() if value is not None}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def task_of(task_class, home, train, validation, longest=64, **options):
    task_arguments = TaskArguments(train_file=str(train), validation_file=str(validation), **options)
    return task_class(task_arguments, AutoTokenizer.from_pretrained(home / "tokenizer"), longest)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


# --- metrics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
def test_class_metrics_equal_scikit_learn(classes):
    draw = np.random.default_rng(0)
    pairs = {"predictions": draw.integers(0, classes, 200), "references": draw.integers(0, classes, 200)}
    truth, guess = pairs["references"], pairs["predictions"]
    assert Accuracy().compute(**pairs) == {"accuracy": pytest.approx(accuracy_score(truth, guess))}
    assert F1().compute(**pairs, average="macro") == {"f1": pytest.approx(f1_score(truth, guess, average="macro"))}
    expected = matthews_corrcoef(truth, guess)
    assert MatthewsCorrelation().compute(**pairs) == {"matthews_correlation": pytest.approx(expected)}
    if classes == 2:
        assert F1().compute(**pairs) == {"f1": pytest.approx(f1_score(truth, guess))}


def test_class_metrics_of_constant_predictions_equal_scikit_learn():
    truth, guess = [0, 1, 1, 0, 2], [0] * 5
    pairs = {"predictions": guess, "references": truth}
    assert MatthewsCorrelation().compute(**pairs) == {"matthews_correlation": 0.0}
    expected = f1_score(truth, guess, average="macro")
    assert F1().compute(**pairs, average="macro") == {"f1": pytest.approx(expected)}
    assert F1().compute(predictions=[0, 0], references=[0, 0]) == {"f1": 0.0}


def test_correlations_equal_scipy_ties_and_all():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 6, 300).astype(float)
    guess = np.round(truth + draw.normal(size=300), 1)
    pairs = {"predictions": guess, "references": truth}
    assert Pearsonr().compute(**pairs)["pearsonr"] == pytest.approx(scipy.stats.pearsonr(truth, guess)[0], abs=1e-6)
    expected = scipy.stats.spearmanr(truth, guess)[0]
    assert Spearmanr().compute(**pairs)["spearmanr"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("guess", [[2.0, 2.0, 2.0], [1.0, float("nan"), 3.0]])
def test_correlations_of_what_says_nothing_are_zero(guess):
    assert Pearsonr().compute(predictions=guess, references=[1.0, 2.0, 3.0]) == {"pearsonr": 0.0}
    assert Spearmanr().compute(predictions=guess, references=[1.0, 2.0, 3.0]) == {"spearmanr": 0.0}


def test_entity_scores_equal_seqeval_on_any_tags():
    draw = random.Random(0)
    tags = ["O", "B-x", "I-x", "B-y", "I-y"]
    truth = [draw.choices(tags, k=draw.randrange(1, 12)) for _ in range(300)]
    guess = [[tag if draw.random() < 0.6 else draw.choice(tags) for tag in row] for row in truth]
    expected = {
        "overall_precision": seqeval_precision(truth, guess),
        "overall_recall": seqeval_recall(truth, guess),
        "overall_f1": seqeval_f1(truth, guess),
        "overall_accuracy": seqeval_accuracy(truth, guess),
    }
    assert Seqeval().compute(predictions=guess, references=truth) == pytest.approx(expected)


def test_entity_scores_without_entities_are_zero():
    scores = Seqeval().compute(predictions=[["O"]], references=[["O"]])
    assert scores["overall_f1"] == 0.0 and scores["overall_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("guess", "answers", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 100, 100),
        ("in Paris", ["Paris"], 0, 200 / 3),
        ("Rome", ["Oslo", "rome"], 100, 100),
        ("the the cat", ["cat cat"], 0, 200 / 3),
        ("", ["Paris"], 0, 0),
        ("an", ["the"], 100, 100),
        ("1,000", ["1000"], 100, 100),
    ],
)
def test_answers_are_compared_as_squad_does(guess, answers, exact, f1):
    references = [{"id": "q", "answers": {"text": answers, "answer_start": [0] * len(answers)}}]
    scores = Squad().compute(predictions=[{"id": "q", "prediction_text": guess}], references=references)
    assert scores == pytest.approx({"exact_match": exact, "f1": f1})


# --- data --------------------------------------------------------------------------------------------------------

TEXT = {"text": Column(("sentence", "text")), "label": Column(("label",))}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows = [{"text": "null", "label": 1}, {"text": 'one, "two"', "label": 0}, {"text": "NA", "label": 1}]
    path = tmp_path / f"data.{suffix}"
    data = datasets.Dataset.from_list(rows)
    {"csv": data.to_csv, "parquet": data.to_parquet}.get(suffix, data.to_json)(path)
    assert read_examples(str(path), "train", TEXT, {}).to_list() == rows


def test_columns_are_found_by_their_usual_names_or_the_users(tmp_path):
    write_lines(tmp_path / "data.jsonl", [{"premise": "a", "sentence": "b", "label": 0, "more": 1}])
    read = read_examples(str(tmp_path / "data.jsonl"), "train", TEXT, {})
    assert read.to_list() == [{"text": "b", "label": 0}]
    read = read_examples(str(tmp_path / "data.jsonl"), "train", TEXT, {"text": "premise"})
    assert read.to_list() == [{"text": "a", "label": 0}]


def test_squads_format_gives_a_row_for_each_question(home):
    columns = QuestionAnswering.columns
    rows = read_examples(str(home / "squad_dev.json"), "train", columns, {})
    assert len(rows) == 40 and set(rows.column_names) == {"id", "question", "context", "answers"}
    first = rows[0]
    (start,), (text,) = first["answers"]["answer_start"], first["answers"]["text"]
    assert first["id"] == "q2-0" and first["context"][start : start + len(text)] == text


def test_a_sample_is_the_same_every_time_and_not_the_beginning():
    rows = datasets.Dataset.from_dict({"n": list(range(100))})
    first, again = (sample(rows, 10)["n"][:] for _ in range(2))
    assert first == again == sorted(first) and first != list(range(10)) and len(set(first)) == 10
    assert len(sample(rows, 200)) == 100


def test_class_names_of_a_data_set_are_the_models_labels(home, tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["film", "city"], "label": [1, 0]}, features=features)
    rows.to_parquet(tmp_path / "data.parquet")
    task = task_of(Classification, home, tmp_path / "data.parquet", tmp_path / "data.parquet")
    train_rows, _ = task.build_rows()
    assert task.head_settings()["id2label"] == {0: "no", 1: "yes"} and train_rows["labels"][:] == [1, 0]


def test_labels_are_the_same_as_text_as_number_and_with_a_point(home, tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"text": "film", "label": label} for label in (2, 10, 0)])
    (tmp_path / "dev.csv").write_text("text,label\nfilm,10.0\nfilm,2.0\nfilm,0.0\n")
    task = task_of(Classification, home, tmp_path / "train.jsonl", tmp_path / "dev.csv")
    _, eval_rows = task.build_rows()
    assert task.labels == ["0", "2", "10"] and eval_rows["labels"][:] == [2, 1, 0]


def test_pairs_are_encoded_with_both_sentences(home):
    task = task_of(Regression, home, home / "scores_train.jsonl", home / "scores_dev.jsonl")
    train_rows, _ = task.build_rows()
    text = task.tokenizer.decode(train_rows[0]["input_ids"])
    assert text.endswith("[SEP]film[SEP]") and train_rows[0]["labels"] in (0.0, 2.5)
    assert 1 in train_rows[0]["token_type_ids"]


def test_cut_rows_are_counted(home, tmp_path, caplog):
    write_lines(tmp_path / "long.jsonl", [{"text": "film " * 100, "label": 0}, {"text": "city", "label": 1}])
    task = task_of(Classification, home, tmp_path / "long.jsonl", home / "dev.jsonl", max_seq_length=32)
    train_rows, _ = task.build_rows()
    assert max(map(len, train_rows["input_ids"])) == 32
    (warning,) = caplog.messages
    assert "long.jsonl: 1 of 2 rows are longer than 32 tokens and were cut there. Raise --max_seq_length" in warning
    assert "room for 64" in warning


def test_a_label_that_only_the_training_data_has_is_pointed_out(home, tmp_path, caplog):
    write_lines(tmp_path / "dev.jsonl", [{"text": "film", "label": 0}])
    task_of(Classification, home, home / "train.jsonl", tmp_path / "dev.jsonl").build_rows()
    assert re.search(r"dev\.jsonl: no row has the label 1, which .*train\.jsonl has", caplog.text)
    caplog.clear()
    write_lines(tmp_path / "ner.jsonl", [{"tokens": ["Rome"], "ner_tags": ["B-place"]}])
    task_of(TokenClassification, home, home / "ner_train.jsonl", tmp_path / "ner.jsonl").build_rows()
    assert re.search(r"ner\.jsonl: no row has an entity of the type person, which", caplog.text)


def test_an_inside_tag_is_known_by_its_entitys_type(home, tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"tokens": ["Rome"], "ner_tags": ["B-place"]}])
    write_lines(tmp_path / "dev.jsonl", [{"tokens": ["Rome", "Oslo"], "ner_tags": ["B-place", "I-place"]}])
    task = task_of(TokenClassification, home, tmp_path / "train.jsonl", tmp_path / "dev.jsonl")
    task.build_rows()
    assert task.labels == ["O", "B-place", "I-place"]


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer_name", ["tokenizer", "word_piece"])
def test_every_word_is_labelled_once_at_its_first_token_however_long_the_document(home, tmp_path, tokenizer_name):
    if tokenizer_name == "word_piece":
        train_tokenizer([home / "text.txt"], tmp_path / "word_piece", tokenizer_type="BERT", vocab_size=100)
    rows = documents(30, 3, longest=120)
    rows += [{"tokens": ["élan", "naïve", "x" * 90, "Ada"], "ner_tags": ["O", "O", "O", "B-person"]}]
    write_lines(tmp_path / "long.jsonl", [*rows, {"tokens": [], "ner_tags": []}])
    task = task_of(
        TokenClassification, home, tmp_path / "long.jsonl", tmp_path / "long.jsonl", max_seq_length=24, stride=8
    )
    if tokenizer_name == "word_piece":
        task.tokenizer = AutoTokenizer.from_pretrained(tmp_path / "word_piece")
    _, windows = task.build_rows()
    assert max(map(len, windows["input_ids"])) == 24 and len(windows) > 2 * len(rows)
    found = [(document, word) for document, words in zip(task.documents, task.words, strict=True) for word in words]
    assert sorted(found) == [(i, word) for i, row in enumerate(rows) for word in range(len(row["tokens"]))]
    for i, (window, document, words) in enumerate(zip(windows, task.documents, task.words, strict=True)):
        places = [place for place, label in enumerate(window["labels"]) if label != NO_LABEL]
        # Of 8 tokens that two windows share, each labels the half that lies farther from its edge.
        assert document not in task.documents[:i] or min(places) >= 4
        assert document not in task.documents[i + 1 :] or max(places) <= 23 - 4
        for place, word in zip(places, words, strict=True):
            piece = task.tokenizer.decode([window["input_ids"][place]]).strip().removeprefix("##")
            # An unknown character, or the first byte of one.
            piece = piece.removeprefix("[UNK]").rstrip("\N{REPLACEMENT CHARACTER}")
            assert rows[document]["tokens"][word].startswith(piece)
            assert task.labels[window["labels"][place]] == rows[document]["ner_tags"][word]


def test_right_scores_in_windows_come_together_as_right_tags(home, tmp_path, caplog):
    rows = documents(10, 4, longest=90)
    write_lines(tmp_path / "long.jsonl", [*rows, {"tokens": [], "ner_tags": []}])
    task = task_of(TokenClassification, home, tmp_path / "long.jsonl", tmp_path / "long.jsonl", max_seq_length=24)
    _, windows = task.build_rows()
    assert re.search(r"long\.jsonl: \d+ of 11 rows are longer than 24 tokens and were split", caplog.text)
    logits = np.zeros((len(windows), 24, len(task.labels)))
    for window, labels in enumerate(windows["labels"]):
        for place, label in enumerate(labels):
            logits[window, place, label if label != NO_LABEL else 1] = 1
    answers = task.answers(logits)
    assert answers == [*(row["ner_tags"] for row in rows), []]
    assert task.score(answers)["overall_f1"] == 1.0 and not task.all_alike(answers)
    assert task.all_alike(task.answers(np.zeros_like(logits)))  # O is the first label


def test_a_words_first_token_may_begin_with_the_space_before_it():
    offsets = [(0, 0), (0, 2), (2, 6), (6, 8), (8, 9), (0, 0)]  # "one two": [CLS], on, e_tw of both, …
    assert first_tokens([(0, 0), (0, 3), (3, 6), (6, 7), (0, 0)], ["one", "two"]) == {0: 1, 1: 2}
    assert first_tokens([(0, 0), (2, 3), (4, 7), (0, 0)], ["one", "two"]) == {1: 2}  # begins within a word
    assert first_tokens(offsets, ["one", "twoo"]) == {0: 1, 1: 2}


def test_every_window_points_at_the_whole_answer_or_at_its_first_token(home, tmp_path, caplog):
    (tmp_path / "long.json").write_text(json.dumps(squad(30, 6, length=60)))
    task = task_of(QuestionAnswering, home, tmp_path / "long.json", tmp_path / "long.json", max_seq_length=32)
    train_rows, _ = task.build_rows()
    assert "30 of 30 contexts are longer than a row of 32 tokens and were split into windows" in caplog.text
    assert max(map(len, train_rows["input_ids"])) == 32
    answered = set()
    for row, place in zip(train_rows, task.places, strict=True):
        example = task.validation[place["example"]]
        (start,), (text,) = example["answers"]["answer_start"], example["answers"]["text"]
        seen = place["offsets"][0][0] <= start and start + len(text) <= place["offsets"][-1][1]
        if seen:
            answered.add(place["example"])
            ids = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
            assert task.tokenizer.decode(ids).strip() == text
        else:
            assert row["start_positions"] == row["end_positions"] == 0
    assert len(answered) == 30


def test_right_scores_in_windows_give_the_right_answers(home, tmp_path):
    (tmp_path / "long.json").write_text(json.dumps(squad(10, 7, length=60)))
    task = task_of(QuestionAnswering, home, tmp_path / "long.json", tmp_path / "long.json", max_seq_length=32)
    _, rows = task.build_rows()
    scores = [np.full((len(rows), 32), -5.0) for _ in range(2)]
    for window, row in enumerate(rows):
        for side, name in zip(scores, ("start_positions", "end_positions"), strict=True):
            side[window, row[name]] = 5.0
    answers = task.answers(tuple(scores))
    assert task.score(answers) == {"exact_match": 100.0, "f1": 100.0}
    assert not task.all_alike(answers)
    for lost in (np.zeros((len(rows), 32)), np.full((len(rows), 32), np.nan)):
        assert task.all_alike(task.answers((lost, lost)))


def test_long_questions_are_cut_and_counted(home, tmp_path, caplog):
    content = squad(2, 8)
    content["data"][0]["paragraphs"][0]["qas"][0]["question"] = "who " * 50
    (tmp_path / "squad.json").write_text(json.dumps(content))
    task = task_of(QuestionAnswering, home, tmp_path / "squad.json", home / "squad_dev.json", max_seq_length=48)
    task.build_rows()
    assert re.search(r"squad\.json: 1 of 2 questions are longer than 12 tokens, a quarter of a row", caplog.text)


def test_the_best_span_equals_a_search_through_all():
    draw = np.random.default_rng(0)
    for _ in range(50):
        start, end = draw.normal(size=(2, 60))
        spans = [(i, j) for i in range(60) for j in range(i, min(60, i + LONGEST_ANSWER))]
        first, last = max(spans, key=lambda span: start[span[0]] + end[span[1]])
        assert best_span(start, end) == (pytest.approx(start[first] + end[last]), first, last)


def test_tokens_of_an_answer_cover_it():
    offsets = [(3, 6), (6, 9), (10, 12), (12, 15)]
    assert answer_tokens(offsets, 6, 3) == (1, 1)
    assert answer_tokens(offsets, 7, 6) == (1, 3)  # begins and ends within tokens
    assert answer_tokens(offsets, 2, 3) is None and answer_tokens(offsets, 12, 4) is None
    assert answer_tokens([], 0, 1) is None


# --- what is refused ---------------------------------------------------------------------------------------------

NER = {"task": "token-classification", "train_file": "{home}/ner_train.jsonl"}
NER |= {"validation_file": "{home}/ner_dev.jsonl"}
QA = {"task": "question-answering", "train_file": "{home}/squad_train.json"}
QA |= {"validation_file": "{home}/squad_dev.json"}
SCORES = {"task": "regression", "train_file": "{home}/scores_train.jsonl"}
SCORES |= {"validation_file": "{home}/scores_dev.jsonl"}
REFUSED = {
    "unknown label": (
        {"validation_file": "{home}/unknown_label.jsonl"},
        r"unknown_label\.jsonl, row 2: the label '7' does not occur in .*train\.jsonl, which has 0, 1\. Correct",
    ),
    "one label": ({"train_file": "{home}/one_label.jsonl"}, r"one_label\.jsonl: all rows have the label '1'"),
    "missing column": (
        {"train_file": "{home}/no_label.jsonl"},
        r"no_label\.jsonl: no column 'label'\. The columns are: sentence1, kind\. .*--columns label=NAME",
    ),
    "missing named column": ({"columns": "label=gold"}, r"no column 'gold'\. The columns are: sentence1, label"),
    "unknown column": ({"columns": "labl=gold"}, r"--columns labl=gold: names one of sentence1, .* write label=NAME"),
    "column without name": ({"columns": "label"}, r"--columns label: .* write label=NAME"),
    "no label": ({"validation_file": "{home}/empty_label.jsonl"}, r"row 2: no label\. Give each row one"),
    "text is a number": ({"train_file": "{home}/number_text.jsonl"}, r"row 1: sentence1 is 5, which is not text"),
    "pairs and singles": ({"train_file": "{home}/pairs.jsonl"}, r"only one of them has the column 'sentence2'"),
    "scores as labels": (
        {"train_file": "{home}/scores_train.jsonl", "validation_file": "{home}/scores_dev.jsonl"},
        r"the label 2\.5 is a score\. Use --task regression",
    ),
    "words as scores": (
        SCORES | {"validation_file": "{home}/word_scores.jsonl"},
        r"word_scores\.jsonl, row 1: the label 'high' is not a number",
    ),
    "constant scores": (SCORES | {"train_file": "{home}/same_scores.jsonl"}, r"all rows have the label 2\.5"),
    "unknown tag": (
        NER | {"validation_file": "{home}/ner_unknown.jsonl"},
        r"row 2, tag 1: 'B-ship' does not occur in .*ner_train\.jsonl, which has .* person, place\.",
    ),
    "uneven tags": (NER | {"train_file": "{home}/ner_uneven.jsonl"}, r"two lists of one length; .* 2 long and 1 long"),
    "not BIO": (NER | {"train_file": "{home}/ner_not_bio.jsonl"}, r"row 1, tag 1: 'NOUN' is not a BIO tag"),
    "tag ids": (NER | {"train_file": "{home}/ner_ids.jsonl"}, r"row 1, tag 1: 3 is not a BIO tag"),
    "no entities": (
        NER | {"train_file": "{home}/ner_outside.jsonl"},
        r"all tags are O\. Give rows that have entities",
    ),
    "answer elsewhere": (
        QA | {"train_file": "{home}/squad_elsewhere.json"},
        r"q5-0: the answer 'Zuse' is not at character \d+ of its context: it is not in the context\. Correct",
    ),
    "answer shifted": (QA | {"validation_file": "{home}/squad_shifted.json"}, r"q5-0: the answer .*: it is at \d+\."),
    "no answer": (QA | {"train_file": "{home}/squad_unanswered.json"}, r"q5-0: 0 answers at 0 places"),
    "no context": (
        QA | {"train_file": "{home}/squad_no_context.json"},
        r"not in SQuAD's format \(KeyError: 'context'",
    ),
    "no such file": ({"train_file": "{home}/missing.jsonl"}, r"missing\.jsonl: no such file"),
    "no such data set": ({"train_file": "user/missing"}, r"user/missing: neither a file, .* can be loaded"),
    "unknown suffix": (
        {"train_file": "{home}/table.xlsx"},
        r"table\.xlsx: unknown suffix '\.xlsx'; accepted are \.jsonl",
    ),
    "broken lines": ({"train_file": "{home}/broken.jsonl"}, r"broken\.jsonl: cannot be read as JSON"),
    "empty file": ({"train_file": "{home}/empty.jsonl"}, r"empty\.jsonl: cannot be read as JSON, or has no rows"),
    "no rows": ({"train_file": "{home}/no_rows.csv"}, r"no_rows\.csv: cannot be read as CSV, or has no rows"),
    "no questions": (QA | {"train_file": "{home}/squad_empty.json"}, r"squad_empty\.json: no rows"),
    "no training data": ({"train_file": None}, r"--train_file is missing"),
    "no validation data": ({"validation_file": None}, r"--validation_file is missing: the best checkpoint"),
    "no task": ({"task": None}, r"--task is missing; accepted are classification, regression, token-class"),
    "unknown task": ({"task": "ner"}, r"--task is 'ner'; accepted are"),
    "no model": ({"model_name_or_path": None}, r"--model_name_or_path is missing"),
    "no such model": ({"model_name_or_path": "{home}/missing"}, r"missing: cannot be loaded"),
    "no tokenizer": ({"tokenizer": "{home}/halves"}, r"halves: no tokenizer can be loaded .*--tokenizer"),
    "generator": (
        {"model_name_or_path": "{home}/generator"},
        r"saved as ElectraForMaskedLM, a generator, .* Fine-tune the discriminator: .*/discriminator\.",
    ),
    "generator beside its discriminator": (
        {"model_name_or_path": "{home}/halves/generator"},
        r"Fine-tune the discriminator: .*/halves/discriminator\.",
    ),
    "SpanElectra's generator": (
        {"model_name_or_path": "{home}/span_generator"},
        r"was saved as SpanElectraForMaskedLM, a generator",
    ),
    "first of two stages": (
        {"model_name_or_path": "{home}/first_stage"},
        r"first_stage: only its generator was trained .* --objective discriminator --generator .*first_stage\.",
    ),
    "unknown option": ({"seds": 5}, r"--seds is not an option: did you mean --seeds\?"),
    "too long": ({"max_seq_length": 65}, r"--max_seq_length is 65; it must lie between 16 and 64"),
    "too short": ({"max_seq_length": 8}, r"--max_seq_length is 8; it must lie between 16 and 64"),
    "large stride": ({"max_seq_length": 32, "stride": 20}, r"--stride is 20; it must be at most half"),
    "no seeds": ({"seeds": 0}, r"--seeds is 0; it must be at least 1"),
    "no learning": ({"learning_rate": 0}, r"--learning_rate is 0\.0; it must be above 0"),
    "growing rates": ({"layerwise_lr_decay": 1.5}, r"--layerwise_lr_decay is 1\.5; it must lie in \(0, 1\]"),
    "no epochs": ({"num_train_epochs": 0}, r"--num_train_epochs is 0\.0; it must be above 0"),
    "no evaluation": ({"eval_strategy": "no"}, r"--eval_strategy is no; .* give steps or epoch"),
    "unknown metric": ({"metric_for_best_model": "bleu"}, r"is 'bleu'; accepted here are accuracy, .*, loss\."),
    "upload": ({"push_to_hub": True}, r"--push_to_hub: .* hf upload"),
    "resume": ({"resume_from_checkpoint": "true"}, r"--resume_from_checkpoint: .* leave it out"),
    "no output": ({"output_dir": None}, r"--output_dir is missing"),
    "used folder": ({"output_dir": "{home}/used"}, r"already holds something that is not a run .*thesis\.txt"),
    "earlier run": ({"output_dir": "{home}/run"}, r"already holds a run; replace it by --overwrite_output_dir"),
    "pretraining's folder": (
        {"output_dir": "{home}/pretraining_run", "overwrite_output_dir": True},
        r"already holds something that is not a run of this script",
    ),
    "the model's own folder": (
        {"output_dir": "{home}/electra", "overwrite_output_dir": True},
        r"lies in --output_dir, which --overwrite_output_dir would empty",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_touched(home, tmp_path, capsys, case):
    changes, text = REFUSED[case]
    changes = {k: v.format(home=home) if isinstance(v, str) else v for k, v in changes.items()}
    out = tmp_path / "out"
    assert_refused(main, arguments(home, out, **changes), text, home, out, capsys)


def test_an_encoder_that_is_in_part_random_is_refused(home, tmp_path):
    with pytest.raises(
        InputError, match=r"half_empty: 16 of the encoder's weights are missing .*layer\.1.*from_scratch"
    ):
        run(arguments(home, tmp_path / "out", model_name_or_path=home / "half_empty"))


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
    main(arguments(home, folder, max_steps=1, overwrite_output_dir=True))
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
