"""Probe hidden states with linear classifiers, which quickly show what a model has learnt."""

import logging
import re
from abc import ABC, abstractmethod
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.paths import TABLE_SUFFIXES
from span_electra.common.tables import SENTENCE_COLUMNS, check_texts, name_of, read_table, sample, task_columns
from span_electra.common.tagged_words import TAGGED_COLUMNS, first_tokens, word_tags
from span_electra.pretraining.arguments import DataArguments
from span_electra.pretraining.model import PretrainingModel

logger = logging.getLogger(__name__)

FOLDS = 5
MOST_TEXTS = 2000
MOST_WORDS = 10_000
BATCH_SIZE = 100
ENTITY_TAG = re.compile("O|[BIES]-.+")


class LinearProbe(ABC):
    """
    Measures how well a linear classifier tells labels by the discriminator's frozen hidden states.

    Args:
        where: What messages call the examples.
        name: What metrics call them.
        examples: Rows with the columns of a task.
        tokenizer: The model's.
        max_seq_length: Texts are cut after this many tokens.

    Attributes:
        rows: The texts as the tokenizer's output.
        labels: A number for each vector that `pool` returns.
        folds: Pairs of the labels to fit a classifier to and the labels to predict with it.
        metric: What the score is, `accuracy` or `f1`.
        baseline: The score of always giving the most frequent label.

    Raises:
        InputError: The examples cannot be used, or are too few to fit a classifier to.
    """

    rows: dict[str, list]
    labels: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]
    metric = "accuracy"

    def __init__(
        self,
        where: str,
        name: str,
        examples: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        max_seq_length: int,
    ):
        self.where, self.name, self.tokenizer, self.max_seq_length = where, name, tokenizer, max_seq_length
        self.prepare(examples)
        tokenizer.backend_tokenizer.no_truncation()  # the saved tokenizer must not cut its users' texts
        self.baseline = self.score(np.full_like(self.labels, np.bincount(self.labels).argmax()))

    @property
    def key(self) -> str:
        """The name of the score among the metrics."""
        return f"probe_{self.name}_{self.metric}"

    @torch.no_grad()
    def metrics(self, model: PretrainingModel) -> dict[str, float]:
        """Return the score of logistic regressions and its baseline, by their names."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        vectors = []
        for start in range(0, len(self.rows["input_ids"]), BATCH_SIZE):
            rows = {name: values[start : start + BATCH_SIZE] for name, values in self.rows.items()}
            batch = self.tokenizer.pad(rows, return_tensors="pt").to(model.device)
            hidden = model.encode_corrupted(**batch).last_hidden_state.float()  # (rows, tokens, hidden)
            vectors.append(self.pool(hidden, batch["attention_mask"], start).cpu())
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        answers = cross_val_predict(classifier, torch.cat(vectors).numpy(), self.labels, cv=self.folds)
        return {self.key: self.score(answers), f"{self.key}_baseline": self.baseline}

    def score(self, answers: np.ndarray) -> float:
        """Return the metric of predicted labels."""
        return float((answers == self.labels).mean())

    def encode(self, *texts: list[str], **settings) -> dict[str, list]:
        return dict(self.tokenizer(*texts, truncation=True, max_length=self.max_seq_length, **settings))

    @abstractmethod
    def prepare(self, examples: datasets.Dataset) -> None:
        """Check the examples, choose from them, and set rows, labels, folds and metric."""

    @abstractmethod
    def pool(self, hidden: torch.Tensor, attention_mask: torch.Tensor, start: int) -> torch.Tensor:
        """Return the vectors to classify, (labels, hidden), of a batch whose first row has the number `start`."""


class SentenceProbe(LinearProbe):
    """Classifies texts, or pairs of texts, by the mean of their hidden states: at most 2,000, drawn at random."""

    def prepare(self, examples):
        from sklearn.model_selection import StratifiedKFold

        columns = [column for column in ("sentence1", "sentence2") if column in examples.column_names]
        check_texts(examples, self.where, columns)
        names = getattr(examples.features["label"], "names", None)
        for row, label in enumerate(examples["label"], 1):
            if label is None:
                raise InputError(f"{self.where}, row {row}: has no label; give one in every row.")
            if names is not None:
                name_of(label, names, f"{self.where}, row {row}")  # refuses -1, a test split's
        used = sample(examples, MOST_TEXTS)
        self.labels = np.unique([str(label) for label in used["label"]], return_inverse=True)[1]
        counts = np.bincount(self.labels)
        if len(counts) < 2 or counts.min() < FOLDS:
            raise InputError(
                f"{self.where}: classes {len(counts)}, texts in the smallest {counts.min()}. Give at least 2 classes "
                f"with {FOLDS} texts in each."
            )
        self.folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(self.labels, self.labels))
        self.rows = self.encode(*(list(used[column]) for column in columns))
        logger.info(f"{self.where}: every evaluation classifies {len(used):,} of its {len(examples):,} texts")

    def pool(self, hidden, attention_mask, start):
        real = attention_mask.unsqueeze(-1)
        return (hidden * real).sum(1) / real.sum(1)


class TokenProbe(LinearProbe):
    """
    Tags words by the hidden state of their first token: the words of rows that are drawn at random, about 10,000.

    The score is F1 over entities if the tags are O, B-person, I-person and the like, and otherwise accuracy.
    """

    def prepare(self, examples):
        tags: list[list[str]] = [[] for _ in examples]
        for row, position, tag in word_tags(examples, self.where):
            if not isinstance(tag, (str, int)):
                raise InputError(f"{self.where}, row {row}, tag {position}: is {tag!r}; give text or a whole number.")
            tags[row - 1].append(str(tag))
        lengths = [min(len(row), self.max_seq_length) for row in tags]
        tagged = datasets.Dataset.from_dict({"words": examples["tokens"][:], "tags": tags})
        used = sample(tagged, max(FOLDS, MOST_WORDS * len(lengths) // max(sum(lengths), 1)))
        words, tags = used["words"][:], used["tags"][:]
        encoded = self.encode([" ".join(row) for row in words], return_offsets_mapping=True)
        found = [first_tokens(*row, is_first=True) for row in zip(encoded.pop("offset_mapping"), words, strict=True)]
        kept = [row for row, firsts in enumerate(found) if firsts]  # not an empty one, or one of invisible words
        self.rows = {name: [values[row] for row in kept] for name, values in encoded.items()}
        self.positions = [list(found[row].values()) for row in kept]
        self.tags = [[tags[row][word] for word in found[row]] for row in kept]
        self.names, self.labels = np.unique([tag for row in self.tags for tag in row], return_inverse=True)
        self.metric = "f1" if all(map(ENTITY_TAG.fullmatch, self.names)) else "accuracy"
        self.folds = self.split()
        logger.info(
            f"{self.where}: every evaluation tags {len(self.labels):,} of its {sum(map(len, examples['tokens'])):,} "
            f"words, in {len(kept):,} of {len(examples):,} rows, which are cut after {self.max_seq_length} tokens"
        )

    def split(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the folds, each with whole rows."""
        from sklearn.model_selection import GroupKFold

        rows = np.repeat(np.arange(len(self.tags)), [len(row) for row in self.tags])
        folds = list(GroupKFold(FOLDS).split(rows, groups=rows)) if len(self.tags) >= FOLDS else []
        if not folds or any(len(set(self.labels[fitted])) < 2 for fitted, _ in folds):
            raise InputError(
                f"{self.where}: tags {len(self.names)} ({', '.join(self.names[:9])}), rows {len(self.tags)}. Give at "
                f"least 2 tags, each in several of at least {FOLDS} rows."
            )
        return folds

    def score(self, answers):
        if self.metric == "accuracy":
            return super().score(answers)
        from seqeval.metrics import f1_score

        ends = np.cumsum([len(row) for row in self.tags])[:-1]
        predicted = [row.tolist() for row in np.split(self.names[answers], ends)]
        return float(f1_score(self.tags, predicted, zero_division=0))

    def pool(self, hidden, attention_mask, start):
        positions = self.positions[start : start + len(hidden)]
        rows = np.repeat(np.arange(len(positions)), [len(row) for row in positions])
        return hidden[rows, np.concatenate(positions)]


