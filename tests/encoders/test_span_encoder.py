"""The objectives on any encoder, against stock classes and against loops that can be checked by eye."""

import copy
import json
from pathlib import Path

import pytest
import torch
from span_encoder_examples import FAMILIES, SHARING, batch_for, family_config, random_pair
from test_modeling import masked_tokens, represent
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertModel

import span_electra
from span_electra import SpanElectraConfig, SpanElectraForPreTraining
from span_electra.encoders.configuration_span_encoder import TESTED_FAMILIES, SpanEncoderConfig
from span_electra.encoders.modeling_span_encoder import (
    SEPARATE_SEQUENCES,
    SpanEncoderForPreTraining,
    embeddings_of,
)

EVERY_FAMILY = pytest.mark.parametrize("kind", FAMILIES)
EVERY_SHARING = pytest.mark.parametrize("sharing", SHARING)
TWO_FAMILIES = pytest.mark.parametrize("kind", ["modernbert", "deberta-v2"])
LOSSES = ("mlm_loss", "sbgo_loss", "rtd_loss", "sbpo_loss")


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters(remove_duplicate=False)}


def stock_halves(model):
    """Stock classes with the model's weights, each with a copy of its own."""
    generator = AutoModelForMaskedLM.from_config(copy.deepcopy(model.generator.config))
    generator.load_state_dict(model.generator.state_dict())
    discriminator = type(model.discriminator)(copy.deepcopy(model.discriminator.config))
    weights = model.discriminator.state_dict()
    discriminator.load_state_dict(
        {name: weights[name] for name in discriminator.state_dict() if name in weights}, strict=False
    )
    return generator.eval(), discriminator.eval()


def test_the_examples_are_the_tested_families():
    assert set(FAMILIES) == set(TESTED_FAMILIES) >= set(SEPARATE_SEQUENCES)


# Parity with stock classes


