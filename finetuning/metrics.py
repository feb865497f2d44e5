"""Common metrics as `evaluate.Metric`s that need no network, unlike `evaluate.load`, which downloads their code.

Scores have the names and values of the Hub's metrics, so that they can be compared.

    >>> ScoreMetrics().compute(predictions=[0.0, 1.0], references=[0.5, 1.5])
    {'pearsonr': 1.0, 'spearmanr': 1.0, 'mae': 0.5}
"""

import re
import string
from collections import Counter

import datasets
import evaluate
import numpy as np
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


class ClassMetrics(OfflineMetric):
    """Accuracy, Matthews' correlation (Gorodkin, 2004), F1 averaged over classes, and for two classes that of class 1.

    A correlation is 0 if one side is constant. Classes that the references lack do not count, so that scores of
    different predictions can be compared.
    """

    features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})

    def _compute(self, predictions, references, classes=2):
        varies = np.ptp(references) and np.ptp(predictions)
        average = {"average": "macro", "labels": np.unique(references), "zero_division": 0}
        scores = {
            "accuracy": accuracy_score(references, predictions),
            "matthews_correlation": matthews_corrcoef(references, predictions) if varies else 0,
            "f1_macro": f1_score(references, predictions, **average),
        }
        if classes == 2:
            scores["f1"] = f1_score(references, predictions, zero_division=0)
        return {name: float(score) for name, score in scores.items()}


class ScoreMetrics(OfflineMetric):
    """Pearson's and Spearman's correlation (0 if one side is constant or not finite), and the mean absolute error."""

    features = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})

    def _compute(self, predictions, references):
        varies = np.isfinite(predictions).all() and np.ptp(predictions) and np.ptp(references)
        return {
            "pearsonr": float(stats.pearsonr(predictions, references).statistic) if varies else 0.0,
            "spearmanr": float(stats.spearmanr(predictions, references).statistic) if varies else 0.0,
            "mae": float(np.abs(np.subtract(predictions, references)).mean()),
        }


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


def normal_words(text: str) -> list[str]:
    """Split an answer into the words that SQuAD compares."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def word_f1(guess: list[str], answer: list[str]) -> float:
    """Return F1 over the words of two answers in any order; 0 if they share none."""
    common = sum((Counter(guess) & Counter(answer)).values())
    return 2 * common / (len(guess) + len(answer)) if common else 0.0
