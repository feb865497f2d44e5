"""Probe hidden states with a linear classifier, which quickly shows what a model has learnt."""

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.tables import SENTENCE_COLUMNS, check_texts, read_examples, sample
from span_electra.modeling_span_electra import SpanElectraForPreTraining
from span_electra.pretraining.arguments import DataArguments

FOLDS = 5
MOST_TEXTS = 2000
BATCH_SIZE = 100


class LinearProbe:
    """
    Measures how well a linear classifier separates labelled texts by the discriminator's frozen hidden states.

    Args:
        name: A .jsonl, .json, .csv or .parquet file, or a `datasets` name. Each row holds one or two sentences and a
            label, in columns named as for fine-tuning. At most 2,000 rows are used, drawn at random.
        split: The split of a `datasets` name.
        tokenizer: The model's.
        max_seq_length: Texts are cut after this many tokens.

    Raises:
        InputError: The file cannot be used, or a class has fewer than five texts.
    """

    def __init__(self, name: str, split: str, tokenizer: PreTrainedTokenizerBase, max_seq_length: int):
        examples = read_examples(name, split, SENTENCE_COLUMNS)
        columns = [column for column in ("sentence1", "sentence2") if column in examples.column_names]
        check_texts(examples, f"--probe_file {name}", columns)
        if None in examples["label"]:
            row = list(examples["label"]).index(None) + 1
            raise InputError(f"--probe_file {name}, row {row}: has no label; give one in every row.")
        examples = sample(examples, MOST_TEXTS)
        self.labels = np.unique([str(label) for label in examples["label"]], return_inverse=True)[1]
        counts = np.bincount(self.labels)
        if len(counts) < 2 or counts.min() < FOLDS:
            raise InputError(
                f"--probe_file {name}: has {len(counts)} classes, the smallest with {counts.min()} texts; give at "
                f"least 2 classes of {FOLDS} texts."
            )
        self.baseline = counts.max() / counts.sum()  # of always answering the most frequent class
        texts = [list(examples[column]) for column in columns]
        self.rows = tokenizer(*texts, truncation=True, max_length=max_seq_length)
        tokenizer.backend_tokenizer.no_truncation()  # the saved tokenizer must not cut its users' texts
        self.tokenizer = tokenizer

    @torch.no_grad()
    def accuracy(self, model: SpanElectraForPreTraining) -> float:
        """Return a logistic regression's mean accuracy over five folds, on the mean of each text's hidden states."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        means = []
        for start in range(0, len(self.labels), BATCH_SIZE):
            rows = {name: values[start : start + BATCH_SIZE] for name, values in self.rows.items()}
            batch = self.tokenizer.pad(rows, return_tensors="pt").to(model.device)
            hidden = model.encode_corrupted(**batch).last_hidden_state.float()  # (rows, tokens, hidden)
            real = batch["attention_mask"].unsqueeze(-1)
            means.append(((hidden * real).sum(1) / real.sum(1)).cpu())
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        return float(cross_val_score(classifier, torch.cat(means).numpy(), self.labels, cv=folds).mean())


def build_probe(
    data: DataArguments, tokenizer: PreTrainedTokenizerBase, eval_rows: datasets.Dataset | None
) -> LinearProbe | None:
    if data.probe_file is None:
        return None
    if eval_rows is None:
        raise InputError(
            "--probe_file: is scored whenever the model is evaluated, and this run has no evaluation. Give a "
            "--validation_file."
        )
    return LinearProbe(data.probe_file, data.split, tokenizer, data.max_seq_length)