@TWO_FAMILIES
@EVERY_SHARING
def test_losses_and_gradients_equal_a_composition_of_stock_classes(kind, sharing):
    model = random_pair(kind, embedding_sharing=sharing, use_sbgo=False, use_sbpo=False)
    inputs = batch_for(model.config)
    output = model(**inputs)
    ours = gradients_of(model, output.loss)

    generator, discriminator = stock_halves(model)
    head = copy.deepcopy(model.discriminator_predictions)
    labels, mask = inputs["labels"], inputs["attention_mask"]
    mlm_loss = generator(inputs["input_ids"], attention_mask=mask, labels=labels).loss
    original = torch.where(labels == -100, inputs["input_ids"], labels)
    is_replaced = (output.corrupted_ids != original) & (labels != -100)
    assert is_replaced.any() and torch.equal(output.corrupted_ids[labels == -100], original[labels == -100])
    logits = head(discriminator(output.corrupted_ids, attention_mask=mask).last_hidden_state)
    rtd_loss = F.binary_cross_entropy_with_logits(logits[mask.bool()], is_replaced[mask.bool()].float())
    (mlm_loss + 5 * rtd_loss).backward()

    torch.testing.assert_close(output.mlm_loss, mlm_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(output.rtd_loss, rtd_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(output.loss, mlm_loss + 5 * rtd_loss, rtol=1e-6, atol=0)
    table = f"discriminator.{path_of(discriminator, discriminator.get_input_embeddings())}"
    shared = {
        name
        for name, _ in embeddings_of(discriminator).named_parameters(
            prefix=path_of(discriminator, embeddings_of(discriminator))
        )
    }
    for prefix, stock in (("generator.", generator), ("discriminator.", discriminator)):
        for name, parameter in stock.named_parameters():
            expected, ours_name = parameter.grad, prefix + name
            of_encoder = name.removeprefix(generator.base_model_prefix + ".")
            if sharing == "tied" and of_encoder in shared:
                expected = (
                    generator.base_model.get_parameter(of_encoder).grad + discriminator.get_parameter(of_encoder).grad
                )
            if sharing == "disentangled" and ours_name == f"{table}.weight":
                ours_name = f"{table}.residual.weight"
            torch.testing.assert_close(
                ours[ours_name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, at=ours_name: f"{at}: {text}"
            )
    torch.testing.assert_close(
        ours["discriminator_predictions.dense.weight"], head.dense.weight.grad, rtol=1e-4, atol=1e-5
    )


def path_of(model, part):
    return next(name for name, module in model.named_modules() if module is part)


@TWO_FAMILIES
@EVERY_SHARING
def test_boundary_losses_equal_loops(kind, sharing):
    model = random_pair(kind, embedding_sharing=sharing, max_span_length=2)
    inputs = batch_for(model.config)
    output = model(**inputs)
    labels, mask = inputs["labels"], inputs["attention_mask"]
    generator, discriminator = stock_halves(model)
    guessed = generator.base_model(inputs["input_ids"], attention_mask=mask).last_hidden_state
    judged = discriminator(output.corrupted_ids, attention_mask=mask).last_hidden_state
    sbgo, sbpo = [], []
    for row, token in masked_tokens(labels):
        scores = generator.get_output_embeddings()(represent(model.sbgo_head, guessed, labels, row, token))
        sbgo.append(-scores.log_softmax(-1)[labels[row, token]])
        logit = model.sbpo_prediction(represent(model.sbpo_head, judged, labels, row, token))
        sign = 1.0 if output.corrupted_ids[row, token] != labels[row, token] else -1.0
        sbpo.append(-F.logsigmoid(sign * logit))
    assert len(sbgo) == 8
    assert output.sbgo_loss.item() == pytest.approx(sum(sbgo).item() / 8, rel=1e-5)
    assert output.sbpo_loss.item() == pytest.approx(sum(sbpo).item() / 8, rel=1e-5)
    weighted = output.mlm_loss + output.sbgo_loss + 5 * output.rtd_loss + 0.5 * output.sbpo_loss
    torch.testing.assert_close(output.loss, weighted)


@EVERY_SHARING
def test_electra_by_this_way_has_the_losses_of_the_electra_pair(sharing):
    pair = random_pair("electra", embedding_sharing=sharing, sbpo_weight=5.0, rtd_weight=50.0)
    sizes = {name: getattr(pair.discriminator.config, name) for name in (*FAMILIES["electra"],)}
    sizes |= {"generator_hidden_size": 32, "generator_num_attention_heads": 2, "generator_num_hidden_layers": 1}
    config = SpanElectraConfig(
        **sizes, generator_intermediate_size=48, boundary_position_size=12, embedding_sharing=sharing
    )
    model = SpanElectraForPreTraining(config).eval()
    weights = {name.replace("discriminator.", "electra."): weight for name, weight in pair.state_dict().items()}
    model.load_state_dict(weights)
    inputs = batch_for(pair.config)
    output, expected = pair(**inputs), model(**inputs)
    assert torch.equal(output.corrupted_ids, expected.corrupted_ids)
    for name in (*LOSSES, "loss"):
        torch.testing.assert_close(output[name], expected[name], rtol=1e-6, atol=0)
    ours, theirs = gradients_of(pair, output.loss), gradients_of(model, expected.loss)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name.replace("discriminator.", "electra.")], rtol=1e-4, atol=1e-5)


@EVERY_FAMILY
def test_each_family_scores_as_its_own_masked_language_model(kind):
    model = random_pair(kind)
    inputs = batch_for(model.config)
    masked = inputs["labels"] != -100
    generator, _ = stock_halves(model)
    logits = generator(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[masked]
    output = model(**inputs)
    assert output.mlm_loss.item() == pytest.approx(F.cross_entropy(logits, inputs["labels"][masked]).item(), rel=1e-5)
    represented = torch.randn(4, generator.get_output_embeddings().weight.shape[1])
    last = []
    generator.get_output_embeddings().register_forward_pre_hook(lambda _, args: last.append(args[0]))
    generator(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(model.score_from_boundaries(last[0][masked]), logits)
    assert model.score_from_boundaries(represented).shape == (4, 99)


# What a training step needs


@EVERY_FAMILY
@EVERY_SHARING
def test_every_trainable_parameter_gets_a_gradient(kind, sharing):
    model = random_pair(kind, embedding_sharing=sharing).train()
    model(**batch_for(model.config)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
    assert not any("pooler" in name for name, weight in model.named_parameters() if weight.requires_grad)


@EVERY_FAMILY
def test_tied_networks_share_their_embeddings_and_nothing_else(kind):
    models = {sharing: random_pair(kind, embedding_sharing=sharing) for sharing in SHARING}
    count = {sharing: sum(weight.numel() for weight in model.parameters()) for sharing, model in models.items()}
    embeddings = embeddings_of(models["separate"].discriminator)
    assert count["separate"] - count["tied"] == sum(weight.numel() for weight in embeddings.parameters())
    assert count["separate"] == count["disentangled"]
    ours, theirs = (
        path.get_input_embeddings().weight for path in (models["tied"].discriminator, models["tied"].generator)
    )
    assert ours is theirs
    embedding = models["disentangled"].get_input_embeddings()
    assert embedding.shared.weight is models["disentangled"].generator.get_input_embeddings().weight


@EVERY_FAMILY
def test_a_new_disentangled_discriminator_begins_with_the_generators_embeddings(kind):
    model = SpanEncoderForPreTraining(SpanEncoderConfig(discriminator=family_config(kind)))
    assert not model.get_input_embeddings().residual.weight.any()


@EVERY_SHARING
def test_weights_to_start_from_are_kept(sharing):
    config = family_config("bert")
    encoder, generator = BertModel(config).eval(), BertForMaskedLM(family_config("bert", num_hidden_layers=2)).eval()
    ids = batch_for(config)["input_ids"]
    expected, guesses = encoder(ids).last_hidden_state, generator(ids).logits
    model = SpanEncoderForPreTraining(
        SpanEncoderConfig(discriminator=config, embedding_sharing=sharing), encoder, generator
    ).eval()
    assert model.config.generator.num_hidden_layers == 2
    torch.testing.assert_close(model.discriminator(ids).last_hidden_state, expected)
    if sharing != "tied":
        torch.testing.assert_close(model.generator(ids).logits, guesses)


@EVERY_FAMILY
def test_static_shapes_change_no_loss_and_no_gradient(kind):
    model = random_pair(kind)
    inputs = batch_for(model.config)
    exact = model(**inputs)
    expected = gradients_of(model, exact.loss)
    model.largest_masked_share = 0.3
    padded = model(**inputs)
    gradients = gradients_of(model, padded.loss)
    assert torch.equal(exact.corrupted_ids, padded.corrupted_ids)
    for name in LOSSES:
        torch.testing.assert_close(padded[name], exact[name], rtol=1e-5, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=2e-5)


def test_a_row_samples_the_same_in_any_batch():
    model = random_pair("modernbert")
    inputs = batch_for(model.config)
    whole = model(**inputs).corrupted_ids
    for row in range(3):
        assert torch.equal(
            model(**{name: value[row : row + 1] for name, value in inputs.items()}).corrupted_ids[0], whole[row]
        )
    assert not torch.equal(model(**inputs | {"sampling_keys": inputs["sampling_keys"] + 7}).corrupted_ids, whole)


@EVERY_SHARING
def test_the_generator_stage_leaves_the_discriminator(sharing):
    model = random_pair("modernbert", objective="generator", embedding_sharing=sharing)
    output = model(**batch_for(model.config))
    assert output.rtd_loss is None and output.logits is None
    torch.testing.assert_close(output.loss, output.mlm_loss + output.sbgo_loss)
    output.loss.backward()
    trained = {
        name.split(".")[0]
        for name, weight in model.named_parameters(remove_duplicate=False)
        if weight.grad is not None
    }
    assert trained - {"discriminator"} == {"generator", "sbgo_head"}
    assert [
        name for name, weight in model.named_parameters() if weight.requires_grad != (weight.grad is not None)
    ] == []


@pytest.mark.parametrize("sharing", ["disentangled", "separate"])
def test_the_discriminator_stage_leaves_the_generator(sharing):
    model = random_pair("modernbert", objective="discriminator", embedding_sharing=sharing).train()
    assert not model.generator.training
    output = model(**batch_for(model.config))
    torch.testing.assert_close(output.loss, 5 * output.rtd_loss + 0.5 * output.sbpo_loss)
    output.loss.backward()
    assert all(weight.grad is None for weight in (*model.generator.parameters(), *model.sbgo_head.parameters()))
    assert [
        name for name, weight in model.named_parameters() if weight.requires_grad != (weight.grad is not None)
    ] == []


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2", "bert", "eurobert"])
def test_gradient_checkpointing_changes_no_gradient(kind):
    model = random_pair(kind).train()  # without dropout, in all but BERT and DeBERTa
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for network in (model.discriminator, model.generator):
        for name in ("attention_probs_dropout_prob", "hidden_dropout_prob", "attention_dropout"):
            if hasattr(network.config, name):
                setattr(network.config, name, 0.0)
    model.set_attn_implementation("eager")
    inputs = batch_for(model.config)
    expected = gradients_of(model, model(**inputs).loss)
    model.gradient_checkpointing_enable()
    assert {getattr(module, "gradient_checkpointing", None) for module in model.modules()} >= {True}
    gradients = gradients_of(model, model(**inputs).loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


@EVERY_FAMILY
def test_bf16_autocast_keeps_losses_in_float32(kind):
    model = random_pair(kind)
    inputs = batch_for(model.config)
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()
    for name in LOSSES:
        assert output[name].dtype == torch.float32
    assert output.mlm_loss.item() == pytest.approx(expected.mlm_loss.item(), rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated")  # torch's, of its own vmap
@pytest.mark.parametrize("packed", [False, True])
def test_modernbert_compiles_without_a_graph_break(packed):
    model = random_pair("modernbert", embedding_sharing="disentangled")
    model.largest_masked_share = 0.3
    inputs = batch_for(model.config)
    if packed:
        inputs["position_ids"] = torch.arange(20).remainder(10).expand(3, -1)
    expected = model(**inputs)
    wanted = gradients_of(model, expected.loss)
    torch._dynamo.reset()
    output = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    assert torch.equal(output.corrupted_ids, expected.corrupted_ids)
    for name in LOSSES:
        torch.testing.assert_close(output[name], expected[name], rtol=1e-4, atol=1e-5)
    gradients = gradients_of(model, output.loss)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4)


# Padding and sequences that share a row


def row_of(*lengths: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.cat([torch.randint(5, 99, (1, length), generator=generator) for length in lengths], dim=1)


@pytest.mark.parametrize("kind", SEPARATE_SEQUENCES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sequences_that_share_a_row_do_not_see_each_family_config(kind, attention):
    model = random_pair(kind)
    model.set_attn_implementation(attention)
    ids = row_of(17, 13, 6)
    ids[:, 30:] = model.config.pad_token_id
    positions = torch.cat([torch.arange(17), torch.arange(13), torch.arange(6)])[None]
    mask = (torch.arange(36) < 30).long()[None]
    networks = {
        "discriminator": (model.discriminator, model.encode_corrupted),
        "generator": (model.generator.base_model, model.encode_masked),
    }
    masks = model.attention_mask_of(mask, positions)
    for name, (stock, encode) in networks.items():
        hidden = encode(ids, attention_mask=masks[name], position_ids=positions)
        hidden = getattr(hidden, "last_hidden_state", hidden)
        for start, end in ((0, 17), (17, 30)):
            alone = stock(ids[:, start:end]).last_hidden_state
            torch.testing.assert_close(hidden[:, start:end], alone, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(stock(ids[:, :30]).last_hidden_state[:, 17:], hidden[:, 17:30], atol=1e-2)


@pytest.mark.parametrize("kind", sorted(set(FAMILIES) - set(SEPARATE_SEQUENCES)))
def test_families_that_cannot_keep_sequences_apart_are_refused(kind):
    model = random_pair(kind)
    with pytest.raises(ValueError, match=rf"{kind} is not among .*modernbert.* without --pack_documents"):
        model(**batch_for(model.config), position_ids=torch.arange(20).remainder(10).expand(3, -1))


def test_flash_attention_is_refused_for_shared_rows():
    model = random_pair("modernbert")
    model.discriminator.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2', which cannot separate .* use 'sdpa', 'eager' or"):
        model(**batch_for(model.config), position_ids=torch.arange(20).expand(3, -1))


@EVERY_FAMILY
def test_padding_changes_no_hidden_state(kind):
    model = random_pair(kind)
    ids = row_of(14)
    padded = F.pad(ids, (0, 8), value=model.config.pad_token_id)
    mask = (torch.arange(22) < 14).long()[None]
    for share in (None, 0.3):
        model.largest_masked_share = share
        masks = model.attention_mask_of(mask, None)
        for encode, name in ((model.encode_corrupted, "discriminator"), (model.encode_masked, "generator")):
            alone, hidden = encode(ids), encode(padded, attention_mask=masks[name])
            alone, hidden = (getattr(states, "last_hidden_state", states) for states in (alone, hidden))
            torch.testing.assert_close(hidden[:, :14], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "electra", "modernbert"])
def test_segments_reach_the_families_that_have_them(kind):
    model = random_pair(kind)
    inputs = batch_for(model.config)
    plain = model(**inputs).rtd_loss
    with_types = model(**inputs, token_type_ids=torch.ones_like(inputs["input_ids"])).rtd_loss
    assert torch.equal(plain, with_types) == (kind == "modernbert")


@EVERY_FAMILY
def test_a_model_counts_the_positions_that_it_has(kind):
    config = SpanEncoderConfig(discriminator=family_config(kind, max_position_embeddings=24))
    longest = config.max_position_embeddings
    assert longest == {"roberta": 21, "xlm-roberta": 21, "camembert": 21, "mpnet": 22}.get(kind, 24)
    model = SpanEncoderForPreTraining(config)
    model(torch.full((1, longest), 7))
    if longest < 24 or kind in ("bert", "distilbert", "electra"):
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, longest + 1), 7))


# The vocabulary


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "esm"])
@EVERY_SHARING
def test_resizing_keeps_what_was_there(kind, sharing):
    model = random_pair(kind, embedding_sharing=sharing)
    inputs = batch_for(model.config)
    del inputs["labels"]
    with torch.no_grad():
        before, guesses = model(**inputs).logits, model.generator(inputs["input_ids"]).logits
    model.resize_token_embeddings(105)
    assert model.config.vocab_size == model.config.generator.vocab_size == 105
    torch.testing.assert_close(model(**inputs).logits, before)
    torch.testing.assert_close(model.generator(inputs["input_ids"]).logits[..., :99], guesses)
    model.train()(**batch_for(model.config)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
    assert model(input_ids=torch.tensor([[0, 104, 4]])).logits.shape == (1, 3)


# What cannot work

NARROW = {"generator": family_config("modernbert", hidden_size=16)}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"discriminator": {"model_type": "gpt2"}}, ["gpt2", "no masked language model", "ModernBERT"]),
        ({"discriminator": {"model_type": "t5"}}, ["t5", "ModernBERT"]),
        ({"discriminator": {"model_type": "bart"}}, ["bart", "an encoder and a decoder", "ModernBERT"]),
        ({"discriminator": {"model_type": "vit"}}, ["vit", "no masked language model", "ModernBERT"]),
        ({"discriminator": {"model_type": "modern_bert"}}, ["unknown `model_type` 'modern_bert'", "ModernBERT"]),
        ({"discriminator": {"hidden_size": 32}}, ["model_type"]),
        ({}, ["`discriminator` is None", "model_type"]),
        ({"discriminator": BertConfig(is_decoder=True)}, ["bert", "`is_decoder`"]),
        ({"discriminator": {"model_type": "bert", "hiden_size": 32}}, ["`hiden_size`", "`hidden_size`"]),
        ({"rtd_wieght": 1}, ["`rtd_wieght`", "`rtd_weight`"]),
        ({"generator": family_config("bert")}, ["`model_type`", "'modernbert'", "'bert'", "same family"]),
        ({"generator": family_config("modernbert", vocab_size=98)}, ["`vocab_size`", "99", "98", "vocabulary"]),
        (
            {"generator": family_config("modernbert", hidden_size=16), "embedding_sharing": "tied"},
            ["32", "16", "'separate'"],
        ),
        ({"generator": family_config("modernbert", hidden_size=16)}, ["'disentangled'", "32", "16", "'separate'"]),
        ({"objective": "discriminator", "embedding_sharing": "tied"}, ["'tied'", "'separate' or 'disentangled'"]),
        ({"embedding_sharing": "both"}, ["'both'", "tied, disentangled, separate"]),
        ({"objective": "all"}, ["'all'", "joint"]),
        ({"discriminator": family_config("deberta-v2", legacy=False)}, ["deberta-v2", "`legacy`", "True"]),
        ({"discriminator": family_config("mpnet", pad_token_id=2)}, ["`pad_token_id` is 2", "mpnet", "1"]),
        ({"discriminator": family_config("esm", mask_token_id=None)}, ["`token_dropout`", "`mask_token_id`"]),
        ({"discriminator": family_config("esm", vocab_size=None)}, ["esm", "`vocab_size`"]),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_what_to_give_instead(settings, words):
    if settings and "discriminator" not in settings:
        settings = settings | {"discriminator": family_config("modernbert")}
    with pytest.raises(ValueError) as error:
        SpanEncoderConfig(**settings)
    assert all(word in str(error.value) for word in words), error.value


def test_a_stock_generator_that_does_not_match_is_refused_when_the_model_is_built():
    config = SpanEncoderConfig(discriminator=family_config("modernbert"))
    with pytest.raises(ValueError, match="'modernbert' and the generator's 'bert'"):
        SpanEncoderForPreTraining(config, generator=BertForMaskedLM(family_config("bert")))


def test_a_misspelt_attribute_is_refused():
    config = SpanEncoderConfig(discriminator=family_config("bert"))
    with pytest.raises(ValueError, match="Did you mean `rtd_weight`"):
        config.rtd_wieght = 1


def test_an_untested_family_is_named(caplog):
    SpanEncoderConfig(discriminator=CONFIG_MAPPING["convbert"](vocab_size=99))
    assert "convbert is not among the tested families (modernbert," in caplog.text


# Settings in a file


def test_flat_settings_are_the_discriminators_and_ours():
    settings = FAMILIES["modernbert"] | {"model_type": "modernbert", "rtd_weight": 9.0, "embedding_sharing": "tied"}
    config = SpanEncoderConfig.from_settings(settings)
    assert config.discriminator.to_dict() == family_config("modernbert").to_dict()
    assert (config.rtd_weight, config.embedding_sharing) == (9.0, "tied")
    assert (
        config.generator.num_hidden_layers == 1
        and config.generator.layer_types == config.discriminator.layer_types[:1]
    )
    again = SpanEncoderConfig.from_settings(
        config.own_settings() | {"discriminator": settings_of(config.discriminator)}
    )
    assert again.own_settings() == config.own_settings()


def settings_of(config):
    return config.to_dict() | {"model_type": config.model_type}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_generators_settings_are_what_differs(kind):
    wide = {"generator": {"num_hidden_layers": 2, "hidden_size": 16}, "embedding_sharing": "separate"}
    config = SpanEncoderConfig.from_settings(FAMILIES[kind] | {"model_type": kind} | wide)
    sizes = [(part.num_hidden_layers, part.hidden_size) for part in (config.discriminator, config.generator)]
    assert sizes == [(3, 32), (2, 16)]
    model = SpanEncoderForPreTraining(config)
    assert torch.isfinite(model(**batch_for(config)).loss)
    default = SpanEncoderConfig.from_settings(FAMILIES[kind] | {"model_type": kind, "generator": {"vocab_size": 99}})
    assert default.generator.num_hidden_layers == 1


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"model_type": "modernbert", "rtd_wieght": 1}, ["`rtd_wieght`", "`rtd_weight`"]),
        ({"model_type": "modernbert", "num_layers": 1}, ["`num_layers`", "ModernBertConfig", "`num_hidden_layers`"]),
        ({"model_type": "modernbert", "generator": {"hiden_size": 1}}, ["`hiden_size`", "`hidden_size`"]),
        ({"hidden_size": 32}, ["model_type"]),
        ({"model_type": "gpt2"}, ["gpt2", "ModernBERT"]),
        ({"model_type": "modernbert", "generator": {"model_type": "bert"}}, ["'modernbert'", "'bert'"]),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_are_refused(settings, words):
    with pytest.raises(ValueError) as error:
        SpanEncoderConfig.from_settings(settings)
    assert all(word in str(error.value) for word in words), error.value


