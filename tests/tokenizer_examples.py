"""Tokenizers of kinds that this project does not train."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


def unigram_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """XLM-R's kind, of the words and characters of `text`: its special tokens are pieces, with the best score."""
    words = sorted({word for word in text.split() if word.isalpha()})
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in words] + [(character, -6.0) for character in sorted({*text, "▁"})]
    pieces.append(("<mask>", 0.0))
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **names)


def word_end_tokenizer(text: str, kind: str, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A tokenizer that marks where words end, trained on `text`.

    `kind` is `BPE` or `Unigram`, each with SentencePiece's `treat_whitespace_as_suffix` ("house▁"), or `</w>`: the BPE
    of the first GPT ("house</w>").
    """
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    special = [*names.values(), "<unk>"]
    end = {"end_of_word_suffix": "</w>"} if kind == "</w>" else {}
    backend = Tokenizer(models.BPE(unk_token="<unk>", **end))
    if end:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    else:
        backend.normalizer = normalizers.Replace(Regex(r"\s+|$"), "▁")
        backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
        backend.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, **end)
    backend.train_from_iterator(text.split("\n"), trainer)
    if kind == "Unigram":
        pieces = sorted(backend.get_vocab(), key=backend.token_to_id)
        scored = [(piece, 0.0 if piece in special else -5 - i / 100) for i, piece in enumerate(pieces)]
        backend.model = models.Unigram(scored, unk_id=special.index("<unk>"))
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **names)
