"""Evidence beside the losses while a model is pretrained: the same question at every step, and of every model.

The discriminator's own task gets harder as its generator gets better, so its scores say little over time and nothing
between two runs. Here the corruption is fixed, and so are the labelled texts.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedTokenizerBase

from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.errors import InputError
from span_electra.finetuning.data import SENTENCE_COLUMNS, check_texts, read_examples, sample
from span_electra.masked_tokens import sequence_numbers
from span_electra.modeling_span_electra import SpanElectraForPreTraining

FOLDS = 5
MOST_TEXTS = 2000
BATCH_SIZE = 100


def trade_places(
    input_ids: torch.Tensor, labels: torch.Tensor, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """The original text with the masked tokens of each sequence moved on by one place among themselves.

    What stands in the wrong place is of the right text, so only context can tell: a corruption that is the same
    whatever the generator has learnt.

    Args:
        input_ids: a text whose spans are masked, (rows, tokens).
        labels: original ids where tokens are masked, -100 elsewhere; same shape.
        position_ids: by which sequences that share a row are told apart; same shape. Without, each row is one.

    Returns:
        Token ids, same shape. The first masked token of a sequence has the id of the second, the last that of the
        first.
    """
    masked = labels != -100
    rows, columns = masked.nonzero(as_tuple=True)  # row by row
    sequences = rows * labels.shape[1]
    if position_ids is not None:
        sequences = sequences + sequence_numbers(position_ids)[rows, columns]
    following = torch.arange(1, len(rows) + 1, device=rows.device)
    ends_sequence = following == torch.searchsorted(sequences, sequences, right=True)
    following = torch.where(ends_sequence, torch.searchsorted(sequences, sequences), following)
    moved = torch.where(masked, labels, input_ids)
    moved[rows, columns] = labels[rows, columns][following]
    return moved


class EvaluationCollator:
    """
    The batches of evaluation: masked as the run asks, and beside, by `fixed_labels`, as in every other run.

    Args:
        collator: Masks as in training.
        fixed: Masks that do not depend on the run's settings; from the same tokenizer, padded alike.
    """

    def __init__(self, collator: DataCollatorForSpanMasking, fixed: DataCollatorForSpanMasking):
        self.collator, self.fixed = collator, fixed

    def set_epoch(self, epoch: int) -> None:
        """As [`DataCollatorForSpanMasking.set_epoch`]."""
        self.collator.set_epoch(epoch)
        self.fixed.set_epoch(epoch)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """A batch as of `collator`, and `fixed_labels`: the original id where `fixed` masks, else -100."""
        return {**self.collator(features), "fixed_labels": self.fixed(features)["labels"]}


class LinearProbe:
    """
    How well a linear classifier tells labelled texts apart by the discriminator's hidden states, as they are.

    Args:
        name: A .jsonl, .json, .csv or .parquet file, or a `datasets` name: in each row a sentence, or two, and a
            label, in columns named as in fine-tuning. Of more than 2,000 rows as many are drawn at random.
        split: The split of a `datasets` name.
        tokenizer: The model's.
        max_seq_length: Texts are cut after so many tokens.

    Raises:
        InputError: the file cannot be used, or a class has fewer than five texts.
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
                f"--probe_file {name}: its {len(counts)} classes have {counts.min()} texts or more each; the probe "
                f"needs at least 2 classes of {FOLDS} texts."
            )
        self.baseline = counts.max() / counts.sum()  # always the most frequent class
        texts = [list(examples[column]) for column in columns]
        self.rows = tokenizer(*texts, truncation=True, max_length=max_seq_length)
        tokenizer.backend_tokenizer.no_truncation()  # it is saved with the model, where it would cut texts unasked
        self.tokenizer = tokenizer

    @torch.no_grad()
    def accuracy(self, model: SpanElectraForPreTraining) -> float:
        """The mean accuracy over five folds of a logistic regression on the mean of each text's hidden states."""
        means = []
        for start in range(0, len(self.labels), BATCH_SIZE):
            rows = {name: values[start : start + BATCH_SIZE] for name, values in self.rows.items()}
            batch = self.tokenizer.pad(rows, return_tensors="pt").to(model.device)
            hidden = model(**batch, output_hidden_states=True).hidden_states[-1].float()  # (rows, tokens, hidden)
            real = batch["attention_mask"].unsqueeze(-1)
            means.append(((hidden * real).sum(1) / real.sum(1)).cpu())
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        return float(cross_val_score(classifier, torch.cat(means).numpy(), self.labels, cv=folds).mean())
