"""Starting from what exists: ELECTRA's halves, or a generator that was trained alone."""

import pytest
import torch
from test_modeling import batch, random_model, seeded, stock_halves, tiny_config
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraModel,
)

from span_electra import SpanElectraForMaskedLM, SpanElectraForPreTraining, SpanElectraModel
from span_electra.conversion.warm_start import from_electra, from_generator

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 37, "max_position_embeddings": 64}
NEW_IN_A_TIED_GENERATOR = (
    "generator.electra.embeddings_project, generator.electra.encoder, generator.generator_predictions, "
    "generator.generator_lm_head.bias"
)


def randomised(model):
    """`model` with no weight left at zero or one, as a trained one would be."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


# ELECTRA


def test_published_halves_start_a_model(tmp_path):
    torch.manual_seed(3)
    sizes = {"vocab_size": 99, "embedding_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 64}
    discriminator = ElectraForPreTraining(
        ElectraConfig(hidden_size=32, num_attention_heads=2, intermediate_size=37, **sizes)
    ).eval()
    generator = ElectraForMaskedLM(
        ElectraConfig(hidden_size=16, num_attention_heads=2, intermediate_size=20, **sizes)
    ).eval()
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    discriminator.save_pretrained(tmp_path / "discriminator")
    generator.save_pretrained(tmp_path / "generator")
    inputs = batch()
    ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    for sharing in ("tied", "disentangled", "separate"):
        model = from_electra(tmp_path / "discriminator", tmp_path / "generator", embedding_sharing=sharing).eval()
        assert torch.equal(model(ids, attention_mask).logits, discriminator(ids, attention_mask).logits)
        assert torch.equal(model.generator(ids, attention_mask).logits, generator(ids, attention_mask).logits)
        alone = from_electra(tmp_path / "discriminator", embedding_sharing=sharing).eval()
        assert torch.equal(alone(ids, attention_mask).logits, discriminator(ids, attention_mask).logits)
        assert torch.equal(alone.generator.get_input_embeddings().weight, discriminator.get_input_embeddings().weight)


def test_halves_of_one_shape_stay_two_and_keep_what_is_their_own(tmp_path):
    config = tiny_config().discriminator_config()
    discriminator, generator = ElectraForPreTraining(config).eval(), ElectraForMaskedLM(config).eval()
    ids, attention_mask = (batch()[name] for name in ("input_ids", "attention_mask"))
    for has_one_table, sharing in ((False, "separate"), (True, "tied")):
        if has_one_table:
            generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
        discriminator.save_pretrained(tmp_path / "d")
        generator.save_pretrained(tmp_path / "g")
        model = from_electra(tmp_path / "d", tmp_path / "g").eval()
        assert (model.config.embedding_sharing, model.config.share_encoder) == (sharing, False)
        assert torch.equal(model(ids, attention_mask).logits, discriminator(ids, attention_mask).logits)
        assert torch.equal(model.generator(ids, attention_mask).logits, generator(ids, attention_mask).logits)
    generator.electra.load_state_dict(discriminator.electra.state_dict())
    generator.save_pretrained(tmp_path / "g")
    assert from_electra(tmp_path / "d", tmp_path / "g").config.share_encoder  # they are one


@pytest.mark.parametrize("sharing", ["tied", "disentangled"])
def test_where_the_halves_embeddings_differ_the_discriminator_scores_as_before(tmp_path, sharing):
    generator, discriminator = stock_halves(random_model(embedding_sharing="separate"))
    generator.save_pretrained(tmp_path / "g")
    discriminator.save_pretrained(tmp_path / "d")
    model = from_electra(tmp_path / "d", tmp_path / "g", embedding_sharing=sharing).eval()
    ids, attention_mask = (batch()[name] for name in ("input_ids", "attention_mask"))
    expected = discriminator(ids, attention_mask).logits
    assert torch.allclose(model(ids, attention_mask).logits, expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-2}, {"pad_token_id": 7}])
def test_an_encoders_settings_are_the_discriminators(tmp_path, settings):
    source = randomised(ElectraModel(ElectraConfig(**SIZES | settings)))
    source.save_pretrained(tmp_path)
    model = from_electra(tmp_path, embedding_sharing="tied").eval()
    ids = torch.randint(8, 99, (3, 20))
    assert torch.allclose(model.electra(ids).last_hidden_state, source(ids).last_hidden_state, atol=1e-5)
    assert {name: getattr(model.config, name) for name in settings} == settings


def test_embeddings_that_are_to_be_shared_and_differ_are_named(tmp_path, caplog):
    config = ElectraConfig(vocab_size=99, num_hidden_layers=1)
    ElectraForPreTraining(config).save_pretrained(tmp_path / "d")
    ElectraForMaskedLM(config).save_pretrained(tmp_path / "g")
    from_electra(tmp_path / "d", tmp_path / "g", embedding_sharing="tied")
    assert "g: its embeddings differ from the discriminator's and are replaced by them." in caplog.text


@pytest.mark.parametrize("kind", [ElectraModel, ElectraForPreTraining])
def test_weights_that_lack_a_layer_are_refused(tmp_path, kind):
    model = kind(ElectraConfig(**SIZES))
    rest = {name: weight for name, weight in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(tmp_path, state_dict=rest)
    with pytest.raises(ValueError, match=r"lacks 16 of its weights, or has them in another shape \(.*layer\.1\."):
        from_electra(tmp_path)


@pytest.mark.parametrize("kind", [ElectraForMaskedLM, SpanElectraForMaskedLM])
def test_a_generator_with_an_output_layer_of_its_own_is_refused(tmp_path, kind):
    config = tiny_config()
    ElectraForPreTraining(config.discriminator_config()).save_pretrained(tmp_path / "d")
    config = config if kind is SpanElectraForMaskedLM else config.generator_config()
    config.tie_word_embeddings = False
    randomised(kind(config)).save_pretrained(tmp_path / "g")
    message = r"g has an output layer of its own \(tie_word_embeddings is false\)"
    with pytest.raises(ValueError, match=message):
        from_generator(tmp_path / "g", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    if kind is ElectraForMaskedLM:
        with pytest.raises(ValueError, match=message):
            from_electra(tmp_path / "d", tmp_path / "g")


def test_electra_decoders_are_refused(tmp_path):
    config = tiny_config().discriminator_config()
    for name, kind, is_decoder in (("d", ElectraForPreTraining, False), ("g", ElectraForMaskedLM, True)):
        kind(ElectraConfig(**config.to_diff_dict() | {"is_decoder": is_decoder})).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="g is a decoder"):
        from_electra(tmp_path / "d", tmp_path / "g")
    config.is_decoder = True
    ElectraForPreTraining(config).save_pretrained(tmp_path / "d")
    with pytest.raises(ValueError, match="d is a decoder"):
        from_electra(tmp_path / "d")


def test_a_discriminator_that_was_saved_untied_shares_its_embeddings(tmp_path):
    config = tiny_config().discriminator_config()
    config.tie_word_embeddings = False  # which is about an output layer that it does not have
    ElectraForPreTraining(config).save_pretrained(tmp_path)
    model = from_electra(tmp_path)
    assert model.generator.generator_lm_head.weight is model.electra.get_input_embeddings().weight


def test_halves_of_different_models_are_refused(tmp_path):
    ElectraForPreTraining(ElectraConfig(vocab_size=99, num_hidden_layers=1)).save_pretrained(tmp_path / "d")
    ElectraForMaskedLM(ElectraConfig(vocab_size=98, num_hidden_layers=1)).save_pretrained(tmp_path / "g")
    with pytest.raises(ValueError, match=r"`vocab_size` is 99 in the discriminator .* and 98 in the generator"):
        from_electra(tmp_path / "d", tmp_path / "g")


def test_halves_that_compute_otherwise_are_refused(tmp_path):
    for name, kind, settings in (
        ("d", ElectraForPreTraining, {"hidden_act": "gelu"}),
        ("g", ElectraForMaskedLM, {"hidden_act": "relu"}),
    ):
        kind(ElectraConfig(vocab_size=99, num_hidden_layers=1, **settings)).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"`hidden_act` is gelu in the discriminator .* and relu in the generator"):
        from_electra(tmp_path / "d", tmp_path / "g")


def test_what_a_discriminator_alone_lacks_is_said(tmp_path, caplog):
    sizes = {"vocab_size": 99, "num_hidden_layers": 1}
    ElectraForPreTraining(ElectraConfig(**sizes)).save_pretrained(tmp_path / "d")
    ElectraForMaskedLM(ElectraConfig(**sizes)).save_pretrained(tmp_path / "g")
    heads = "sbgo_head, sbpo_head, sbpo_prediction"
    for generator, new in (
        (None, f"{NEW_IN_A_TIED_GENERATOR}, {heads}"),
        (tmp_path / "g", heads),
    ):
        caplog.clear()
        from_electra(tmp_path / "d", generator)
        assert f"d: new, to be trained: {new}." in caplog.messages[-1]
        start = "The generator takes over the discriminator's word embeddings. Its new weights are random, so its"
        assert (start in caplog.messages[-1]) == (generator is None)


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_an_electra_without_its_head_becomes_the_discriminator(sharing, tmp_path):
    source = randomised(ElectraModel(ElectraConfig(**SIZES, embedding_size=16)))
    source.save_pretrained(tmp_path)
    model = from_electra(tmp_path, embedding_sharing=sharing).eval()
    ids = torch.randint(5, 99, (3, 20))
    assert torch.allclose(model.electra(ids).last_hidden_state, source(ids).last_hidden_state, atol=1e-5)
    seeded(model, batch()).loss.backward()


@pytest.mark.parametrize(
    ("settings", "new"),
    [
        ({}, NEW_IN_A_TIED_GENERATOR),
        (
            {"embedding_sharing": "separate"},
            "generator.electra.embeddings.position_embeddings, generator.electra.embeddings.token_type_embeddings, "
            f"generator.electra.embeddings.LayerNorm, {NEW_IN_A_TIED_GENERATOR}",
        ),
        ({"generator_size": 1}, "generator.generator_predictions, generator.generator_lm_head.bias"),
    ],
    ids=["tied", "separate", "one encoder"],
)
def test_how_a_new_generator_starts_is_said_by_parameter(tmp_path, caplog, settings, new):
    randomised(ElectraModel(ElectraConfig(**SIZES, embedding_size=16))).save_pretrained(tmp_path)
    model = from_electra(tmp_path, **settings)
    message = caplog.messages[-1]
    assert f"discriminator_predictions, {new}, sbgo_head" in message
    assert "its perplexity starts near or above the size of the vocabulary (99)" in message
    table = model.electra.get_input_embeddings().weight
    assert torch.equal(model.generator.generator_lm_head.weight, table)


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_a_model_tells_which_of_its_parameters_are_new(tmp_path, sharing):
    randomised(ElectraModel(ElectraConfig(**SIZES, embedding_size=16))).save_pretrained(tmp_path)
    new = from_electra(tmp_path, embedding_sharing=sharing).new_parameters
    assert "generator.electra.encoder.layer.0.output.dense.weight" in new
    assert not any(name.startswith("electra.") or "word_embeddings" in name for name in new)
    assert ("generator.electra.embeddings.position_embeddings.weight" in new) == (sharing != "tied")
    assert {name.split(".")[0] for name in new} == {
        *("generator", "discriminator_predictions", "sbgo_head", "sbpo_head", "sbpo_prediction"),
    }


def test_only_the_boundary_heads_are_new_beside_both_halves(tmp_path):
    sizes = {"vocab_size": 99, "num_hidden_layers": 1}
    ElectraForPreTraining(ElectraConfig(**sizes)).save_pretrained(tmp_path / "d")
    ElectraForMaskedLM(ElectraConfig(**sizes)).save_pretrained(tmp_path / "g")
    model = from_electra(tmp_path / "d", tmp_path / "g")
    assert {name.split(".")[0] for name in model.new_parameters} == {"sbgo_head", "sbpo_head", "sbpo_prediction"}


# Two stages


def trained_parameters(model, inputs) -> set[str]:
    """The names of the parameters that a step of the optimizer changes."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    seeded(model.train(), inputs).loss.backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_the_first_stage_trains_the_generator_alone():
    model = random_model(objective="generator", embedding_sharing="separate")
    output = seeded(model, batch())
    joint = seeded(random_model(embedding_sharing="separate"), batch())
    assert output.rtd_loss is None and output.sbpo_loss is None and output.logits is None
    assert torch.equal(output.loss, joint.mlm_loss + joint.sbgo_loss)
    changed = trained_parameters(model, batch())
    assert {name.split(".")[0] for name in changed} == {"generator", "sbgo_head"}


