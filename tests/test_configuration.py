"""What a configuration accepts, fills in and refuses."""

import json

import pytest
from transformers import AutoConfig, AutoModelForPreTraining

from span_electra import SpanElectraConfig, SpanElectraForPreTraining
from span_electra.configuration_span_electra import ENCODER_SHAPE, refuse_unknown


def test_the_generator_is_a_quarter_of_the_discriminator():
    config = SpanElectraConfig()
    assert config.generator_hidden_size == 64
    assert config.generator_intermediate_size == 256
    assert config.generator_num_attention_heads == 1
    assert config.generator_num_hidden_layers == 12


@pytest.mark.parametrize("size, expected", [(0.5, (64, 2, 256)), (1, (128, 4, 512)), (0.1, (12, 1, 48))])
def test_the_generators_size_is_a_share_of_the_discriminators(size, expected):
    config = SpanElectraConfig(hidden_size=128, num_attention_heads=4, intermediate_size=512, generator_size=size)
    sizes = (config.generator_hidden_size, config.generator_num_attention_heads, config.generator_intermediate_size)
    assert sizes == expected
    assert config.share_encoder == (size == 1)


def test_the_generators_width_is_rounded_to_whole_heads():
    config = SpanElectraConfig(hidden_size=100, num_attention_heads=10, generator_size=0.35)
    assert (config.generator_hidden_size, config.generator_num_attention_heads) == (33, 3)


def test_sizes_left_open_follow_the_width_that_was_given():
    config = SpanElectraConfig(
        hidden_size=768, num_attention_heads=12, intermediate_size=3072, generator_hidden_size=256
    )
    assert (config.generator_intermediate_size, config.generator_num_attention_heads) == (1024, 4)


def test_sizes_left_out_are_derived_again_where_others_change(tmp_path):
    SpanElectraConfig(hidden_size=128, num_hidden_layers=2).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved.get(name) for name in saved if name.startswith("generator_")} == {
        "generator_size": 0.25,
        **dict.fromkeys(f"generator_{name}" for name in ENCODER_SHAPE),
    }
    for changes, width in (({"hidden_size": 512}, 128), ({"generator_size": 0.5}, 64), ({"num_hidden_layers": 3}, 32)):
        for config in (
            AutoConfig.from_pretrained(tmp_path, **changes),
            SpanElectraConfig(**{**saved, **changes}),
        ):
            assert config.generator_hidden_size == config.generator_config().hidden_size == width
            assert config.generator_num_hidden_layers == config.num_hidden_layers


def test_sizes_that_were_chosen_stay(tmp_path):
    SpanElectraConfig(hidden_size=128, generator_hidden_size=64, generator_num_hidden_layers=1).save_pretrained(
        tmp_path
    )
    config = AutoConfig.from_pretrained(tmp_path, hidden_size=512, num_hidden_layers=3)
    assert (config.generator_hidden_size, config.generator_num_hidden_layers) == (64, 1)


@pytest.mark.parametrize(
    "misspell",
    [
        lambda folder: SpanElectraConfig(rtd_wieght=1),
        lambda folder: SpanElectraConfig(**SpanElectraConfig().to_dict(), rtd_wieght=1),
        lambda folder: setattr(SpanElectraConfig(), "rtd_wieght", 1),
        lambda folder: AutoConfig.from_pretrained(folder, rtd_wieght=1),
        lambda folder: AutoModelForPreTraining.from_pretrained(folder, rtd_wieght=1),
    ],
)
def test_a_misspelt_setting_is_refused_wherever_it_comes_from(misspell, tmp_path):
    SpanElectraForPreTraining(SpanElectraConfig(vocab_size=9, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`rtd_wieght` is not a setting .* `rtd_weight`"):
        misspell(tmp_path)


def test_a_saved_configuration_is_read_back_whole(tmp_path):
    config = SpanElectraConfig(
        hidden_size=512, generator_hidden_size=128, embedding_sharing="disentangled", sbpo_weight=2.5
    )
    config.save_pretrained(tmp_path)
    assert SpanElectraConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_saved_models_tables_may_have_come_apart(tmp_path):
    config = SpanElectraConfig()
    config.tie_word_embeddings = False
    config.save_pretrained(tmp_path)
    assert not SpanElectraConfig.from_pretrained(tmp_path).tie_word_embeddings


def test_what_other_code_adds_to_a_saved_configuration_is_kept(tmp_path):
    SpanElectraConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"added_by_a_tool": 1}))
    assert SpanElectraConfig.from_pretrained(tmp_path).added_by_a_tool == 1


def test_what_transformers_4_saved_with_any_model_is_no_misspelt_setting():
    names = "_attn_implementation_autoset torchscript pruned_heads use_bfloat16 tf_legacy_loss tie_encoder_decoder "
    names += (
        "cross_attention_hidden_size is_decoder is_encoder_decoder tokenizer_class prefix sep_token_id xla_device "
    )
    names += "temperature top_k num_beams max_length forced_bos_token_id output_scores summary_type use_cache"
    refuse_unknown(SpanElectraConfig, names.split(), are_saved=True)
    for name in ("hiden_size", "rtd_wieght", "generator_hiden_size", "embeding_sharing"):
        with pytest.raises(ValueError, match=f"`{name}` is not a setting"):
            refuse_unknown(SpanElectraConfig, [name], are_saved=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_weight": 0, "rtd_weight": 0, "use_sbgo": False, "sbpo_weight": 0}, "`mlm_weight`, .* are all 0"),
        ({"objective": "generator", "mlm_weight": 0, "sbgo_weight": 0}, "`mlm_weight`, `sbgo_weight` are all 0"),
        ({"hiden_size": 32}, "`hiden_size` is not a setting of SpanElectraConfig. Did you mean `hidden_size`?"),
        ({"temperature": 0.5}, "`temperature` is not a setting .* `sampling_temperature`?"),
        (
            {"embedding_sharing": "shared"},
            "`embedding_sharing` is 'shared'; choose tied, disentangled",
        ),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` is 0; it must be at least 1"),
        ({"generator_num_hidden_layers": 0}, "`generator_num_hidden_layers` is 0; it must be at least 1"),
        ({"max_span_length": 0}, "`max_span_length` is 0; it must be at least 1"),
        ({"rtd_weight": -1.0}, "`rtd_weight` is -1.0; a loss weight must be finite and at least 0"),
        ({"generator_size": 1.5}, r"`generator_size` is 1.5; it must lie in \(0, 1\]"),
        ({"sampling_temperature": 0.0}, "`sampling_temperature` is 0.0; it must be above 0"),
        ({"type_vocab_size": 0}, "`type_vocab_size` is 0; it must be at least 1"),
        ({"tie_word_embeddings": False}, "`tie_word_embeddings` is False.* leave it out. `embedding_sharing`"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute' is supported"),
    ],
)
def test_a_wrong_value_is_named(settings, message):
    with pytest.raises(Exception, match=message):
        SpanElectraConfig(**settings)