def test_a_published_configuration_is_taken():
    saved = {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    saved |= {"architectures": ["ModernBertForMaskedLM"], "layer_norm_eps": 1e-05, "reference_compile": False}
    saved |= {"position_embedding_type": "absolute", "torch_dtype": "float32", "transformers_version": "4.47.0.dev0"}
    config = SpanEncoderConfig.from_settings({"model_type": "modernbert"} | saved)
    assert config.discriminator.num_hidden_layers == 22 and config.generator.num_hidden_layers == 7


@pytest.mark.parametrize(
    "name, layers, millions", [("tiny", (2, 1), 0.97), ("small", (12, 4), 14.5), ("base", (22, 7), 133)]
)
def test_the_sizes_are_as_configs_says(name, layers, millions):
    settings = json.loads((Path(span_electra.__file__).parent / "configs" / f"modernbert_{name}.json").read_text())
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    size = {"tiny": 5_000, "small": 30_522, "base": 30_522}[name]
    config = SpanEncoderConfig.from_settings(settings | special | {"vocab_size": size})
    assert (config.num_hidden_layers, config.generator.num_hidden_layers) == layers
    with torch.device("meta"):
        encoder = AutoModel.from_config(config.discriminator)
    assert encoder.num_parameters() / 1e6 == pytest.approx(millions, rel=0.02)
