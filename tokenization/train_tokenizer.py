"""Train a tokenizer: byte-level BPE or WordPiece, with [CLS] [SEP] [PAD] [MASK] [UNK] as ids 0 to 4.

python -m span_electra.tokenization.train_tokenizer --input corpus/ --output_dir my_tokenizer --vocab_size 10000
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from span_electra.common.command_line import option, run_command
from span_electra.common.errors import InputError
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.tokenization.text import Corpus, TableSettings, corpus_parser

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]")  # the order is the ids
SMALLEST_VOCABULARY = {
    "BPE": len(SPECIAL_TOKENS) + 256,  # a token for every byte
    "BERT": len(SPECIAL_TOKENS) + 2 * 26,  # two tokens for every letter: at the start of a word and inside one
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
LONGEST_WORD = 1000  # characters; training splits longer words

# WordPiece turns a longer word into one [UNK], and a "word" in Thai extends to the next space. A higher limit costs
# time: per character, a word of 400 takes 7 times as long as one of 100.
MAX_INPUT_CHARS_PER_WORD = 400
COVERAGE = 0.9995  # of the text's characters, which takes thousands of different ones in Chinese and Japanese
LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD}}}")


@dataclass
class TokenizerSettings(TableSettings):
    """What tokenizer to train."""

    tokenizer_type: str = option(
        "BPE",
        "BPE (byte-level, so it can encode any text) or BERT (WordPiece).",
        metadata={"choices": [*SMALLEST_VOCABULARY]},
    )
    vocab_size: int = option(10_000, "The number of tokens, with the five special ones.")
    min_frequency: int = option(2, "How often a pair of tokens must occur to be merged.")
    lowercase: bool = option(
        False, "Convert the text to lower case. BERT then strips accents too, as BERT's own tokenizer does."
    )
    model_max_length: int = option(512, "The length to which the tokenizer truncates a text if you ask it to.")

    def check(self) -> None:
        smallest = SMALLEST_VOCABULARY.get(self.tokenizer_type)
        if smallest is None:
            raise InputError(f"tokenizer_type={self.tokenizer_type!r} is not one of {', '.join(SMALLEST_VOCABULARY)}.")
        if self.vocab_size < smallest:
            raise InputError(
                f"vocab_size={self.vocab_size} is too small: a {self.tokenizer_type} tokenizer needs at least "
                f"{smallest}."
            )
        if self.min_frequency < 1:
            raise InputError(f"min_frequency={self.min_frequency} must be at least 1.")


def train_tokenizer(
    paths: Sequence[str | Path], output_dir: str | Path, *, overwrite: bool = False, **settings: Any
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `paths` (see `Corpus`) and save it to `output_dir`.

    The same text always gives the same ids.

    Args:
        overwrite: Replace an earlier tokenizer in `output_dir`.
        settings: The fields of `TokenizerSettings`.

    Raises:
        InputError: The text is unusable, the vocabulary is too small, or the folder already holds something.
    """
    chosen = TokenizerSettings(**settings)
    chosen.check()
    output_dir = Path(output_dir)
    check_output_dir(output_dir, "a tokenizer", TOKENIZER_FILES, "tokenizer.json", overwrite)

    train = _train_bpe if chosen.tokenizer_type == "BPE" else _train_wordpiece
    with atomic_folder(output_dir) as folder:
        backend = train(Corpus(paths, text_column=chosen.text_column, split=chosen.split), chosen)
        tokenizer = _as_pretrained(backend, chosen.model_max_length)
        tokenizer.save_pretrained(folder)
        backend.model.save(str(folder))  # for other programs: vocab.json and merges.txt, or vocab.txt
    if len(tokenizer) < chosen.vocab_size:
        logger.warning(
            "The text yields only %d tokens, not vocab_size=%d, and many of these are rare. Give a lower "
            "--vocab_size: a few thousand fit 10 MB of text. A new model takes its vocabulary's size from the "
            "tokenizer.",
            len(tokenizer),
            chosen.vocab_size,
        )
    logger.info("Saved a %s tokenizer of %d tokens to %s", chosen.tokenizer_type, len(tokenizer), output_dir)
    return PreTrainedTokenizerFast.from_pretrained(output_dir)


