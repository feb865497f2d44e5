"""Add the pieces that a text needs most to the tokenizer of a model. All other pieces keep their ids.

python -m span_electra.tokenization.extend_tokenizer --tokenizer my_model --input corpus/ --size 1000 --output_dir T
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import patch_environment
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.common.text_files import numbered_lines
from span_electra.common.vocabulary import NEW_PIECES, vocabulary_size
from span_electra.masking.word_boundaries import BREAKS, word_tables
from span_electra.tokenization.create_features import cache_folder, load_tokenizer, tokenizer_fingerprint
from span_electra.tokenization.text import Corpus, corpus_parser
from span_electra.tokenization.train_tokenizer import TOKENIZER_FILES, broken_up

logger = logging.getLogger(__name__)

KINDS = ("BPE", "WordPiece", "Unigram")
FEWEST_OCCURRENCES = 5  # of a new piece in the text
CANDIDATES = 4  # for each new piece
FIRST_CHARACTER = 0x10000  # stands for the piece with the id 0
SPACE = ord(" ") - FIRST_CHARACTER
BYTE = re.compile("<0x[0-9A-F]{2}>")  # stands for a part of a character that is not in the vocabulary


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase | str | Path,
    output_dir: str | Path,
    *,
    paths: Sequence[str | Path] = (),
    size: int = 0,
    words: str | Path | None = None,
    text_column: str = "text",
    split: str = "train",
    overwrite: bool = False,
) -> PreTrainedTokenizerBase:
    """Save `tokenizer` with new pieces to `output_dir`. Its tokenizer_config.json names them, as `new_pieces`.

    The new pieces are part of the tokenizer's own algorithm, so they also serve inside longer words. The same text
    always gives the same pieces.

    Args:
        paths: The text to find pieces in (see `Corpus`).
        size: How many pieces to take from the text.
        words: A file of words, one a line, that become pieces whatever the text is. In byte-pair encoding this also
            takes the pieces on the way to them.

    Raises:
        InputError: The tokenizer is of another kind, the text needs fewer pieces, a word cannot become a piece, or
            the folder already holds something.
    """
    if size < 0 or (size == 0 and words is None):
        raise InputError(f"size is {size}. Give the number of new pieces (1 or more), a file of words, or both.")
    tokenizer = load_tokenizer(tokenizer)
    vocabulary = Vocabulary(tokenizer)
    output_dir = Path(output_dir)
    check_output_dir(output_dir, "a tokenizer", TOKENIZER_FILES, "tokenizer.json", overwrite)
    with atomic_folder(output_dir) as folder:
        if words is not None:
            add_words(vocabulary, Path(words))
        if size:
            corpus, before = Corpus(paths, text_column=text_column, split=split), vocabulary.backend()
            add_frequent_pieces(vocabulary, corpus, size)
            ratios = [tokens_per_word(backend, next(corpus.lines())) for backend in (before, vocabulary.backend())]
            logger.info("Tokens per word where the text begins: %.3f before, %.3f now", *ratios)
        vocabulary.save(tokenizer, folder)
    logger.info("%d new pieces, such as %s", len(vocabulary.made_of), ", ".join([*vocabulary.made_of][:5]))
    return load_tokenizer(output_dir)


class Vocabulary:
    """A tokenizer's vocabulary as its file describes it, to which pieces can be added.

    Attributes:
        ids: Every piece with its id.
        made_of: Every new piece with the old pieces that it is made of.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.state = json.loads(tokenizer.backend_tokenizer.to_str())
        self.model = self.state["model"]
        self.kind = self.model["type"]
        if self.kind not in KINDS:
            raise InputError(
                f"{tokenizer.name_or_path}: a {self.kind} tokenizer, to which no piece can be added that is made of "
                f"others. Accepted are {', '.join(KINDS)}."
            )
        self.prefix = self.model.get("continuing_subword_prefix") or ""
        self.ids = tokenizer.get_vocab()
        self.next_id = vocabulary_size(tokenizer)
        self.made_of: dict[str, list[str]] = {}
        self._include_added_tokens(tokenizer)

    def _include_added_tokens(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let the model know the tokens beside it, which the library would otherwise number after the new pieces."""
        for i, token in sorted(tokenizer.added_tokens_decoder.items()):
            if self.kind != "Unigram":
                self.model["vocab"].setdefault(token.content, i)
            elif i == len(self.model["vocab"]):  # its ids are positions in a list
                self.model["vocab"].append([token.content, 0.0])
        if self.kind == "Unigram" and len(self.model["vocab"]) != self.next_id:
            raise InputError(
                f"{tokenizer.name_or_path}: its ids have gaps, which new pieces of a Unigram tokenizer would fill."
            )

    def joined(self, *pieces: str) -> str:
        return pieces[0] + "".join(piece.removeprefix(self.prefix) for piece in pieces[1:])

    def join(self, *pieces: str) -> None:
        """Add the piece that `pieces` form together: two in byte-pair encoding, which joins no more at a time."""
        whole = self.joined(*pieces)
        if self.kind == "BPE":
            self.model["merges"].append(pieces)
        if whole in self.ids:
            return
        self.made_of[whole] = [*chain.from_iterable(self.made_of.get(piece, [piece]) for piece in pieces)]
        if self.kind == "Unigram":
            # A piece is at most as frequent as the rarest of its parts. This still beats all of them together.
            scores = [self.model["vocab"][self.ids[piece]][1] for piece in pieces]
            self.model["vocab"].append([whole, min(scores)])
        else:
            self.model["vocab"][whole] = self.next_id
        self.ids[whole] = self.next_id
        self.next_id += 1

    def backend(self) -> Tokenizer:
        """The tokenizer with the pieces so far, which reads whole lines."""
        return Tokenizer.from_str(json.dumps(self.state | {"truncation": None, "padding": None}))

    def save(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Save `tokenizer` with this vocabulary."""
        tokenizer.save_pretrained(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config[NEW_PIECES] = config.get(NEW_PIECES, {}) | self.made_of
        for name, content in (("tokenizer.json", self.state), ("tokenizer_config.json", config)):
            (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if load_tokenizer(folder).get_vocab() != self.ids:
            raise InputError(
                f"{tokenizer.name_or_path}: cannot be extended, because a {type(tokenizer).__name__} does not number "
                "its pieces as its tokenizer.json does."
            )


class WordCutter:
    """Tells which neighbouring pieces belong to one word, and so may become one piece."""

    def __init__(self, vocabulary: Vocabulary):
        self.backend = vocabulary.backend()
        tables = word_tables(PreTrainedTokenizerFast(tokenizer_object=self.backend))
        self.opens, self.closes, self.ordinary = tables
        if vocabulary.model.get("byte_fallback"):
            parts = [i for piece, i in vocabulary.ids.items() if BYTE.fullmatch(piece)]
            self.ordinary[parts] = False
            self.opens[parts] = self.closes[parts] = BREAKS

    def word_starts(self, encoding: Encoding) -> np.ndarray:
        """The indices of the pieces, but for the first, that do not continue their left neighbour's word."""
        ids = np.array(encoding.ids, dtype=np.int64)
        joins = self.opens[ids[1:]] & self.closes[ids[:-1]]
        return np.flatnonzero((joins == BREAKS) | (np.diff(encoding.word_ids) != 0)) + 1

    def as_characters(self, lines: list[str]) -> Iterator[str]:
        """The lines with a character for each piece, and spaces between words."""
        for encoding in self.backend.encode_batch(broken_up(lines), add_special_tokens=False):
            if encoding.ids:
                yield characters_of(np.insert(encoding.ids, self.word_starts(encoding), SPACE))


def characters_of(ids: Sequence[int] | np.ndarray) -> str:
    """A character for each piece."""
    return (np.asarray(ids) + FIRST_CHARACTER).astype("<u4").tobytes().decode("utf-32-le")


def add_frequent_pieces(vocabulary: Vocabulary, corpus: Corpus, size: int) -> None:
    """Add the `size` pieces that shorten the text most."""
    cutter, words = WordCutter(vocabulary), Counter[str]()
    for text in chain.from_iterable(map(cutter.as_characters, corpus.lines())):
        words.update(word for word in text.split(" ") if len(word) > 1)
    wanted = len(vocabulary.made_of) + size
    # Not every join forms a piece that is new, and that serves other words than longer ones do.
    for pieces in frequent_joins(vocabulary, words, CANDIDATES * size, FEWEST_OCCURRENCES):
        vocabulary.join(*pieces)
        if len(vocabulary.made_of) == wanted:
            return
    found = size - (wanted - len(vocabulary.made_of))
    raise InputError(
        f"The text needs only {found} new pieces, not {size}: no others occur {FEWEST_OCCURRENCES} times. Ask for no "
        "more than that, or give more text."
    )


def add_words(vocabulary: Vocabulary, path: Path) -> None:
    """Make a piece of each word in a file."""
    cutter, words = WordCutter(vocabulary), Counter[str]()
    for number, line in numbered_lines(path):
        if not (word := line.strip()):
            continue
        encoding = cutter.backend.encode(f"x {word}", add_special_tokens=False)  # as it is within a text
        first = sum(start == 0 for start, _ in encoding.offsets)
        ids, parts = encoding.ids[first:], encoding.tokens[first:]
        if not ids or not cutter.ordinary[ids].all():
            raise InputError(
                f"{path}, line {number}: {word!r} is a special token, or holds characters that the tokenizer does not "
                "know, so it is not made of ordinary pieces. Leave it out."
            )
        starts = cutter.word_starts(encoding)
        if starts[starts > first].size:
            raise InputError(
                f"{path}, line {number}: the tokenizer always cuts {word!r} ({' '.join(parts)}). Give one word a "
                "line, without punctuation."
            )
        words[characters_of(ids)] = 1
    for pieces in frequent_joins(vocabulary, words, sum(map(len, words)), fewest=1):
        vocabulary.join(*pieces)
    if not vocabulary.made_of:
        raise InputError(f"{path}: holds no word that the tokenizer cuts into pieces. Give words that it lacks.")


def frequent_joins(vocabulary: Vocabulary, words: Counter[str], count: int, fewest: int) -> Iterator[tuple[str, ...]]:
    """Yield the pieces to join to new ones, those first that shorten the text most.

    This trains byte-pair encoding further, from the pieces that there are: the two that stand side by side most often
    are joined, `count` times. The library does it, and takes the characters of `words` for letters. A BPE tokenizer
    reaches a piece through these joins. The others look it up whole, so for them, pieces that only lie on the way to
    longer ones are left out.
    """
    training = Tokenizer(models.BPE())
    training.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary.next_id + count,
        min_frequency=fewest,
        initial_alphabet=[characters_of([i]) for i in range(vocabulary.next_id)],
        show_progress=False,
    )
    training.train_from_iterator((f"{word} " * times for word, times in words.items()), trainer)
    names = {characters_of([i]): piece for piece, i in vocabulary.ids.items()}
    if vocabulary.kind == "BPE":
        for left, right in json.loads(training.to_str())["model"]["merges"]:
            yield names[left], names[right]
            names[left + right] = vocabulary.joined(names[left], names[right])
        return
    uses = Counter[str]()
    for word, times in words.items():
        for token in training.model.tokenize(word):
            uses[token.value] += times
    saved = {token: times * (len(token) - 1) for token, times in uses.items() if len(token) > 1 and times >= fewest}
    for token in sorted(saved, key=lambda token: (-saved[token], token)):
        yield tuple(names[character] for character in token)


def tokens_per_word(backend: Tokenizer, lines: list[str]) -> float:
    encodings = backend.encode_batch_fast(lines, add_special_tokens=False)
    return sum(map(len, encodings)) / sum(len(line.split()) for line in lines)


def cached_extension(
    tokenizer: PreTrainedTokenizerBase,
    paths: Sequence[str | Path],
    *,
    cache_dir: str | Path | None = None,
    **settings: Any,
) -> PreTrainedTokenizerBase:
    """Call `extend_tokenizer` with a folder in the cache that is named after tokenizer, text and settings.

    Args:
        cache_dir: As for `cached_features`.
        settings: The keyword arguments of `extend_tokenizer`.
    """
    reading = {name: settings[name] for name in ("text_column", "split") if name in settings}
    identity = Corpus(paths, **reading).identity()
    words = Path(settings["words"]).read_bytes().hex() if settings.get("words") else None
    named_by = [tokenizer_fingerprint(tokenizer), identity, settings | {"words": words}]
    # Threads of the tokenizer would not survive the fork of a run's data workers.
    with cache_folder(cache_dir, named_by) as folder, patch_environment(tokenizers_parallelism="false"):
        if not (folder / "tokenizer.json").is_file():
            extend_tokenizer(tokenizer, folder, paths=paths, **settings)
        return load_tokenizer(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = corpus_parser("Add the pieces that a text needs most to a model's tokenizer.", needs_input=False)
    parser.add_argument("--size", type=int, default=0, help="The number of pieces to take from the text.")
    parser.add_argument("--words", help="A file of words, one a line, that become pieces in any case.")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    extend_tokenizer(options.pop("tokenizer"), options.pop("output_dir"), paths=options.pop("input") or (), **options)


if __name__ == "__main__":
    run_command(main)
