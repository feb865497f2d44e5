"""Answer questions as in SQuAD 1.1: the answer is a part of the context, found by its two ends."""

import logging
from typing import Any, NamedTuple

import datasets
import numpy as np
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from span_electra.common.errors import InputError
from span_electra.common.tables import Column, check_texts
from span_electra.finetuning.metrics import Squad
from span_electra.finetuning.task import Task, model_inputs

logger = logging.getLogger(__name__)

LONGEST_ANSWER = 30  # tokens, as in ELECTRA's code
CONTEXT = 1  # the tokenizer's number for the second sequence of a pair
WINDOW_COLUMNS = ["example", "context_start", "offsets"]


class Answer(NamedTuple):
    text: str
    tokens: tuple[int, int]  # its first and last token, counted from the first token of the context in its window


class QuestionAnswering(Task):
    """Find the part of a context that answers a question. Long contexts are read in overlapping windows."""

    auto_class = AutoModelForQuestionAnswering
    reads_windows = True
    metrics = ("f1", "exact_match")
    usual_length = 384
    columns = {
        "id": Column(("id",), is_required=False),
        "question": Column(("question",)),
        "context": Column(("context",)),
        "answers": Column(("answers",)),
    }

    def check(self, train, validation):
        for name, examples in ((self.validation_name, validation), (self.train_name, train)):
            check_texts(examples, name, ["question", "context"])
            for row, example in enumerate(examples, 1):
                check_answers(example, f"{name}, {example.get('id') or f'row {row}'}")

    def encode(self, examples, name):
        return self.windows(examples, name).remove_columns(WINDOW_COLUMNS)

    def encode_validation(self):
        rows = self.windows(self.validation, self.validation_name)
        self.sources = rows.select_columns(WINDOW_COLUMNS)
        return rows.remove_columns(WINDOW_COLUMNS)

    def windows(self, examples: datasets.Dataset, name: str) -> datasets.Dataset:
        """Turn questions into rows of token ids with the answer's ends, and with the question that each is from."""
        rows = self.tokenize(examples, name, encode_questions)
        questions, first = np.unique(rows["example"][:], return_index=True)
        self.report_windows(name, rows["example"][:], len(questions))
        if cut := sum(rows.select(first)["is_cut"]):
            logger.warning(
                f"{name}: {cut:,} of {len(questions):,} questions are longer than {longest_question(self.max_length)} "
                "tokens, a quarter of a row, and were cut there. Raise --max_seq_length, or give shorter questions."
            )
        held = np.unique(np.array(rows["example"][:])[rows["holds_answer"][:]])
        if lost := len(questions) - len(held):
            message = (
                f"{name}: no window of {self.max_length} tokens holds the whole answer of {lost:,} of "
                f"{len(questions):,} questions. Raise --max_seq_length, or --stride (up to half of it)"
            )
            if not len(held):
                raise InputError(f"{message}, or give shorter answers: there is nothing to learn from.")
            logger.warning(f"{message}; these are trained as if they had no answer.")
        return rows.remove_columns(["is_cut", "holds_answer"])

    def head_settings(self):
        return {"num_labels": 2}  # a score for the first token and one for the last

    def answers(self, predictions: Any) -> list[Answer]:
        """Return the best answer to each question, from whichever of its windows has it."""
        best: list[tuple[float, Answer]] = [(-np.inf, Answer("", (-1, -1)))] * len(self.validation)
        contexts = self.validation["context"][:]
        for window, start, end in zip(self.sources, *predictions[:2], strict=True):
            offsets = window["offsets"]
            context = slice(window["context_start"], window["context_start"] + len(offsets))
            score, first, last = best_span(start[context], end[context])
            if score > best[window["example"]][0]:
                text = contexts[window["example"]][offsets[first][0] : offsets[last][1]].strip()
                best[window["example"]] = score, Answer(text, (first, last))
        return [answer for _, answer in best]

    def score(self, answers):
        ids = [str(row) for row in range(len(answers))]
        texts = [{"id": i, "prediction_text": answer.text} for i, answer in zip(ids, answers, strict=True)]
        golden = [
            {"id": i, "answers": {key: gold[key] for key in ("text", "answer_start")}}
            for i, gold in zip(ids, self.validation["answers"], strict=True)
        ]
        return Squad().compute(predictions=texts, references=golden)

    def all_alike(self, answers):
        return len({answer.tokens for answer in answers}) == 1 < len(answers)


