"""Metrics, checked by hand."""

import pytest

from span_electra.finetuning.metrics import F1, Accuracy, Mae, MatthewsCorrelation, Pearsonr, Seqeval, Spearmanr, Squad


def test_class_metrics_by_hand():
    pairs = {"predictions": [1, 1, 0, 0, 1], "references": [1, 0, 0, 1, 1]}  # 2 true and 1 false positives
    assert Accuracy().compute(**pairs) == {"accuracy": 0.6}
    assert F1().compute(**pairs) == {"f1": pytest.approx(2 / 3)}
    assert F1().compute(**pairs, average="macro") == {"f1": pytest.approx((2 / 3 + 1 / 2) / 2)}
    assert F1().compute(**pairs, average="macro", labels=[1]) == {"f1": pytest.approx(2 / 3)}
    expected = (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5
    assert MatthewsCorrelation().compute(**pairs) == {"matthews_correlation": pytest.approx(expected)}


def test_class_metrics_of_one_answer_are_zero_without_a_warning():
    assert MatthewsCorrelation().compute(predictions=[0, 0, 0], references=[0, 1, 2]) == {"matthews_correlation": 0.0}
    assert F1().compute(predictions=[0, 0], references=[0, 0]) == {"f1": 0.0}
    assert F1().compute(predictions=[0, 0], references=[0, 1]) == {"f1": 0.0}


def test_correlations_by_hand():
    pairs = {"predictions": [1.0, 2.0, 9.0], "references": [1.0, 2.0, 3.0]}
    assert Spearmanr().compute(**pairs) == {"spearmanr": pytest.approx(1.0)}
    assert Mae().compute(**pairs) == {"mae": pytest.approx(2.0)}
    # Deviations from the means: (-3, -2, 5) and (-1, 0, 1).
    assert Pearsonr().compute(**pairs) == {"pearsonr": pytest.approx(8 / (38 * 2) ** 0.5)}


@pytest.mark.parametrize("guess", [[2.0, 2.0, 2.0], [1.0, float("nan"), 3.0]])
def test_correlations_of_what_says_nothing_are_zero(guess):
    assert Pearsonr().compute(predictions=guess, references=[1.0, 2.0, 3.0]) == {"pearsonr": 0.0}
    assert Spearmanr().compute(predictions=guess, references=[1.0, 2.0, 3.0]) == {"spearmanr": 0.0}


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
