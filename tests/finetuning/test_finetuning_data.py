"""What files and data sets become: rows, labels, windows of long texts, and answers put together again."""

import json
import re

import datasets
import numpy as np
import pytest
from finetuning_examples import documents, squad, task_of, write_lines
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from span_electra.common.errors import InputError
from span_electra.common.tables import Column, read_examples, sample
from span_electra.finetuning.question_answering import (
    LONGEST_ANSWER,
    QuestionAnswering,
    answer_tokens,
    best_span,
    encode_questions,
)
from span_electra.finetuning.sentence_tasks import Classification, Regression
from span_electra.finetuning.token_classification import NO_LABEL, TokenClassification
from span_electra.tokenization.train_tokenizer import train_tokenizer

TEXT = {"text": Column(("sentence", "text")), "label": Column(("label",))}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows = [{"text": "null", "label": 1}, {"text": 'one, "two"', "label": 0}, {"text": "NA", "label": 1}]
    path = tmp_path / f"data.{suffix}"
    data = datasets.Dataset.from_list(rows)
    {"csv": data.to_csv, "parquet": data.to_parquet}.get(suffix, data.to_json)(path)
    rows = [row | {"label": str(row["label"])} for row in rows] if suffix == "csv" else rows
    assert read_examples(str(path), "train", TEXT, {}).to_list() == rows
    path = path.rename(tmp_path / f"DATA.{suffix.upper()}")
    assert read_examples(str(path), "train", TEXT, {}).to_list() == rows


@pytest.mark.parametrize("content", ["[{}, {}]", '{{"data": [{}, {}]}}', "\ufeff{}\n\n{}"])
def test_rows_of_json_may_be_in_a_list_under_data_or_in_lines(tmp_path, content):
    rows = [{"text": "2020-01-01", "label": "2020-01-02"}, {"text": "b", "label": "x", "more": [1]}]
    (tmp_path / "data.json").write_text(content.format(*map(json.dumps, rows)), encoding="utf-8")
    read = read_examples(str(tmp_path / "data.json"), "train", TEXT, {}).to_list()
    assert read == [{"text": row["text"], "label": row["label"]} for row in rows]  # no text becomes a date


def test_values_of_a_csv_file_are_what_stands_there(tmp_path):
    labels = ["01"] * 3 + ["1", "x", "true", "1.10"]
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"1990,{label}\n" for label in labels))
    read = read_examples(str(tmp_path / "data.csv"), "train", TEXT, {})
    assert read["text"][:] == ["1990"] * 7 and read["label"][:] == labels


def test_columns_are_found_by_their_usual_names_or_the_users(tmp_path):
    write_lines(tmp_path / "data.jsonl", [{"premise": "a", "sentence": "b", "label": 0, "more": 1}])
    read = read_examples(str(tmp_path / "data.jsonl"), "train", TEXT, {})
    assert read.to_list() == [{"text": "b", "label": 0}]
    read = read_examples(str(tmp_path / "data.jsonl"), "train", TEXT, {"text": "premise"})
    assert read.to_list() == [{"text": "a", "label": 0}]


def test_a_text_that_is_not_read_is_pointed_out_where_a_column_is_missing(home, tmp_path, caplog):
    write_lines(tmp_path / "data.jsonl", [{"sentence": "a", "question": "b", "label": i, "idx": i} for i in (0, 1)])
    task_of(Classification, home, tmp_path / "data.jsonl", tmp_path / "data.jsonl").build_rows()
    assert "has no sentence2. If that is question, give --columns sentence2=question." in caplog.text
    caplog.clear()
    options = {"columns": ["sentence1=question", "sentence2=sentence"]}
    task_of(Classification, home, tmp_path / "data.jsonl", tmp_path / "data.jsonl", **options).build_rows()
    assert "there is no" not in caplog.text


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


def classes_and_tags(path, label, tag):
    """A table of one row with `label` and `tag`, numbers whose names the table carries."""
    label_names, tag_names = datasets.ClassLabel(names=["same", "other"]), datasets.ClassLabel(names=["O", "B-a"])
    features = {"text": datasets.Value("string"), "label": label_names}
    features |= {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(tag_names)}
    rows = {"text": ["film", "city"], "label": [1, label], "tokens": [["film"], ["a"]], "ner_tags": [[1], [tag]]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)