def check_answers(example: dict, where: str) -> None:
    """Refuse a question without an answer, and an answer that is not where it says in its context."""
    answers = example["answers"]
    if not (is_list_of(str, answers, "text") and is_list_of(int, answers, "answer_start")):
        raise InputError(
            f"{where}: answers is {answers!r}. Accepted: {{'text': [texts], 'answer_start': [whole numbers]}}, or a "
            "file in SQuAD's format."
        )
    if not answers["text"] or len(answers["text"]) != len(answers["answer_start"]):
        raise InputError(
            f"{where}: {len(answers['text'])} answers at {len(answers['answer_start'])} positions. Each question "
            "needs an answer in its context, as in SQuAD 1.1. Leave out questions without one."
        )
    context = example["context"]
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        if start >= 0 and text.strip() and context[start : start + len(text)] == text:
            continue
        found = context.find(text) if text.strip() else -1
        is_at = "it is not in the context" if found < 0 else f"it is at {found}"
        raise InputError(
            f"{where}: the answer {text!r} is not at character {start} of its context: {is_at}. Correct answer_start "
            "or the answer, or leave the question out."
        )


def is_list_of(kind: type, answers: Any, name: str) -> bool:
    values = answers.get(name) if isinstance(answers, dict) else None
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def encode_questions(
    batch: dict[str, list], indices: list[int], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list]:
    """Turn questions into token ids, a row for each window of a question's context.

    `start_positions` and `end_positions` are the ends of the first answer. In a window that does not hold all of it
    (`holds_answer` is false), both are 0, the position of [CLS]. `context_start` is the position of the context's
    first token, `offsets` says where in the context each of its tokens begins and ends, and `example` is the
    question's index.
    """
    questions, is_cut = cut_questions(batch["question"], tokenizer, longest_question(max_length))
    encoded = tokenizer(
        questions,
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    sources = encoded["overflow_to_sample_mapping"]
    rows: dict[str, list] = {**model_inputs(tokenizer, encoded), "example": [indices[source] for source in sources]}
    rows |= {name: [] for name in ("context_start", "offsets", "start_positions", "end_positions", "holds_answer")}
    rows["is_cut"] = [is_cut[source] for source in sources]
    for window, source in enumerate(sources):
        in_context = np.flatnonzero([sequence == CONTEXT for sequence in encoded.sequence_ids(window)])
        offsets = [encoded["offset_mapping"][window][position] for position in in_context]
        begin = int(in_context[0]) if len(in_context) else 0
        answers = batch["answers"][source]
        start, text = answers["answer_start"][0], answers["text"][0]
        start, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        is_first, is_last = (sources[i : i + 1] != [source] for i in (window - 1, window + 1))
        span = None
        if (is_first or offsets[0][0] <= start) and (is_last or end <= offsets[-1][1]):
            span = answer_tokens(offsets, start, end)
        first, last = (0, 0) if span is None else (begin + span[0], begin + span[1])
        values = {"context_start": begin, "offsets": offsets, "start_positions": first, "end_positions": last}
        values["holds_answer"] = span is not None
        for name, value in values.items():
            rows[name].append(value)
    return rows


def longest_question(max_length: int) -> int:
    """Return how many tokens a question may have, so that there is room for its context."""
    return max_length // 4


def cut_questions(
    questions: list[str], tokenizer: PreTrainedTokenizerBase, longest: int
) -> tuple[list[str], list[bool]]:
    """Cut questions to at most `longest` tokens; also return which of them were cut."""
    questions = [question.strip() for question in questions]
    encoded = tokenizer(
        questions, truncation=True, max_length=longest, add_special_tokens=False, return_offsets_mapping=True
    )
    is_cut = [bool(row.overflowing) for row in encoded.encodings]
    ends = [offsets[-1][1] if offsets else 0 for offsets in encoded["offset_mapping"]]
    cut = [question[:end] if cut else question for question, end, cut in zip(questions, ends, is_cut, strict=True)]
    return cut, is_cut


def answer_tokens(offsets: list[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last token of the characters from `start` to before `end`, or None if there is none.

    `offsets` say where in the context each token begins and ends. Tokens that are bytes of one character share it, and
    characters that the tokenizer drops belong to no token.
    """
    begins, ends = np.array(offsets, dtype=int).reshape(-1, 2).T
    covering = np.flatnonzero((begins < end) & (start < ends) & (begins < ends))
    return (int(covering[0]), int(covering[-1])) if len(covering) else None


def best_span(start: np.ndarray, end: np.ndarray) -> tuple[float, int, int]:
    """Return the highest sum of a start score and an end score, and the positions of the two.

    The scores are those of the context's tokens; NaN counts as lowest. An answer has at most `LONGEST_ANSWER` tokens.
    """
    if not len(start):
        return -np.inf, 0, 0
    scores = np.nan_to_num(start[:, None].astype(float) + end[None, :], nan=-np.inf, neginf=-np.inf)
    allowed = np.triu(np.tril(np.ones_like(scores, dtype=bool), LONGEST_ANSWER - 1))
    scores[~allowed] = -np.inf
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, last]), int(first), int(last)
