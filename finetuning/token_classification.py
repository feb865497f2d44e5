"""Label tokens with BIO tags, as for named entities. Long documents are read in overlapping windows."""

import logging
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.tagged_words import TAGGED_COLUMNS, first_tokens, tag_names, word_tags
from span_electra.finetuning.metrics import Seqeval
from span_electra.finetuning.task import Task, model_inputs, only_logits

logger = logging.getLogger(__name__)

NO_LABEL = -100  # the loss ignores such tokens
OUTSIDE = "O"


class TokenClassification(Task):
    """Predict a tag for each word of a document. Words are the data's tokens; tokens are the tokenizer's."""

    auto_class = AutoModelForTokenClassification
    reads_windows = True
    metrics = ("overall_f1", "overall_precision", "overall_recall", "overall_accuracy")
    columns = TAGGED_COLUMNS

    def check(self, train, validation):
        kinds = {tag.partition("-")[2] for _, _, tag in self.all_tags(train, self.train_name) if tag != OUTSIDE}
        if not kinds:
            raise InputError(f"{self.train_name}: all tags are {OUTSIDE}. Give rows that have entities.")
        # An entity type has two tags, and a small training set may lack one of them.
        self.labels = [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI")]
        self.ids = {tag: i for i, tag in enumerate(self.labels)}
        validation_kinds = (
            (f"{self.validation_name}, row {row}, tag {position}", tag.partition("-")[2])
            for row, position, tag in self.all_tags(validation, self.validation_name)
            if tag != OUTSIDE
        )
        self.compare_labels("entity type", sorted(kinds), validation_kinds)

    def all_tags(self, examples: datasets.Dataset, name: str):
        """Check every tag; yield its row, its position and the tag. Rows and positions count from 1."""
        for row, position, tag in word_tags(examples, name):
            if not isinstance(tag, str) or not (tag == OUTSIDE or (tag[:2] in ("B-", "I-") and tag[2:])):
                raise InputError(
                    f"{name}, row {row}, tag {position}: {tag!r} is not a BIO tag. Accepted are {OUTSIDE}, and "
                    "B- or I- with an entity type, such as B-person. Convert the tags."
                )
            yield row, position, tag

    def named_tags(self, examples: datasets.Dataset) -> list[list[str]]:
        names = tag_names(examples)
        return [list(tags) if names is None else [names[tag] for tag in tags] for tags in examples["ner_tags"]]

    def windows(self, examples: datasets.Dataset, name: str) -> datasets.Dataset:
        """Turn documents into rows of token ids with labels, and with the document and words that each is from."""
        tagged = datasets.Dataset.from_dict(
            {
                "tokens": examples["tokens"][:],
                "label_ids": [[self.ids[tag] for tag in tags] for tags in self.named_tags(examples)],
            }
        )
        rows = self.tokenize(tagged, name, encode_documents)
        if not len(rows):
            raise InputError(f"{name}: no row has a token that the tokenizer knows. Give rows of text.")
        words = sum(map(len, examples["tokens"]))
        if lost := words - sum(map(len, rows["words"])):
            logger.warning(
                f"{name}: the tokenizer drops {lost:,} of the {words:,} words, mostly blank or invisible ones. They "
                f"are not trained on, and their prediction is {OUTSIDE}."
            )
        self.report_windows(name, rows["document"][:], len(examples))
        return rows

    def encode(self, examples, name):
        return self.windows(examples, name).remove_columns(["document", "words"])

    def encode_validation(self):
        rows = self.windows(self.validation, self.validation_name)
        self.documents, self.words = rows["document"][:], rows["words"][:]
        self.labelled = [np.flatnonzero(np.array(labels) != NO_LABEL) for labels in rows["labels"]]
        return rows.remove_columns(["document", "words"])

    def collator(self):
        return DataCollatorForTokenClassification(self.tokenizer)

    def head_settings(self):
        return {"num_labels": len(self.labels), "id2label": dict(enumerate(self.labels)), "label2id": self.ids}

    def answers(self, predictions: Any) -> list[list[str]]:
        """Collect the tags of all windows, so that every word of every document has one."""
        tags = [[OUTSIDE] * len(words) for words in self.validation["tokens"]]
        best = only_logits(predictions).argmax(-1)  # (windows, tokens)
        for window, (document, words, positions) in enumerate(
            zip(self.documents, self.words, self.labelled, strict=True)
        ):
            for word, position in zip(words, positions, strict=True):
                tags[document][word] = self.labels[best[window, position]]
        return tags

    def score(self, answers):
        return Seqeval().compute(predictions=answers, references=self.references)

    @property
    def references(self) -> list[list[str]]:
        return self.named_tags(self.validation)

    def all_alike(self, answers):
        given, right = ({tag for tags in all_tags for tag in tags} for all_tags in (answers, self.references))
        return len(given) == 1 < len(right)

    def baseline(self):
        return self.score([[OUTSIDE] * len(words) for words in self.validation["tokens"]])


def encode_documents(
    batch: dict[str, list], indices: list[int], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list]:
    """Join each document's words with spaces, and tokenize them as pretraining tokenizes text.

    A word's first token has its label, in the window that shows the most context on both sides.
    """
    texts = [" ".join(words) for words in batch["tokens"]]
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    sources = encoded["overflow_to_sample_mapping"]
    # (document, word) -> (the tokens around it, its window, its position in the window)
    homes: dict[tuple[int, int], tuple[int, int, int]] = {}
    for window, source in enumerate(sources):
        is_first = sources[window - 1 : window] != [source]
        positions = first_tokens(encoded["offset_mapping"][window], batch["tokens"][source], is_first)
        length = len(encoded["input_ids"][window])
        for word, position in positions.items():
            around = min(position, length - 1 - position)
            if around > homes.get((source, word), (-1, 0, 0))[0]:
                homes[source, word] = around, window, position
    labels = [[NO_LABEL] * len(ids) for ids in encoded["input_ids"]]
    words: list[list[int]] = [[] for _ in sources]
    for (source, word), (_, window, position) in sorted(homes.items()):
        labels[window][position] = batch["label_ids"][source][word]
        words[window].append(word)
    documents = [indices[source] for source in sources]
    rows = {**model_inputs(tokenizer, encoded), "labels": labels, "document": documents, "words": words}
    # A batch that holds only windows without labels, such as those of empty documents, would have no loss.
    labelled = [window for window, found in enumerate(words) if found]
    return {name: [values[window] for window in labelled] for name, values in rows.items()}
