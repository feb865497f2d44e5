"""Classify or score single sentences and pairs of sentences."""

import logging
import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.tables import SENTENCE_COLUMNS, check_texts, name_of
from span_electra.finetuning.metrics import ClassMetrics, ScoreMetrics
from span_electra.finetuning.report import plot_confusion
from span_electra.finetuning.task import Task, model_inputs, only_logits

logger = logging.getLogger(__name__)

WHOLE, SCORE = re.compile(r"-?\d+"), re.compile(r"-?\d+\.\d+")
SMALLEST_SPREAD = 1e-3  # of the labels' spread: predicted scores that vary less count as one score


class SentenceTask(Task):
    """Predict a label for a sentence or a pair of sentences."""

    auto_class = AutoModelForSequenceClassification
    columns = SENTENCE_COLUMNS

    def check(self, train, validation):
        texts = [column for column in train.column_names if column != "label"]
        check_texts(validation, self.validation_name, texts)
        check_texts(train, self.train_name, texts)
        self.check_labels(train, validation)

    def encode(self, examples, name):
        rows = self.tokenize(examples, name, encode_sentences)
        if cut := sum(rows["is_cut"]):
            logger.warning(
                f"{name}: {cut:,} of {len(rows):,} rows are longer than {self.max_length} tokens and were cut there. "
                f"Raise --max_seq_length (the model reads up to {self.longest}), or give shorter texts."
            )
        labels = [self.label_of(label, name) for label in examples["label"]]
        return rows.remove_columns("is_cut").add_column("labels", labels)

    @abstractmethod
    def check_labels(self, train: datasets.Dataset, validation: datasets.Dataset) -> None: ...

    @abstractmethod
    def label_of(self, label: Any, name: str) -> int | float:
        """Turn a label of the data called `name` into the number that the head is trained on."""


def encode_sentences(batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list]:
    """Turn sentences or pairs into token ids, and note which rows were cut."""
    encoded = tokenizer(batch["sentence1"], batch.get("sentence2"), truncation=True, max_length=max_length)
    is_cut = [bool(row.overflowing) for row in encoded.encodings]
    return {**model_inputs(tokenizer, encoded), "is_cut": is_cut}


class Classification(SentenceTask):
    """Predict one of several classes."""

    metrics: tuple[str, ...] = ("accuracy", "matthews_correlation", "f1_macro")

    def check_labels(self, train, validation):
        self.names = {self.validation_name: class_names(validation), self.train_name: class_names(train)}
        counts = Counter(self.class_name(label, self.train_name, row) for row, label in enumerate(train["label"], 1))
        if (names := self.names[self.train_name]) is None:
            self.labels = sorted(counts, key=lambda name: (int(name) if WHOLE.fullmatch(name) else math.inf, name))
        else:
            self.labels = [name for name in names if name in counts]
        if len(self.labels) < 2:
            raise InputError(
                f"{self.train_name}: all rows have the label {self.labels[0]!r}. Give rows of 2 labels or more."
            )
        if len(self.labels) == 2:
            self.metrics = (*self.metrics, "f1")
            logger.info(f"{self.train_name}: f1 is for the label {self.labels[1]}, the second of two.")
        self.ids = {name: i for i, name in enumerate(self.labels)}
        self.most_frequent = self.ids[counts.most_common(1)[0][0]]
        validation_labels = (
            (f"{self.validation_name}, row {row}", self.class_name(label, self.validation_name, row))
            for row, label in enumerate(validation["label"], 1)
        )
        self.compare_labels("label", self.labels, validation_labels)

    def class_name(self, label: Any, name: str, row: int) -> str:
        names = self.names[name]
        if names is not None and isinstance(label, int):
            return name_of(label, names, f"{name}, row {row}")
        text = "" if label is None or label != label else str(label).strip().removesuffix(".0")  # NaN is no label
        if not text:
            raise InputError(f"{name}, row {row}: no label. Give each row one, or leave the row out.")
        if SCORE.fullmatch(text):
            raise InputError(
                f"{name}, row {row}: the label {label} is a score. Use --task regression. If it names a class, give "
                f"it a name that is not a number, such as v{label}."
            )
        if isinstance(label, (list, dict)):
            raise InputError(f"{name}, row {row}: the label {label} is not one value. Give each row one label.")
        return text

    def label_of(self, label, name):
        return self.ids[self.class_name(label, name, 0)]

    def head_settings(self):
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": self.ids,
            "problem_type": "single_label_classification",
        }

    def answers(self, predictions):
        return only_logits(predictions).argmax(-1)

    @property
    def references(self) -> list[int]:
        return [self.label_of(label, self.validation_name) for label in self.validation["label"]]

    def score(self, answers):
        return ClassMetrics().compute(predictions=answers, references=self.references, classes=len(self.labels))

    def all_alike(self, answers):
        return len(np.unique(answers)) == 1 < len(set(self.references))

    def draw(self, answers, path):
        plot_confusion(answers, self.references, self.labels, path)

    def baseline(self):
        return self.score(np.full(len(self.validation), self.most_frequent))


