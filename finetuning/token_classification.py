"""Label tokens: named entities in BIO tags. Documents too long for the model are read in overlapping windows."""

import logging
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.tables import Column
from span_electra.finetuning.metrics import Seqeval
from span_electra.finetuning.task import Task, model_inputs, name_of, only_logits

logger = logging.getLogger(__name__)

NO_LABEL = -100  # the loss ignores such tokens
OUTSIDE = "O"


class TokenClassification(Task):
    """Give each token of a document a tag. The document's tokens are called words here, the tokenizer's are tokens."""

    auto_class = AutoModelForTokenClassification
    reads_windows = True
    metrics = ("overall_f1", "overall_precision", "overall_recall", "overall_accuracy")
    columns = {"tokens": Column(("tokens", "words")), "ner_tags": Column(("ner_tags", "tags", "labels"))}

    def check(self, train, validation):
        kinds = set()
        for _, _, tag in self.all_tags(train, self.train_name):
            kinds.add(tag.partition("-")[2])
        kinds.discard("")
        if not kinds:
            raise InputError(f"{self.train_name}: all tags are {OUTSIDE}. Give rows that have entities.")
        # A type of entity has two tags, of which a small training set may lack one.
        self.labels = [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI")]
        self.ids = {tag: i for i, tag in enumerate(self.labels)}
        seen = set()
        for row, place, tag in self.all_tags(validation, self.validation_name):
            seen.add(tag.partition("-")[2])
            if tag not in self.ids:
                raise InputError(
                    f"{self.validation_name}, row {row}, tag {place}: {tag!r} does not occur in {self.train_name}, "
                    f"which has entities of the types {', '.join(sorted(kinds))}. Correct the tag, or give "
                    "training rows that have it."
                )
        if missing := sorted(kinds - seen):
            logger.warning(
                f"{self.validation_name}: no row has an entity of the type {', '.join(missing)}, which "
                f"{self.train_name} has: the score says nothing about it. Give validation rows that have it."
            )

    def all_tags(self, examples: datasets.Dataset, name: str):
        """Check every tag; yield its row, its position and the tag. Rows and positions count from 1."""
        names = tag_names(examples)
        for row, example in enumerate(examples, 1):
            words, tags = example["tokens"], example["ner_tags"]
            if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
                raise InputError(
                    f"{name}, row {row}: tokens and ner_tags must be two lists of one length; they are {brief(words)} "
                    f"and {brief(tags)}."
                )
            for place, (word, tag) in enumerate(zip(words, tags, strict=True), 1):
                if not isinstance(word, str):
                    raise InputError(
                        f"{name}, row {row}, token {place}: {word!r} is not text. Give each token as text."
                    )
                if names is not None and isinstance(tag, int):
                    tag = name_of(tag, names, f"{name}, row {row}, tag {place}")
                if not isinstance(tag, str) or not (tag == OUTSIDE or (tag[:2] in ("B-", "I-") and tag[2:])):
                    raise InputError(
                        f"{name}, row {row}, tag {place}: {tag!r} is not a BIO tag. Accepted are {OUTSIDE}, and B- or "
                        "I- with an entity's type, B-person for one: convert the tags."
                    )
                yield row, place, tag

    def named_tags(self, examples: datasets.Dataset) -> list[list[str]]:
        names = tag_names(examples)
        return [list(tags) if names is None else [names[tag] for tag in tags] for tags in examples["ner_tags"]]

    def windows(self, examples: datasets.Dataset, name: str) -> datasets.Dataset:
        """Make rows of token ids with labels, and with the document and the words that they come from."""
        tagged = datasets.Dataset.from_dict(
            {
                "tokens": examples["tokens"][:],
                "label_ids": [[self.ids[tag] for tag in tags] for tags in self.named_tags(examples)],
            }
        )
        rows = tagged.map(
            encode_documents,
            batched=True,
            with_indices=True,
            remove_columns=tagged.column_names,
            fn_kwargs={"tokenizer": self.tokenizer, "max_length": self.max_length, "stride": self.stride},
            load_from_cache_file=False,  # what the cache holds may be an earlier version's
            desc=f"tokenizing {name}",
        )
        if not len(rows):
            raise InputError(f"{name}: no row has a token that the tokenizer knows. Give rows of text.")
        words = sum(map(len, examples["tokens"]))
        if lost := words - sum(map(len, rows["words"])):
            logger.warning(
                f"{name}: the tokenizer drops {lost:,} of the {words:,} tokens, which are mostly blank or invisible. "
                f"They are not trained on, and are predicted as {OUTSIDE}."
            )
        _, counts = np.unique(rows["document"][:], return_counts=True)
        if split := int((counts > 1).sum()):
            logger.warning(
                f"{name}: {split:,} of {len(examples):,} rows are longer than {self.max_length} tokens and were split "
                f"into windows that overlap by {self.stride}. A larger --max_seq_length gives them more context."
            )
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
        """Collect the tags of all windows: one for every word of every document."""
        tags = [[OUTSIDE] * len(words) for words in self.validation["tokens"]]
        best = only_logits(predictions).argmax(-1)  # (windows, tokens)
        for window, (document, words, places) in enumerate(
            zip(self.documents, self.words, self.labelled, strict=True)
        ):
            for word, place in zip(words, places, strict=True):
                tags[document][word] = self.labels[best[window, place]]
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
    """Join the words by spaces and tokenize them as the text that they are for pretraining.

    A word is labelled at its first token, in the window that shows the most context on both sides.
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
    homes: dict[
        tuple[int, int], tuple[int, int, int]
    ] = {}  # (document, word) -> (tokens around it, window, its place)
    for window, source in enumerate(sources):
        is_first = sources[window - 1 : window] != [source]
        places = first_tokens(encoded["offset_mapping"][window], batch["tokens"][source], is_first)
        length = len(encoded["input_ids"][window])
        for word, place in places.items():
            around = min(place, length - 1 - place)
            if around > homes.get((source, word), (-1, 0, 0))[0]:
                homes[source, word] = around, window, place
    labels = [[NO_LABEL] * len(ids) for ids in encoded["input_ids"]]
    words: list[list[int]] = [[] for _ in sources]
    for (source, word), (_, window, place) in sorted(homes.items()):
        labels[window][place] = batch["label_ids"][source][word]
        words[window].append(word)
    documents = [indices[source] for source in sources]
    rows = {**model_inputs(tokenizer, encoded), "labels": labels, "document": documents, "words": words}
    # A batch of windows without labels, such as those of empty documents, would have no loss.
    labelled = [window for window, found in enumerate(words) if found]
    return {name: [values[window] for window in labelled] for name, values in rows.items()}


def first_tokens(offsets: list[tuple[int, int]], words: list[str], is_first: bool) -> dict[int, int]:
    """Map each word that begins in a window to the position of its first token.

    Args:
        offsets: For each token of the window, where it begins and ends in the words joined by spaces; an empty range
            for special tokens.
        words: The words of the whole document.
        is_first: Whether this is the document's first window. Any other may begin within a word.
    """
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    places: dict[int, int] = {}
    before = -1 if is_first else None  # the word of the token before
    for place, (begin, end) in enumerate(offsets):
        if begin == end:
            continue
        word = int(np.searchsorted(starts, end - 1, side="right")) - 1
        if end == starts[word + 1]:  # a space alone
            continue
        # A token may begin with the space before its word, and the tokenizer may drop a word's first character.
        if word != before and (before is not None or begin <= starts[word]):
            places[word] = place
        before = word
    return places


def tag_names(examples: datasets.Dataset) -> list[str] | None:
    """Return the names of the tags if the data has them beside ids, as datasets on the Hub do."""
    return getattr(getattr(examples.features["ner_tags"], "feature", None), "names", None)


def brief(value: Any) -> str:
    return f"{len(value)} long" if isinstance(value, list) else repr(value)
