"""The usual metrics as `evaluate.Metric`s that need no network: `evaluate.load` would fetch their code from the Hub.

Names, arguments and results are those of the Hub's metrics of the same names, so that figures can be compared.

    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666}
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

Entity = tuple[str, int, int]  # its type, its first token and the one after its last


class OfflineMetric(evaluate.Metric):
    """A metric that is kept in memory and described by its docstring."""

    features: datasets.Features

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self):
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=self.features)


class ClassMetric(OfflineMetric):
    """Compares class ids."""

    features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})


class Accuracy(ClassMetric):
    """The share of predictions that are right."""

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class F1(ClassMetric):
    """The harmonic mean of precision and recall: of the class 1 (`binary`), or the mean over classes (`macro`).

    The mean is over the classes that are predicted or there.
    """

    def _compute(self, predictions, references, average="binary"):
        counts = confusion_matrix(predictions, references)
        true_positives = counts.diagonal()
        scores = 2 * true_positives / np.maximum(counts.sum(0) + counts.sum(1), 1)
        if average == "macro":
            occurs = counts.sum(0) + counts.sum(1) > 0
            return {"f1": float(scores[occurs].mean())}
        return {"f1": float(scores[1]) if len(scores) > 1 else 0.0}


class MatthewsCorrelation(ClassMetric):
    """Matthews' correlation for any number of classes (Gorodkin, 2004); 0 where one side is constant."""

    def _compute(self, predictions, references):
        counts = confusion_matrix(predictions, references).astype(float)
        predicted, actual, total = counts.sum(0), counts.sum(1), counts.sum()
        covariance = counts.trace() * total - predicted @ actual
        spread = np.sqrt((total**2 - predicted @ predicted) * (total**2 - actual @ actual))
        return {"matthews_correlation": float(covariance / spread) if spread else 0.0}


class ScoreMetric(OfflineMetric):
    """Compares numbers."""

    features = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})


class Pearsonr(ScoreMetric):
    """Pearson's correlation; 0 where one side is constant or not finite."""

    def _compute(self, predictions, references):
        return {"pearsonr": correlation(np.asarray(predictions), np.asarray(references))}


class Spearmanr(ScoreMetric):
    """Spearman's correlation: Pearson's of the ranks, in which equal values share the mean of theirs."""

    def _compute(self, predictions, references):
        if not np.isfinite(predictions).all():
            return {"spearmanr": 0.0}
        return {"spearmanr": correlation(ranks(predictions), ranks(references))}


class Seqeval(OfflineMetric):
    """Precision, recall and F1 over entities (of exactly the right tokens and type), accuracy over tokens.

    What an entity is follows the package seqeval in its default mode, and with it the CoNLL-2000 script: an I- after
    O or after another type begins an entity as a B- does.
    """

    features = datasets.Features(
        {
            "predictions": datasets.Sequence(datasets.Value("string")),
            "references": datasets.Sequence(datasets.Value("string")),
        }
    )

    def _compute(self, predictions, references):
        predicted = {(row, *entity) for row, tags in enumerate(predictions) for entity in entities(tags)}
        actual = {(row, *entity) for row, tags in enumerate(references) for entity in entities(tags)}
        right = len(predicted & actual)
        pairs = [
            (guess, tag)
            for guesses, tags in zip(predictions, references, strict=True)
            for guess, tag in zip(guesses, tags, strict=True)
        ]
        return {
            "overall_precision": right / max(len(predicted), 1),
            "overall_recall": right / max(len(actual), 1),
            "overall_f1": 2 * right / max(len(predicted) + len(actual), 1),
            "overall_accuracy": sum(guess == tag for guess, tag in pairs) / max(len(pairs), 1),
        }


class Squad(OfflineMetric):
    """SQuAD 1.1's exact match and F1 over words (Rajpurkar et al., 2016, section 6.1), in per cent.

    Both ignore case, punctuation and the articles a, an, the; the best of the reference answers counts.
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


def confusion_matrix(predictions: ArrayLike, references: ArrayLike, classes: int = 0) -> np.ndarray:
    """How often each class (row) was predicted to be each (column); at least `classes` of them, (classes, classes)."""
    predicted, actual = np.asarray(predictions), np.asarray(references)
    classes = max(classes, predicted.max() + 1, actual.max() + 1)
    return np.bincount(actual * classes + predicted, minlength=classes**2).reshape(classes, classes)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    if not (np.isfinite(first).all() and np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: Sequence[float]) -> np.ndarray:
    """The rank of each value from 1 up; equal values share the mean of the ranks that they take up together."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities that BIO tags describe."""
    kind, start = None, 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, tag_kind = tag.partition("-")
        if kind is not None and (prefix != "I" or tag_kind != kind):
            yield kind, start, i
            kind = None
        if kind is None and prefix in ("B", "I"):
            kind, start = tag_kind, i


def normal_words(text: str) -> list[str]:
    """The words of an answer as SQuAD compares them."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def word_f1(guess: list[str], answer: list[str]) -> float:
    """F1 over the words of two answers, taken as bags; two answers without words are equal."""
    if not guess or not answer:
        return float(guess == answer)
    common = sum((Counter(guess) & Counter(answer)).values())
    return 2 * common / (len(guess) + len(answer))
