"""Tokenizers of kinds that this project does not train."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
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