def build_probes(data: DataArguments, tokenizer: PreTrainedTokenizerBase) -> list[LinearProbe]:
    """Read the files of --probe_file, each with sentences or with tagged words."""
    return [
        read_probe(file, name, data, tokenizer)
        for file, name in zip(data.probe_file, probe_names(data.probe_file), strict=True)
    ]


def read_probe(file: str, name: str, data: DataArguments, tokenizer: PreTrainedTokenizerBase) -> LinearProbe:
    """Read a file with sentences or with tagged words, by its columns."""
    where, rows = f"--probe_file {file}", read_table(file, data.split)
    words, tags, text = (
        [name for name in column.names if name in rows.column_names]
        for column in (*TAGGED_COLUMNS.values(), SENTENCE_COLUMNS["sentence1"])
    )
    is_tagged = bool(words and (tags or not text))
    if is_tagged and None in rows[words[0]]:
        row = list(rows[words[0]]).index(None) + 1
        raise InputError(
            f"{where}, row {row}: has no {words[0]}, although other rows do. Put sentences and tagged words into "
            "files of their own."
        )
    probe, columns = (TokenProbe, TAGGED_COLUMNS) if is_tagged else (SentenceProbe, SENTENCE_COLUMNS)
    return probe(where, name, task_columns(rows, file, columns), tokenizer, data.max_seq_length)


def probe_names(files: list[str]) -> list[str]:
    """Name each file, with as many of its folders as tell them apart: `sst2`, or `sst2_train` and `wnut17_train`."""
    paths = [Path(file).with_suffix("") if Path(file).suffix in TABLE_SUFFIXES else Path(file) for file in files]
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=1)):
        names = [re.sub(r"\W+", "_", "_".join(path.parts[-depth:])).strip("_") for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(
        f"--probe_file {' '.join(files)}: the scores of two of them would have the same name. Give each file once, "
        "and no two whose names differ only in punctuation."
    )
