"""Metrics, checked by hand."""

import pytest

from span_electra.finetuning.metrics import ClassMetrics, ScoreMetrics, Seqeval, Squad


def test_class_metrics_by_hand():
    pairs = {"predictions": [1, 1, 0, 0, 1], "references": [1, 0, 0, 1, 1]}  # 2 true and 1 false positives
    expected = {"accuracy": 0.6, "f1": 2 / 3, "f1_macro": (2 / 3 + 1 / 2) / 2}
    expected["matthews_correlation"] = (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5
    assert ClassMetrics().compute(**pairs) == pytest.approx(expected)


def test_class_metrics_of_one_answer_are_zero_without_a_warning():
    scores = ClassMetrics().compute(predictions=[0, 0, 0], references=[0, 1, 2], classes=3)
    assert scores["matthews_correlation"] == 0.0 and "f1" not in scores
    assert ClassMetrics().compute(predictions=[0, 0], references=[0, 0])["f1"] == 0.0
    assert ClassMetrics().compute(predictions=[0, 0], references=[0, 1])["f1"] == 0.0
    # A class that only the predictions have does not count.
    assert ClassMetrics().compute(predictions=[1, 0], references=[1, 1])["f1_macro"] == pytest.approx(2 / 3)


def test_score_metrics_by_hand():
    scores = ScoreMetrics().compute(predictions=[1.0, 2.0, 9.0], references=[1.0, 2.0, 3.0])
    # Deviations from the means: (-3, -2, 5) and (-1, 0, 1).
    assert scores == pytest.approx({"pearsonr": 8 / (38 * 2) ** 0.5, "spearmanr": 1.0, "mae": 2.0})


@pytest.mark.parametrize("guess", [[2.0, 2.0, 2.0], [1.0, float("nan"), 3.0]])
def test_correlations_of_what_says_nothing_are_zero(guess):
    scores = ScoreMetrics().compute(predictions=guess, references=[1.0, 2.0, 3.0])
    assert scores["pearsonr"] == scores["spearmanr"] == 0.0


def test_an_entity_counts_where_type_and_both_ends_are_right():
    truth = [["B-x", "I-x", "O", "B-y"], ["O", "I-x"]]  # the last I- begins an entity
    guess = [["B-x", "I-x", "O", "B-x"], ["I-x", "I-x"]]
    expected = {"overall_precision": 1 / 3, "overall_recall": 1 / 3, "overall_f1": 1 / 3, "overall_accuracy": 4 / 6}
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
        ("an", ["the"], 100, 0),  # without words, answers are the same and have none in common: SQuAD 1.1's script
        ("1,000", ["1000"], 100, 100),
    ],
)
def test_answers_are_compared_as_squad_does(guess, answers, exact, f1):
    references = [{"id": "q", "answers": {"text": answers, "answer_start": [0] * len(answers)}}]
    scores = Squad().compute(predictions=[{"id": "q", "prediction_text": guess}], references=references)
    assert scores == pytest.approx({"exact_match": exact, "f1": f1})