def test_f1_is_that_of_the_second_class_in_the_datas_own_order(home, tmp_path):
    classes_and_tags(tmp_path / "data.parquet", 0, 0)
    task = task_of(Classification, home, tmp_path / "data.parquet", tmp_path / "data.parquet")
    task.build_rows()
    assert task.labels == ["same", "other"]
    assert task.score([1, 1])["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("task_class", [Classification, TokenClassification])
def test_numbers_that_stand_for_no_label_are_refused(home, tmp_path, task_class):
    classes_and_tags(tmp_path / "data.parquet", -1, -1)
    with pytest.raises(InputError, match=r"row 2.*: the label is -1; accepted are 0 to 1 \("):
        task_of(task_class, home, tmp_path / "data.parquet", tmp_path / "data.parquet").build_rows()


def test_classes_are_the_same_by_name_however_they_are_numbered(home, tmp_path):
    for name, names in (("train", ["no", "yes"]), ("dev", ["yes", "no"])):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = datasets.Dataset.from_dict({"text": ["film", "city"], "label": [1, 0]}, features=features)
        rows.to_parquet(tmp_path / f"{name}.parquet")
    write_lines(tmp_path / "named.jsonl", [{"text": "film", "label": "no "}, {"text": "city", "label": "yes"}])
    for train, dev in (
        ("train.parquet", "dev.parquet"),
        ("named.jsonl", "dev.parquet"),
        ("train.parquet", "named.jsonl"),
    ):
        task = task_of(Classification, home, tmp_path / train, tmp_path / dev)
        _, rows = task.build_rows()
        assert task.labels == ["no", "yes"] and rows["labels"][:] == task.references == [0, 1]


def test_names_of_questions_may_be_in_one_file_alone(home, tmp_path):
    rows = read_examples(str(home / "squad_dev.json"), "train", QuestionAnswering.columns, {})
    write_lines(tmp_path / "dev.jsonl", rows.remove_columns("id").to_list())
    task_of(QuestionAnswering, home, home / "squad_train.json", tmp_path / "dev.jsonl").build_rows()


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
    assert text.endswith("[SEP] film[SEP]") and train_rows[0]["labels"] in (0.0, 2.5)
    assert 1 in train_rows[0]["token_type_ids"]


def test_cut_rows_are_counted(home, tmp_path, caplog):
    write_lines(tmp_path / "long.jsonl", [{"text": "film " * 100, "label": 0}, {"text": "city", "label": 1}])
    task = task_of(Classification, home, tmp_path / "long.jsonl", home / "dev.jsonl", max_seq_length=32)
    train_rows, _ = task.build_rows()
    assert max(map(len, train_rows["input_ids"])) == 32
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "long.jsonl: 1 of 2 rows are longer than 32 tokens and were cut there. Raise --max_seq_length" in warning
    assert "up to 64" in warning


def test_a_label_that_only_the_training_data_has_is_pointed_out(home, tmp_path, caplog):
    write_lines(tmp_path / "dev.jsonl", [{"text": "film", "label": 0}])
    task_of(Classification, home, home / "train.jsonl", tmp_path / "dev.jsonl").build_rows()
    assert re.search(r"dev\.jsonl: no row has the label 1, which .*train\.jsonl has", caplog.text)
    caplog.clear()
    write_lines(tmp_path / "ner.jsonl", [{"tokens": ["Rome"], "ner_tags": ["B-place"]}])
    task_of(TokenClassification, home, home / "ner_train.jsonl", tmp_path / "ner.jsonl").build_rows()
    assert re.search(r"ner\.jsonl: no row has .* person, which", caplog.text)


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
    assert re.search(r"long\.jsonl: \d+ of 11 texts are longer than 24 tokens and were split", caplog.text)
    logits = np.zeros((len(windows), 24, len(task.labels)))
    for window, labels in enumerate(windows["labels"]):
        for place, label in enumerate(labels):
            logits[window, place, label if label != NO_LABEL else 1] = 1
    answers = task.answers(logits)
    assert answers == [*(row["ner_tags"] for row in rows), []]
    assert task.score(answers)["overall_f1"] == 1.0 and not task.all_alike(answers)
    assert task.all_alike(task.answers(np.zeros_like(logits)))  # O is the first label


@pytest.mark.parametrize("word", [" Rome", "\u200bRome", "\ufeffRome", "\u0301Rome"])
def test_a_word_of_which_the_tokenizer_drops_the_beginning_keeps_its_label(home, tmp_path, word):
    train_tokenizer(
        [home / "text.txt"], tmp_path / "word_piece", tokenizer_type="BERT", vocab_size=100, lowercase=True
    )
    write_lines(tmp_path / "ner.jsonl", [{"tokens": ["in", word, "who"], "ner_tags": ["O", "B-place", "O"]}])
    task = task_of(TokenClassification, home, tmp_path / "ner.jsonl", tmp_path / "ner.jsonl")
    task.tokenizer = AutoTokenizer.from_pretrained(tmp_path / "word_piece")
    rows, _ = task.build_rows()
    assert [label for label in rows[0]["labels"] if label != NO_LABEL] == [0, 1, 0]


def test_words_without_a_token_are_counted(home, tmp_path, caplog):
    write_lines(tmp_path / "ner.jsonl", [{"tokens": ["Rome", "", "who"], "ner_tags": ["B-place", "B-place", "O"]}])
    task_of(TokenClassification, home, tmp_path / "ner.jsonl", tmp_path / "ner.jsonl").build_rows()
    assert "ner.jsonl: the tokenizer drops 1 of the 3 words" in caplog.text


def test_every_window_points_at_the_whole_answer_or_at_its_first_token(home, tmp_path, caplog):
    (tmp_path / "long.json").write_text(json.dumps(squad(30, 6, length=60)))
    task = task_of(QuestionAnswering, home, tmp_path / "long.json", tmp_path / "long.json", max_seq_length=32)
    train_rows, _ = task.build_rows()
    assert "30 of 30 texts are longer than 32 tokens and were split into windows" in caplog.text
    assert max(map(len, train_rows["input_ids"])) == 32
    answered = set()
    for row, place in zip(train_rows, task.sources, strict=True):
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


def test_an_answer_has_at_most_30_tokens_as_in_electra():
    start, end = np.zeros(60), np.zeros(60)
    start[10], end[40], end[39] = 5, 5, 1  # 31 tokens and 30
    assert best_span(start, end) == (6, 10, 39)


def test_tokens_of_an_answer_cover_it():
    offsets = [(3, 6), (6, 9), (10, 12), (12, 15)]
    assert answer_tokens(offsets, 6, 9) == (1, 1)
    assert answer_tokens(offsets, 7, 13) == (1, 3)  # begins and ends within tokens
    assert answer_tokens(offsets, 9, 10) is None and answer_tokens(offsets, 15, 16) is None
    assert answer_tokens([], 0, 1) is None
    bytes_of_one = [(0, 1), (0, 1), (0, 1), (1, 4)]
    assert answer_tokens(bytes_of_one, 0, 1) == (0, 2) and answer_tokens(bytes_of_one, 0, 2) == (0, 3)


@pytest.mark.parametrize(
    ("context", "answer", "tokens"),
    [
        ("the law of Rome", " law ", "law"),
        ("the law ", "law ", "law"),
        (" law of Rome", " law", "law"),
        ("日本は", "本", "本"),
        ("cafe\u0301", "cafe\u0301", "cafe\u0301"),
    ],
)
def test_an_answer_is_where_its_text_is_whatever_is_around_it(home, tmp_path, context, answer, tokens):
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    write_lines(tmp_path / "qa.jsonl", [{"question": "who", "context": context, "answers": answers}])
    rows, _ = task_of(QuestionAnswering, home, tmp_path / "qa.jsonl", tmp_path / "qa.jsonl").build_rows()
    ids = rows[0]["input_ids"][rows[0]["start_positions"] : rows[0]["end_positions"] + 1]
    assert AutoTokenizer.from_pretrained(home / "tokenizer").decode(ids).strip() == tokens


def test_spaces_around_an_answer_are_no_part_of_it(home):
    pieces = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "▁the", "▁law", "▁of", "▁Rome", "▁who"]
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()  # a token's place begins with the space before it
    edges = {"special_tokens": [("[CLS]", 0), ("[SEP]", 1)], "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", **edges)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    batch = {
        "question": ["who"],
        "context": ["the law of Rome"],
        "answers": [{"text": [" law "], "answer_start": [3]}],
    }
    rows = encode_questions(batch, [0], tokenizer, max_length=32, stride=8)
    assert rows["start_positions"] == rows["end_positions"] == [rows["input_ids"][0].index(pieces.index("▁law"))]


def test_answers_that_no_window_holds_are_counted(home, tmp_path, caplog):
    rows = read_examples(str(home / "squad_dev.json"), "train", QuestionAnswering.columns, {}).to_list()[:3]
    long = " ".join(["film"] * 60)
    rows.append(rows[0] | {"context": long, "answers": {"text": [long], "answer_start": [0]}})
    write_lines(tmp_path / "qa.jsonl", rows)
    files = [tmp_path / "qa.jsonl", home / "squad_dev.json"]
    task_of(QuestionAnswering, home, *files, max_seq_length=32).build_rows()
    assert "qa.jsonl: no window of 32 tokens holds the whole answer of 1 of 4 questions. Raise" in caplog.text