def _train_bpe(corpus: Corpus, settings: TokenizerSettings) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    if settings.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    # The space that begins a word goes before a text's first word too, so that words given one by one
    # (`is_split_into_words`) get the same tokens as in text. ByteLevel's own `add_prefix_space` would also put one
    # after a special token: "[MASK]." would become "[MASK] .".
    space_first = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([space_first, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=_special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(map(broken_up, corpus.lines()), trainer)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), _template()])
    return tokenizer


def broken_up(lines: list[str]) -> list[str]:
    """Split the longest words of `lines`, because counting merges takes quadratic time in a word's length."""
    return [LONG_WORD.sub(r"\g<0> ", line) if len(line) > LONGEST_WORD else line for line in lines]


def _train_wordpiece(corpus: Corpus, settings: TokenizerSettings) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    beginning, inside = _alphabet(corpus, tokenizer, settings.vocab_size)
    # The trainer numbers the characters inside words ("##a") in the order of a randomly seeded hash table, and breaks
    # ties between merges by these numbers. Characters that are passed as special tokens have fixed numbers.
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *beginning, *(f"##{character}" for character in inside)],
        initial_alphabet=beginning,
        limit_alphabet=len(beginning),
    )
    tokenizer.train_from_iterator(map(broken_up, corpus.lines()), trainer)
    vocabulary = tokenizer.get_vocab()
    # A new tokenizer, in which these characters are not special.
    trained = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_INPUT_CHARS_PER_WORD)
    )
    trained.add_special_tokens(_special_tokens())
    trained.normalizer = tokenizer.normalizer
    trained.pre_tokenizer = tokenizer.pre_tokenizer
    trained.decoder = decoders.WordPiece()
    trained.post_processor = _template()
    return trained


def _alphabet(corpus: Corpus, tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[str]]:
    """Return the most frequent characters, and those of them that also occur inside words.

    Their tokens may take up a tenth of the vocabulary, or 120 tokens if that is more. Until `COVERAGE` is reached,
    they may take up half of it, and characters that are always words of their own all of it: an unknown character is
    lost, while fewer long tokens only make rows longer.
    """
    raw: Counter[str] = Counter()
    for block in corpus.blocks():
        raw.update(block.text)
    counts: Counter[str] = Counter()
    for character, count in raw.items():
        for normalized in tokenizer.normalizer.normalize_str(character):
            if not normalized.isspace():
                counts[normalized] += count
    beginning: list[str] = []
    inside: list[str] = []
    covered, wanted = 0, COVERAGE * counts.total()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        # Punctuation and Chinese characters are always words of their own.
        parts = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(f"a{character}"))
        is_inside = len(parts) == 1
        share = 10 if covered >= wanted else 2 if is_inside else 1
        tokens = min(max(120, vocab_size // share), vocab_size - len(SPECIAL_TOKENS))
        if len(beginning) + len(inside) + 1 + is_inside > tokens:
            continue
        beginning.append(character)
        inside += [character] * is_inside
        covered += count
    return sorted(beginning), sorted(inside)


def _special_tokens() -> list[AddedToken]:
    # [MASK] includes the space before it, so that "the [MASK]" asks for a token that begins a word.
    return [AddedToken(token, special=True, lstrip=token == "[MASK]", normalized=False) for token in SPECIAL_TOKENS]


def _template() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )


def _as_pretrained(backend: Tokenizer, model_max_length: int) -> PreTrainedTokenizerFast:
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Train a tokenizer and save it for AutoTokenizer."
    parser = corpus_parser(description, TokenizerSettings, needs_tokenizer=False)
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_tokenizer(options.pop("input"), options.pop("output_dir"), **options)


if __name__ == "__main__":
    run_command(main)
