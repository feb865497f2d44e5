"""Common metrics as `evaluate.Metric`s that need no network, unlike `evaluate.load`, which downloads their code.

Names, arguments and results equal those of the Hub's metrics, so that scores can be compared.

    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666}
"""

import re
import string
from collections import Counter

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from seqeval import metrics as entity_metrics
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


class OfflineMetric(evaluate.Metric):
    """A metric that stays in memory and is described by its docstring."""

    features: datasets.Features

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self):
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=self.features)


class ClassMetric(OfflineMetric):
    """Compares class ids."""

    features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})


class Accuracy(ClassMetric):
    """The ratio of correct predictions."""

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(ClassMetric):
    """The harmonic mean of precision and recall, for class 1 (`binary`) or averaged over classes (`macro`): those in
    `labels`, or all that occur."""

    def _compute(self, predictions, references, average="binary", labels=None):
        return {"f1": float(f1_score(references, predictions, average=average, labels=labels, zero_division=0))}


class MatthewsCorrelation(ClassMetric):
    """Matthews' correlation for any number of classes (Gorodkin, 2004); 0 if one side is constant."""

    def _compute(self, predictions, references):
        varies = np.ptp(references) and np.ptp(predictions)
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions)) if varies else 0.0}


class ScoreMetric(OfflineMetric):
    """Compares numbers."""

    features = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})


class Pearsonr(ScoreMetric):
    """Pearson's correlation; 0 if one side is constant or not finite."""

    def _compute(self, predictions, references):
        return {"pearsonr": correlation(stats.pearsonr, predictions, references)}


class Spearmanr(ScoreMetric):
    """Spearman's correlation; 0 if one side is constant or not finite."""

    def _compute(self, predictions, references):
        return {"spearmanr": correlation(stats.spearmanr, predictions, references)}


class Mae(ScoreMetric):
    """The mean absolute difference between predictions and references."""

    def _compute(self, predictions, references):
        return {"mae": float(np.abs(np.subtract(predictions, references)).mean())}


class Seqeval(OfflineMetric):
    """Precision, recall and F1 over entities (with exactly the right tokens and type), and accuracy over tokens.

    Entities are those of the package seqeval in its default mode, and of the CoNLL-2000 script: an I- after O or after
    another type begins an entity, like a B-.
    """

    features = datasets.Features(
        {
            "predictions": datasets.Sequence(datasets.Value("string")),
            "references": datasets.Sequence(datasets.Value("string")),
        }
    )

    def _compute(self, predictions, references):
        scores = {
            "overall_precision": entity_metrics.precision_score(references, predictions, zero_division=0),
            "overall_recall": entity_metrics.recall_score(references, predictions, zero_division=0),
            "overall_f1": entity_metrics.f1_score(references, predictions, zero_division=0),
            "overall_accuracy": entity_metrics.accuracy_score(references, predictions),
        }
        return {name: float(score) for name, score in scores.items()}


class Squad(OfflineMetric):
    """SQuAD 1.1's exact match and F1 over words (Rajpurkar et al., 2016, section 6.1), in per cent.

    Both ignore case, punctuation and the articles a, an and the. The best-matching reference answer counts.
    """

    features = datasets.Features(
        {
            "predictions": {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")},
            "references": {
                "id": datasets.Value("string"),
                "answers": datasets.Sequence(
                    {"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}
                ),
            },
        }
    )

    def _compute(self, predictions, references):
        texts = {prediction["id"]: prediction["prediction_text"] for prediction in predictions}
        exact, f1 = [], []
        for reference in references:
            guess = normal_words(texts[reference["id"]])
            answers = [normal_words(answer) for answer in reference["answers"]["text"]]
            exact.append(max(guess == answer for answer in answers))
            f1.append(max(word_f1(guess, answer) for answer in answers))
        return {"exact_match": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(f1))}


def correlation(function, first: ArrayLike, second: ArrayLike) -> float:
    """Return a correlation from scipy, or 0 if one side is constant or not finite."""
    if not (np.isfinite(first).all() and np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(function(first, second).statistic)


def normal_words(text: str) -> list[str]:
    """Split an answer into the words that SQuAD compares."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def word_f1(guess: list[str], answer: list[str]) -> float:
    """Return F1 over the words of two answers in any order; 0 if they share none."""
    common = sum((Counter(guess) & Counter(answer)).values())
    return 2 * common / (len(guess) + len(answer)) if common else 0.0
