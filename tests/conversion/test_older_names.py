"""Older configuration files: renamed settings, and what in them describes the data."""

import pytest

from span_electra import SpanElectraConfig
from span_electra.conversion.older_names import current_name, split_data_settings

TUTORIAL = {
    "embedding_size": 512,
    "max_span_len": 20,
    "mask_ratio": 0.2,
    "vocab_size": 10000,
    "max_seq_len": 512,
    "gen_hidden_size": 128,
    "disc_hidden_size": 512,
    "use_SBPO": True,
    "use_SBGO": False,
    "pad_token_id": 2,
    "mask_id": 3,
}


def test_older_names_become_todays():
    config = SpanElectraConfig(**split_data_settings(TUTORIAL).model)
    assert (config.hidden_size, config.generator_hidden_size) == (512, 128)
    assert (config.max_span_length, config.max_position_embeddings) == (20, 512)
    assert (config.use_sbpo, config.use_sbgo) == (True, False)


def test_the_data_and_the_tokenizer_keep_their_own_settings():
    settings = split_data_settings(TUTORIAL)
    assert settings.data == {"mask_ratio": 0.2, "max_seq_length": 512}
    assert settings.token_ids == {"mask": 3}
    assert not settings.model.keys() & {"mask_ratio", "max_seq_len", "max_seq_length", "mask_id"}


@pytest.mark.parametrize(
    ("older", "today"),
    [
        ("disc_num_heads", "num_attention_heads"),
        ("gen_ffn_size", "generator_intermediate_size"),
        ("discriminator_hidden_size", "hidden_size"),
        ("use_SBPO", "use_sbpo"),
        ("hidden_size", "hidden_size"),
    ],
)
def test_prefixes_and_names_are_renamed_together(older, today):
    assert current_name(older) == today


def test_one_setting_with_two_values_is_refused():
    assert split_data_settings({"max_span_len": 5, "max_span_length": 5}).model == {"max_span_length": 5}
    with pytest.raises(ValueError, match="max_span_len is 5 and max_span_length is 6"):
        split_data_settings({"max_span_len": 5, "max_span_length": 6})


def test_a_model_may_have_room_for_longer_rows_than_the_file_asks_for():
    settings = split_data_settings({"max_seq_len": 48, "max_position_embeddings": 64})
    assert settings.model == {"max_position_embeddings": 64} and settings.data == {"max_seq_length": 48}
