"""How large a model's vocabulary must be."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from trainer_examples import SPECIAL, tiny_model
from transformers import PreTrainedTokenizerFast

from span_electra import DataCollatorForSpanMasking, vocabulary_size


def tokenizer_with_gaps() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(SPECIAL)} | {f"w{i}": 10 * i for i in range(1, 21)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def test_a_model_of_this_size_has_an_embedding_for_every_id_of_a_tokenizer_with_gaps():
    tokenizer = tokenizer_with_gaps()
    assert (len(tokenizer), vocabulary_size(tokenizer)) == (25, 201)
    rows = [{"input_ids": [0, *range(10, 201, 10), 1]}]
    batch = DataCollatorForSpanMasking(tokenizer)(rows)
    assert tiny_model(vocab_size=vocabulary_size(tokenizer))(**batch).loss > 0
    with pytest.raises(IndexError):
        tiny_model(vocab_size=len(tokenizer))(**batch)
