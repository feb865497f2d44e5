"""Train a tokenizer: byte-level BPE or WordPiece, with [CLS] [SEP] [PAD] [MASK] [UNK] as ids 0 to 4.

python -m span_electra.tokenization.train_tokenizer --input corpus/ --output_dir my_tokenizer --vocab_size 10000
"""

import argparse
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.tokenization.text import Corpus, corpus_parser

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


def train_tokenizer(
    paths: Sequence[str | Path],
    output_dir: str | Path,
    *,
    tokenizer_type: str = "BPE",
    vocab_size: int = 10_000,
    min_frequency: int = 2,
    lowercase: bool = False,
    model_max_length: int = 512,
    text_column: str = "text",
    split: str = "train",
    overwrite: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `paths` (see `Corpus`) and save it to `output_dir`.

    The same text always gives the same ids.

    Args:
        tokenizer_type: `BPE` (byte-level, so it can encode any text) or `BERT` (WordPiece).
        min_frequency: How often a pair of tokens must occur to be merged.
        lowercase: Convert the text to lower case. `BERT` then strips accents too, as BERT's own tokenizer does.
        model_max_length: The length to which the tokenizer truncates a text if you ask it to.

    Raises:
        InputError: The text is unusable, the vocabulary is too small, or the folder already holds something.
    """
    if tokenizer_type not in SMALLEST_VOCABULARY:
        raise InputError(f"tokenizer_type={tokenizer_type!r} is not one of {', '.join(SMALLEST_VOCABULARY)}.")
    smallest = SMALLEST_VOCABULARY[tokenizer_type]
    if vocab_size < smallest:
        raise InputError(
            f"vocab_size={vocab_size} is too small: a {tokenizer_type} tokenizer needs at least {smallest}."
        )
    if min_frequency < 1:
        raise InputError(f"min_frequency={min_frequency} must be at least 1.")
    output_dir = Path(output_dir)
    check_output_dir(output_dir, "a tokenizer", TOKENIZER_FILES, "tokenizer.json", overwrite)

    train = _train_bpe if tokenizer_type == "BPE" else _train_wordpiece
    with atomic_folder(output_dir) as folder:
        backend = train(Corpus(paths, text_column=text_column, split=split), vocab_size, min_frequency, lowercase)
        tokenizer = _as_pretrained(backend, model_max_length)
        tokenizer.save_pretrained(folder)
        backend.model.save(str(folder))  # for other programs: vocab.json and merges.txt, or vocab.txt
    if len(tokenizer) < vocab_size:
        logger.warning(
            "The text yields only %d tokens, not vocab_size=%d. More text or a lower --min_frequency yields more. A "
            "new model takes its vocabulary's size from the tokenizer.",
            len(tokenizer),
            vocab_size,
        )
    logger.info("Saved a %s tokenizer of %d tokens to %s", tokenizer_type, len(tokenizer), output_dir)
    return PreTrainedTokenizerFast.from_pretrained(output_dir)


def _train_bpe(corpus: Corpus, vocab_size: int, min_frequency: int, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    # The space that begins a word goes before a text's first word too, so that words given one by one
    # (`is_split_into_words`) get the same tokens as in text. ByteLevel's own `add_prefix_space` would also put one
    # after a special token: "[MASK]." would become "[MASK] .".
    space_first = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([space_first, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=_special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(map(broken_up, corpus.lines()), trainer)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), _template()])
    return tokenizer


def broken_up(lines: list[str]) -> list[str]:
    """Split the longest words of `lines`, because counting merges takes quadratic time in a word's length."""
    return [LONG_WORD.sub(r"\g<0> ", line) if len(line) > LONGEST_WORD else line for line in lines]


def _train_wordpiece(corpus: Corpus, vocab_size: int, min_frequency: int, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    beginning, inside = _alphabet(corpus, tokenizer, vocab_size)
    # The trainer numbers the characters inside words ("##a") in the order of a randomly seeded hash table, and breaks
    # ties between merges by these numbers. Characters that are passed as special tokens have fixed numbers.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
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


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = corpus_parser("Train a tokenizer and save it for AutoTokenizer.")
    types = [*SMALLEST_VOCABULARY]
    parser.add_argument("--tokenizer_type", default="BPE", choices=types, help="byte-level BPE, or BERT's WordPiece")
    parser.add_argument("--vocab_size", type=int, default=10_000, help="number of tokens, with the five special ones")
    parser.add_argument("--min_frequency", type=int, default=2, help="merge only pairs of tokens this frequent")
    parser.add_argument("--lowercase", action="store_true", help="convert to lower case (BERT: also strip accents)")
    parser.add_argument("--model_max_length", type=int, default=512, help="the length to which to truncate")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = vars(parse_arguments(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_tokenizer(options.pop("input"), options.pop("output_dir"), **options)


if __name__ == "__main__":
    run_command(main)
