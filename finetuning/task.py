"""The base class of all tasks: columns, labels, rows, a head, metrics."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.paths import looks_like_path
from span_electra.common.tables import Column, parse_columns, read_examples, sample
from span_electra.finetuning.arguments import TaskArguments

logger = logging.getLogger(__name__)

SHORTEST_ROW = 16  # tokens: shorter rows would leave no room for a question beside its context


class Task(ABC):
    """
    One kind of task: it reads its data, chooses the head and scores the head's output.

    Args:
        arguments: Where the data is, and how to read it.
        tokenizer: The encoder's fast tokenizer.
        longest: The longest row in tokens that the encoder can read.

    Raises:
        InputError: The data or the options cannot be used. `build_rows` raises it too.
    """

    columns: ClassVar[Mapping[str, Column]]
    auto_class: ClassVar[Any]  # loads the encoder with the task's head
    metrics: tuple[str, ...]  # the main one first
    usual_length: ClassVar[int] = 128
    reads_windows: ClassVar[bool] = False  # whether texts that are too long are split into windows; otherwise cut
    baseline_answer: ClassVar[str] = "the most frequent answer"  # what `baseline` always answers

    def __init__(self, arguments: TaskArguments, tokenizer: PreTrainedTokenizerBase, longest: int):
        self.arguments, self.tokenizer, self.longest = arguments, tokenizer, longest
        self.renamed = parse_columns(arguments.columns, self.columns)
        self.max_length = arguments.max_seq_length or min(self.usual_length, longest)
        self.stride = arguments.stride or self.max_length // 4
        if not SHORTEST_ROW <= self.max_length <= longest:
            raise InputError(
                f"--max_seq_length is {self.max_length}; it must lie between {SHORTEST_ROW} and {longest}, the "
                "longest row that the model can read."
            )
        if self.stride > self.max_length // 2:
            raise InputError(
                f"--stride is {self.stride}; it must be at most half of --max_seq_length {self.max_length}. Otherwise "
                "windows hardly advance."
            )

    def build_rows(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Read, check and tokenize the data; return the rows to train on and the rows to evaluate on."""
        arguments = self.arguments
        self.train_name, self.validation_name = arguments.train_file, validation_name(arguments)
        validation = read_examples(self.validation_name, arguments.validation_split, self.columns, self.renamed)
        train = read_examples(self.train_name, arguments.split, self.columns, self.renamed)
        odd = sorted({*train.column_names} ^ {*validation.column_names})
        if odd and odd != ["id"]:  # only messages use the id
            raise InputError(
                f"{self.validation_name} and {self.train_name}: only one of them has the column {odd[0]!r}. Give data "
                "with the same columns, or name them with --columns."
            )
        self.check(train, validation)
        train = sample(train, arguments.max_train_samples)
        self.validation = sample(validation, arguments.max_eval_samples)
        rows = self.encode(train, self.train_name), self.encode_validation()
        # The tokenizer is saved with the model, and must not truncate its users' texts.
        self.tokenizer.backend_tokenizer.no_truncation()
        return rows

    def encode_validation(self) -> datasets.Dataset:
        return self.encode(self.validation, self.validation_name)

    def tokenize(self, examples: datasets.Dataset, name: str, function: Callable) -> datasets.Dataset:
        """Apply `function`, which turns a batch of examples into rows."""
        settings = {"tokenizer": self.tokenizer, "max_length": self.max_length}
        return examples.map(
            function,
            batched=True,
            with_indices=self.reads_windows,
            remove_columns=examples.column_names,
            fn_kwargs=settings | ({"stride": self.stride} if self.reads_windows else {}),
            load_from_cache_file=False,  # the cache may hold an earlier version's rows
            desc=f"tokenizing {name}",
        )

    def report_windows(self, name: str, texts: list[int], count: int) -> None:
        """Warn if some of the `count` texts were split. `texts` holds the text of each window."""
        _, windows = np.unique(texts, return_counts=True)
        if split := int((windows > 1).sum()):
            logger.warning(
                f"{name}: {split:,} of {count:,} texts are longer than {self.max_length} tokens and were split into "
                f"windows that overlap by {self.stride} tokens. A larger --max_seq_length gives them more context."
            )

    def compare_labels(self, kind: str, known: Sequence[str], found: Iterable[tuple[str, str]]) -> None:
        """Refuse labels that only the validation rows have, and warn of labels that only the training rows have.

        Messages call a label `kind`. `known` are the labels of the training rows, and `found` those of the validation
        rows, each after where it stands.
        """
        seen = set()
        for where, label in found:
            seen.add(label)
            if label not in known:
                raise InputError(
                    f"{where}: the {kind} {label!r} does not occur in {self.train_name}, which has "
                    f"{', '.join(known)}. Correct it, or give training rows that have it."
                )
        if missing := [label for label in known if label not in seen]:
            logger.warning(
                f"{self.validation_name}: no row has the {kind} {', '.join(missing)}, which {self.train_name} has, so "
                "the score says nothing about it. Give validation rows that have it."
            )

    def collator(self):
        return DataCollatorWithPadding(self.tokenizer)

    def compute_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Score the head's output on the validation rows, and report whether all its answers are alike."""
        answers = self.answers(output.predictions)
        return {**self.score(answers), "collapsed": float(self.all_alike(answers))}

    def choose_metric(self, asked: str | None) -> str:
        """Return the metric that chooses checkpoint and seed: the one you asked for, or the task's main one."""
        if asked is None:
            return self.metrics[0]
        accepted = (*self.metrics, "loss")
        metric = asked.removeprefix("eval_")
        if metric not in accepted:
            raise InputError(f"--metric_for_best_model is {asked!r}; accepted here are {', '.join(accepted)}.")
        return metric

    def draw(self, answers: Any, path: Path) -> None:  # noqa: B027 - most tasks have nothing to draw
        """Draw a confusion matrix, for tasks with classes."""

    def begin(self, model: PreTrainedModel) -> None:  # noqa: B027 - most tasks have nothing to inspect
        """Inspect a new model before training."""

    def finish(self, model: PreTrainedModel) -> None:  # noqa: B027 - most heads need no change
        """Adapt a trained model's answers to the scale of the data, before it is saved."""

    def baseline(self) -> dict[str, float]:
        """Score `baseline_answer` as the answer to everything; empty if the task has no such answer."""
        return {}

    @abstractmethod
    def check(self, train: datasets.Dataset, validation: datasets.Dataset) -> None:
        """Refuse examples that cannot be used, and remember the labels of `train`."""

    @abstractmethod
    def encode(self, examples: datasets.Dataset, name: str) -> datasets.Dataset:
        """Turn examples into rows of token ids with labels. Messages call the data `name`."""

    @abstractmethod
    def head_settings(self) -> dict[str, Any]:
        """Return the head's settings for the model's configuration."""

    @abstractmethod
    def answers(self, predictions: Any) -> Any:
        """Turn the head's output on the validation rows into answers."""

    @abstractmethod
    def score(self, answers: Any) -> dict[str, float]:
        """Return the metrics of `answers` by name."""

    @abstractmethod
    def all_alike(self, answers: Any) -> bool:
        """Return whether all answers are the same, because the head has collapsed."""


def validation_name(arguments: TaskArguments) -> str:
    if arguments.validation_file is not None:
        return arguments.validation_file
    if looks_like_path(arguments.train_file):
        raise InputError("--validation_file is missing: the best checkpoint is chosen on it.")
    return arguments.train_file


def model_inputs(tokenizer: PreTrainedTokenizerBase, encoded: Mapping) -> dict[str, list]:
    """Return the tokenizer's outputs that the model accepts."""
    return {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}


def only_logits(predictions: Any) -> np.ndarray:
    """Return the head's scores without the hidden states that some models return too."""
    return predictions[0] if isinstance(predictions, tuple) else predictions