def test_the_second_stage_leaves_the_generator_as_it_is(tmp_path):
    first = random_model(objective="generator")
    first.save_pretrained(tmp_path)
    model = from_generator(tmp_path, **tiny_config(embedding_sharing="separate").to_diff_dict())
    for name, weight in first.generator.state_dict().items():
        assert torch.equal(weight, model.generator.state_dict()[name])
    changed = trained_parameters(model, batch())
    assert {name.split(".")[0] for name in changed} == {
        "electra",
        "discriminator_predictions",
        "sbpo_head",
        "sbpo_prediction",
    }
    output = seeded(model, batch())
    assert torch.equal(output.loss, 50 * output.rtd_loss + 5 * output.sbpo_loss)
    assert output.mlm_loss is not None and not output.mlm_loss.requires_grad


def test_the_second_stage_has_the_first_ones_boundary_head(tmp_path):
    settings = {"hidden_act": "relu", "layer_norm_eps": 1e-3}
    first = random_model(objective="generator", **settings)
    first.save_pretrained(tmp_path / "first")
    shape = tiny_config(embedding_sharing="separate").to_diff_dict()
    model = from_generator(tmp_path / "first", **shape | settings)
    for name, weight in first.sbgo_head.state_dict().items():
        assert torch.equal(weight, model.sbgo_head.state_dict()[name])
    taken_over = from_generator(tmp_path / "first", **{k: v for k, v in shape.items() if k not in settings}).config
    assert (taken_over.hidden_act, taken_over.layer_norm_eps) == ("relu", 1e-3)
    with pytest.raises(ValueError, match="`hidden_act` is gelu in the configuration and relu in the generator"):
        from_generator(tmp_path / "first", **shape | settings | {"hidden_act": "gelu"})