def class_names(examples: datasets.Dataset) -> list[str] | None:
    """Return the names of the classes if the data has them beside ids, as datasets on the Hub do."""
    return getattr(examples.features["label"], "names", None)


class Regression(SentenceTask):
    """Predict a score. Training standardizes the scores; the saved model answers on the scale of the data."""

    metrics = ("spearmanr", "pearsonr")
    baseline_answer = "the mean of the training data"
    mean, unit = 0.0, 1.0  # training subtracts the mean from the scores and divides by the unit

    def check_labels(self, train, validation):
        for name, examples in ((self.validation_name, validation), (self.train_name, train)):
            for row, label in enumerate(examples["label"], 1):
                try:
                    is_number = math.isfinite(float(label))
                except (TypeError, ValueError):
                    is_number = False
                if not is_number:
                    raise InputError(f"{name}, row {row}: the label {label!r} is not a number. Give each row a score.")
        labels = [float(label) for label in train["label"]]
        self.centre, self.spread = float(np.mean(labels)), float(np.std(labels))
        if not self.spread:
            raise InputError(f"{self.train_name}: all rows have the label {train['label'][0]}. Give rows that differ.")

    def label_of(self, label, name):
        return float(label)

    def head_settings(self):
        return {"num_labels": 1, "problem_type": "regression"}

    def begin(self, model):
        if score_layer(model) is None:
            logger.warning(
                f"The head of a {type(model).__name__} has no bias, so it learns the scores as they are. Standardize "
                "them to a mean of 0 and a spread of 1."
            )
        else:
            self.mean, self.unit = self.centre, self.spread

    def collator(self):
        return partial(standardized, super().collator(), self.mean, self.unit)

    def finish(self, model):
        if (layer := score_layer(model)) is not None:
            with torch.no_grad():
                layer.weight.mul_(self.unit)
                layer.bias.mul_(self.unit).add_(self.mean)

    def answers(self, predictions):
        return only_logits(predictions)[:, 0].astype(float) * self.unit + self.mean

    @property
    def references(self) -> list[float]:
        return [float(label) for label in self.validation["label"]]

    def score(self, answers):
        scores = ScoreMetrics().compute(predictions=answers, references=self.references)
        if self.all_alike(answers):  # they differ only by rounding errors, which correlate with anything
            scores |= {"pearsonr": 0.0, "spearmanr": 0.0}
        return scores

    def all_alike(self, answers):
        return not np.std(answers) > SMALLEST_SPREAD * self.spread  # `not`, so that NaN counts as alike

    def baseline(self):
        return {"mae": self.score(np.full(len(self.validation), self.centre))["mae"]}


def score_layer(model: nn.Module) -> nn.Linear | None:
    """Return the layer that outputs the score, if it has a bias, which can hold the mean."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1]
    return layers[-1] if layers and layers[-1].bias is not None else None


def standardized(collate: Callable, mean: float, unit: float, rows: list[dict]) -> Any:
    """Collate a batch, then subtract `mean` from its labels and divide them by `unit`."""
    batch = collate(rows)
    batch["labels"] = (batch["labels"] - mean) / unit
    return batch