def test_the_second_stage_has_the_first_ones_padding(tmp_path):
    random_model(objective="generator", pad_token_id=2).save_pretrained(tmp_path)
    model = from_generator(tmp_path, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    assert model.config.pad_token_id == model.get_input_embeddings().padding_idx == 2
    seeded(model, batch()).loss.backward()
    learnt = model.get_input_embeddings().weight.grad.abs().sum(dim=1)
    assert learnt[0] > 0 and learnt[2] == 0  # [CLS], which is the first, and [PAD]


def test_a_generator_that_stays_as_it_is_has_no_dropout():
    model = random_model(objective="discriminator", embedding_sharing="separate").train()
    assert not model.generator.training and model.electra.training
    assert torch.equal(seeded(model, batch()).corrupted_ids, seeded(model.eval(), batch()).corrupted_ids)


def test_the_discriminator_starts_from_the_generator_where_shapes_allow(tmp_path, caplog):
    shape = {
        name: getattr(tiny_config(), name) for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    }
    first = random_model(objective="generator", **{f"generator_{name}": value for name, value in shape.items()})
    assert first.config.share_encoder
    first.save_pretrained(tmp_path)
    same = from_generator(tmp_path, **shape, num_hidden_layers=2, boundary_position_size=12)
    assert not same.config.share_encoder
    for name, weight in same.electra.state_dict().items():
        assert torch.equal(weight, same.generator.electra.state_dict()[name])
    shape |= {"boundary_position_size": 12}
    deeper = from_generator(tmp_path, **shape, num_hidden_layers=3)
    summed = from_generator(tmp_path, **shape, num_hidden_layers=2, embedding_sharing="disentangled")
    assert torch.equal(summed.get_input_embeddings().weight, summed.generator.get_input_embeddings().weight)
    said = [message for message in caplog.messages if "tensors of the discriminator's encoder" in message]
    for message, (tensors, new) in zip(said, ((39, "nothing"), (55, "encoder"), (39, "nothing")), strict=True):
        assert f"39 of the {tensors} tensors" in message and f"New, at least in part: {new}." in message
    key = "electra.encoder.layer.1.output.dense.weight"
    assert torch.equal(deeper.state_dict()[key], first.state_dict()[key])


def test_a_stage_in_which_the_generator_would_change_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`objective` is 'discriminator' and `embedding_sharing` is 'tied'"):
        tiny_config(objective="discriminator")
    random_model().save_pretrained(tmp_path / "tied")
    with pytest.raises(ValueError, match="`objective` is 'discriminator' and `embedding_sharing` is 'tied'"):
        SpanElectraForPreTraining.from_pretrained(tmp_path / "tied", objective="discriminator")
    with pytest.raises(
        ValueError, match=r"`share_encoder` is True, .* different shapes .*`hidden_size` 32, the generator's 8"
    ):
        tiny_config(share_encoder=True)
    with pytest.raises(ValueError, match="`objective` is 'both'; choose joint, generator, discriminator"):
        tiny_config(objective="both")
    ElectraForMaskedLM(ElectraConfig(**SIZES, embedding_size=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`embedding_size` is 24 in the configuration and 16 in the generator"):
        from_generator(tmp_path, embedding_size=24)


def test_the_two_halves_stay_two_when_training_goes_on_together(tmp_path):
    shape = {f"generator_{name}": getattr(tiny_config(), name) for name in ("hidden_size", "intermediate_size")}
    second = random_model(
        objective="discriminator", embedding_sharing="separate", generator_num_attention_heads=2, **shape
    )
    second.save_pretrained(tmp_path)
    joint = SpanElectraForPreTraining.from_pretrained(tmp_path, objective="joint")
    assert not joint.config.share_encoder and all(parameter.requires_grad for parameter in joint.parameters())
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, joint.state_dict()[name])


def test_a_discriminator_that_was_never_trained_is_not_loaded_in_silence(tmp_path, caplog):
    shape = {f"generator_{name}": getattr(tiny_config(), name) for name in ("hidden_size", "intermediate_size")}
    one = random_model(objective="generator", generator_num_attention_heads=2, **shape)
    assert one.config.share_encoder
    one.save_pretrained(tmp_path / "one encoder")
    SpanElectraModel.from_pretrained(tmp_path / "one encoder")
    assert "only its generator was trained" not in caplog.text
    random_model(objective="generator").save_pretrained(tmp_path / "two")
    SpanElectraModel.from_pretrained(tmp_path / "two")
    assert "only its generator was trained" in caplog.text
