"""The objective, against stock ELECTRA and against versions of it written with loops that can be checked by eye."""

import math
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForPreTraining,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraModel,
    Trainer,
    TrainingArguments,
)

from span_electra import (
    SpanElectraConfig,
    SpanElectraForMaskedLM,
    SpanElectraForPreTraining,
    SpanElectraForSequenceClassification,
)
from span_electra.modeling_span_electra import DISENTANGLED, WORD_EMBEDDINGS
from span_electra.span_objectives import SpanBoundaryHead

MASK = 3


def tiny_config(**settings) -> SpanElectraConfig:
    sizes = {
        "vocab_size": 99,
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        "max_position_embeddings": 64,
        "boundary_position_size": 12,
    }
    return SpanElectraConfig(**(sizes | settings))


def random_model(**settings) -> SpanElectraForPreTraining:
    """A model in which no weight is zero, and no two of them are equal by their initialisation."""
    torch.manual_seed(0)
    model = SpanElectraForPreTraining(tiny_config(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(spans=((0, 3, 6), (0, 9, 10), (1, 2, 4), (2, 17, 19)), rows: int = 3, tokens: int = 20):
    """A batch with padding at the second row's end, and spans (row, start, end)."""
    generator = torch.Generator().manual_seed(5)
    original = torch.randint(5, 99, (rows, tokens), generator=generator)
    original[:, 0], original[:, -1] = 0, 1
    attention_mask = torch.ones_like(original)
    attention_mask[1, 12:] = 0
    original[1, 12:], original[1, 11] = 2, 1
    labels = torch.full_like(original, -100)
    for row, start, end in spans:
        labels[row, start:end] = original[row, start:end]
    input_ids = torch.where(labels == -100, original, MASK)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def seeded(model, inputs):
    torch.manual_seed(11)
    return model(**inputs)


def test_places_past_the_last_position_embedding_use_the_last():
    head = SpanBoundaryHead(tiny_config(max_span_length=4), 32, 16, 1e-12)
    edge = torch.randn(3, 32)
    fourth, fifth, ninth = head(edge[:1].expand(3, 32), edge[1:2].expand(3, 32), torch.tensor([4, 5, 9]))
    assert torch.equal(fourth, fifth) and torch.equal(fourth, ninth)


# Parity with stock ELECTRA


def stock_halves(model):
    """Stock generator and discriminator with the model's weights; each has its own copy."""
    generator = ElectraForMaskedLM(model.config.generator_config()).eval()
    generator.load_state_dict(model.generator.state_dict())
    discriminator = ElectraForPreTraining(model.config.discriminator_config()).eval()
    weights = model.state_dict()
    discriminator.load_state_dict({key: weights[key] for key in discriminator.state_dict()})
    return generator, discriminator


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_loss_and_gradients_equal_a_composition_of_stock_electra(sharing):
    model = random_model(use_sbgo=False, use_sbpo=False, embedding_sharing=sharing)
    inputs = batch(spans=((0, 3, 4), (0, 9, 10), (1, 2, 3), (2, 17, 18)))  # single tokens
    output = seeded(model, inputs)
    output.loss.backward()

    generator, discriminator = stock_halves(model)
    mlm = generator(**inputs)
    corrupted = torch.where(inputs["labels"] == -100, inputs["input_ids"], output.corrupted_ids)
    original = torch.where(inputs["labels"] == -100, inputs["input_ids"], inputs["labels"])
    rtd = discriminator(corrupted, attention_mask=inputs["attention_mask"], labels=(corrupted != original).long())
    (mlm.loss + 50 * rtd.loss).backward()

    assert torch.allclose(output.mlm_loss, mlm.loss, rtol=1e-6)
    assert torch.allclose(output.rtd_loss, rtd.loss, rtol=1e-6)
    assert torch.allclose(output.loss, mlm.loss + 50 * rtd.loss, rtol=1e-6)
    ours = dict(model.named_parameters(remove_duplicate=False))
    for prefix, stock in (("generator.", generator), ("", discriminator)):
        for name, parameter in stock.named_parameters():
            expected = parameter.grad
            if sharing == "tied" and ".embeddings." in name:
                expected = generator.get_parameter(name).grad + discriminator.get_parameter(name).grad
            ours_name = prefix + name
            if sharing == "disentangled" and ours_name == WORD_EMBEDDINGS:
                ours_name = WORD_EMBEDDINGS.replace("weight", "residual.weight")
            assert torch.allclose(ours[ours_name].grad, expected, rtol=1e-4, atol=1e-5), ours_name


def test_without_labels_the_model_is_the_stock_discriminator():
    model = random_model()
    inputs = batch()
    del inputs["labels"]
    _, discriminator = stock_halves(model)
    assert torch.equal(model(**inputs).logits, discriminator(**inputs).logits)


def test_hidden_states_equal_stock_electra_for_every_attention_back_end():
    model = random_model()
    _, discriminator = stock_halves(model)
    inputs = batch()
    del inputs["labels"]
    expected = discriminator.electra(**inputs).last_hidden_state
    for back_end in ("eager", "sdpa"):
        model.set_attn_implementation(back_end)
        assert model.generator.config._attn_implementation == back_end
        hidden = model.electra(**inputs).last_hidden_state
        real = inputs["attention_mask"].bool()
        assert torch.allclose(hidden[real], expected[real], atol=1e-6), back_end


# Each loss against a loop


def boundaries_of(labels, row, token):
    left = right = token
    while labels[row, left] != -100:
        left -= 1
    while labels[row, right] != -100:
        right += 1
    return left, right


def masked_tokens(labels):
    return [(b, t) for b in range(labels.shape[0]) for t in range(labels.shape[1]) if labels[b, t] != -100]


def represent(head, hidden, labels, row, token):
    left, right = boundaries_of(labels, row, token)
    place = min(token - left - 1, head.position_embeddings.num_embeddings - 1)
    edges = torch.cat([hidden[row, left], hidden[row, right], head.position_embeddings.weight[place]])
    middle = head.norm_in(F.gelu(head.dense_in(edges)))
    return head.norm_out(F.gelu(head.dense_out(middle)))


@pytest.fixture(params=["tied", "disentangled", "separate"])
def step(request):
    model = random_model(embedding_sharing=request.param, max_span_length=2)
    inputs = batch()
    return model, inputs, seeded(model, inputs)


def test_mlm_is_the_mean_over_masked_tokens(step):
    model, inputs, output = step
    logits = model.generator(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    labels = inputs["labels"]
    losses = [-logits[b, t].log_softmax(-1)[labels[b, t]] for b, t in masked_tokens(labels)]
    assert len(losses) == 8
    assert output.mlm_loss.item() == pytest.approx(sum(losses).item() / 8, rel=1e-5)


def test_a_label_that_is_no_token_is_refused_as_stock_electra_does():
    labels = torch.tensor([[-100, 6, -1, -100]])
    with pytest.raises(IndexError, match="Target -1 is out of bounds"):
        random_model()(torch.tensor([[5, 3, 3, 8]]), labels=labels)


def test_sbgo_is_the_mean_over_masked_tokens_from_the_visible_boundaries(step):
    model, inputs, output = step
    labels = inputs["labels"]
    hidden = model.generator.electra(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    losses = []
    for b, t in masked_tokens(labels):
        logits = model.generator.generator_lm_head(represent(model.sbgo_head, hidden, labels, b, t))
        losses.append(-logits.log_softmax(-1)[labels[b, t]])
    assert output.sbgo_loss.item() == pytest.approx(sum(losses).item() / 8, rel=1e-5)


def test_rtd_is_the_mean_over_all_real_tokens(step):
    _, inputs, output = step
    losses = []
    for b in range(3):
        for t in range(20):
            if inputs["attention_mask"][b, t]:
                label = inputs["labels"][b, t]
                replaced = label != -100 and output.corrupted_ids[b, t] != label
                assert output.is_replaced[b, t] == replaced
                probability = output.logits[b, t].sigmoid()
                losses.append(-torch.log(probability if replaced else 1 - probability))
    assert len(losses) == 52
    assert output.rtd_loss.item() == pytest.approx(sum(losses).item() / 52, rel=1e-5)


def test_sbpo_is_the_mean_over_masked_tokens_from_the_visible_boundaries(step):
    model, inputs, output = step
    labels = inputs["labels"]
    encoded = model.electra(output.corrupted_ids, attention_mask=inputs["attention_mask"])
    losses = []
    for b, t in masked_tokens(labels):
        logit = model.sbpo_prediction(represent(model.sbpo_head, encoded.last_hidden_state, labels, b, t))
        sign = 1.0 if output.corrupted_ids[b, t] != labels[b, t] else -1.0
        losses.append(-F.logsigmoid(sign * logit))
    assert output.sbpo_loss.item() == pytest.approx(sum(losses).item() / 8, rel=1e-5)


def test_the_loss_is_the_weighted_sum():
    weights = {"mlm_weight": 2.0, "sbgo_weight": 3.0, "rtd_weight": 5.0, "sbpo_weight": 7.0}
    output = seeded(random_model(**weights), batch())
    expected = 2 * output.mlm_loss + 3 * output.sbgo_loss + 5 * output.rtd_loss + 7 * output.sbpo_loss
    assert torch.allclose(output.loss, expected)


@pytest.mark.parametrize("settings", [{}, {"return_dict": False}])
def test_the_loss_is_the_first_of_a_tuple(settings):
    model, inputs = random_model(**settings), batch()
    keys = torch.arange(len(inputs["labels"]), dtype=torch.int32)
    output = model(**inputs, sampling_keys=keys, return_dict=True)
    as_tuple = model(**inputs, sampling_keys=keys, return_dict=False)
    assert as_tuple[0] == output.loss == output[0]
    assert model(**inputs, sampling_keys=keys)[0] == output.loss


def test_a_fixed_capacity_changes_no_loss_and_no_gradient():
    model = random_model()
    inputs = batch()
    inputs["labels"] = inputs["labels"].clone()
    with pytest.MonkeyPatch.context() as patch:
        # The two draw different numbers of random numbers: the best guess stands in for the sample.
        patch.setattr("span_electra.span_objectives.sample_tokens", lambda logits, *_: logits.argmax(-1))
        results = []
        for capacity in (None, 0.3):
            model.largest_masked_share = capacity
            model.zero_grad()
            output = model(**inputs)
            output.loss.backward()
            results.append((output, {n: p.grad.clone() for n, p in model.named_parameters()}))
    (exact, exact_grad), (padded, padded_grad) = results
    for name in ("mlm_loss", "sbgo_loss", "rtd_loss", "sbpo_loss"):
        assert torch.allclose(exact[name], padded[name], rtol=1e-6), name
    assert torch.equal(exact.corrupted_ids, padded.corrupted_ids)
    assert torch.equal(exact.generator_correct, padded.generator_correct)
    for name, gradient in exact_grad.items():
        assert torch.allclose(gradient, padded_grad[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sequences_that_share_a_row_have_the_losses_and_gradients_of_rows_of_their_own(monkeypatch, attention):
    monkeypatch.setattr("span_electra.span_objectives.sample_tokens", lambda logits, *_: logits.argmax(-1))
    model = random_model()
    model.set_attn_implementation(attention)
    alone = batch()
    lengths = alone["attention_mask"].sum(1).tolist()  # 20, 12, 20
    place = torch.arange(20)
    # The second and the third share a row; the first, shorter than that, is padded.
    shared = {}
    for name, padding in (("input_ids", 2), ("labels", -100), ("attention_mask", 0)):
        first, second, third = (row[:length] for row, length in zip(alone[name], lengths, strict=True))
        shared[name] = torch.stack([torch.cat([first, torch.full((12,), padding)]), torch.cat([second, third])])
    places = [torch.cat([place, torch.zeros(12, dtype=torch.long)]), torch.cat([place[:12], place])]
    shared["position_ids"] = torch.stack(places)
    results = []
    for inputs in (alone, shared):
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        results.append((output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (expected, expected_gradients), (output, gradients) = results
    for name in ("mlm_loss", "sbgo_loss", "rtd_loss", "sbpo_loss"):
        assert torch.allclose(output[name], expected[name], rtol=1e-5), name
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected_gradients[name], atol=1e-5), name
    del shared["position_ids"]
    assert not torch.allclose(model(**shared).rtd_loss, expected.rtd_loss, rtol=1e-4)


def test_places_that_go_up_by_one_change_nothing_beside_padding():
    model, inputs = random_model(), batch()
    expected = seeded(model, inputs)
    for places in (torch.arange(20).expand(3, -1), torch.arange(20)[None]):
        output = seeded(model, {**inputs, "position_ids": places})
        assert torch.allclose(output.loss, expected.loss, rtol=1e-6)


def test_an_attention_that_takes_no_mask_of_pairs_is_refused_for_shared_rows():
    model = random_model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(
        ValueError, match=r"is 'flash_attention_2', which cannot separate sequences .* use 'sdpa', 'eager' or"
    ):
        model(**batch(), position_ids=torch.arange(20).expand(3, -1))


def test_generator_correct_marks_the_masked_tokens_that_the_best_guess_hits(step):
    model, inputs, output = step
    best = model.generator(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.argmax(-1)
    assert torch.equal(output.generator_correct, best == inputs["labels"])


def test_a_batch_without_masked_tokens_has_finite_losses():
    inputs = batch(spans=())
    output = seeded(random_model(), inputs)
    assert output.mlm_loss == 0 and output.sbgo_loss == 0 and output.sbpo_loss == 0
    assert torch.isfinite(output.loss)


def test_the_untrained_generator_is_as_unsure_as_a_uniform_one():
    torch.manual_seed(0)
    model = SpanElectraForPreTraining(tiny_config(vocab_size=5000, embedding_size=128, hidden_size=128)).eval()
    output = seeded(model, batch())
    assert output.mlm_loss.item() == pytest.approx(math.log(5000), rel=0.02)
    assert output.sbgo_loss.item() == pytest.approx(math.log(5000), rel=0.02)
    assert output.rtd_loss.item() == pytest.approx(math.log(2), rel=0.1)


# What flows where


@pytest.mark.parametrize("sharing", ["disentangled", "separate"])
def test_nothing_flows_back_through_sampling(sharing):
    model = random_model(embedding_sharing=sharing)
    output = seeded(model, batch())
    (output.rtd_loss + output.sbpo_loss).backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert all(parameter.grad is None for parameter in model.sbgo_head.parameters())


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_new_embeddings_of_the_discriminator_are_used_whatever_they_share(sharing):
    model = random_model(embedding_sharing=sharing).eval()
    table = torch.nn.Embedding.from_pretrained(torch.randn_like(model.get_input_embeddings().weight), freeze=False)
    expected, ids = table.weight.detach().clone(), torch.tensor([[0, 7, 8, 9, 1]])
    before = model.generator(ids).logits
    model.set_input_embeddings(table)
    assert torch.allclose(model(ids).logits, model(inputs_embeds=F.embedding(ids, expected)).logits, atol=1e-5)
    assert torch.equal(model.generator(ids).logits, before) == (sharing != "tied")
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model(input_ids=ids, inputs_embeds=F.embedding(ids, expected))


def test_disentangled_embeddings_learn_the_residual_from_the_discriminator():
    model = random_model(embedding_sharing="disentangled")
    output = seeded(model, batch())
    output.rtd_loss.backward()
    assert model.generator.get_input_embeddings().weight.grad is None
    assert model.get_input_embeddings().residual.weight.grad.abs().sum() > 0
    model.zero_grad()
    seeded(model, batch()).mlm_loss.backward()
    assert model.get_input_embeddings().residual.weight.grad is None
    assert model.generator.get_input_embeddings().weight.grad.abs().sum() > 0


def test_every_parameter_learns():
    for sharing in ("tied", "disentangled", "separate"):
        model = random_model(embedding_sharing=sharing)
        seeded(model, batch()).loss.backward()
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert all(model.get_parameter(name).grad is not None for name in trained)
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_tied_networks_share_all_embeddings_and_nothing_else():
    model = random_model()
    names = [
        name for name, _ in model.named_parameters(remove_duplicate=False) if name.startswith("generator.electra.")
    ]
    shared = {
        name
        for name in names
        if name.removeprefix("generator.") in dict(model.named_parameters(remove_duplicate=False))
        and model.get_parameter(name) is model.get_parameter(name.removeprefix("generator."))
    }
    assert shared == {name for name in names if ".embeddings." in name}
    assert model.generator.generator_lm_head.weight is model.electra.embeddings.word_embeddings.weight


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_encoders_of_one_shape_are_one(sharing):
    model = random_model(generator_hidden_size=32, embedding_sharing=sharing)
    assert model.config.share_encoder
    for name, parameter in model.electra.encoder.named_parameters():
        assert model.generator.electra.encoder.get_parameter(name) is parameter
    assert model.generator.electra.embeddings_project.weight is model.electra.embeddings_project.weight
    table = model.generator.get_input_embeddings().weight
    assert (table is model.electra.get_input_embeddings().weight) == (sharing == "tied")


def test_resizing_the_vocabulary_keeps_both_networks_together():
    for sharing in ("tied", "disentangled", "separate"):
        model = random_model(embedding_sharing=sharing)
        model.resize_token_embeddings(120)
        assert model.config.vocab_size == 120
        output = seeded(model, batch())
        assert torch.isfinite(output.loss)
        assert model.generator.generator_lm_head.weight.shape == (120, 16)
        output.loss.backward()


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_resizing_the_vocabulary_changes_nothing_for_known_tokens(sharing):
    model, inputs = random_model(embedding_sharing=sharing), batch()
    del inputs["labels"]
    before = model(**inputs).logits
    model.resize_token_embeddings(120)
    assert torch.allclose(model(**inputs).logits, before, atol=1e-6)


@pytest.mark.parametrize("objective", ["joint", "generator"])
def test_resizing_the_vocabulary_thaws_nothing(objective):
    model = random_model(embedding_sharing="disentangled", objective=objective)
    before = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    model.resize_token_embeddings(120)
    assert before == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_the_temperature_reaches_the_sampler():
    model, inputs = random_model(sampling_temperature=1e-3), batch()
    output = model(**inputs, sampling_keys=torch.arange(3, dtype=torch.int32))
    scores = model.generator(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    masked = inputs["labels"] != -100
    assert torch.equal(output.corrupted_ids[masked], scores.argmax(-1)[masked])


def test_flash_attention_gets_its_padding_mask_where_shapes_are_static():
    model, mask = random_model(), batch()["attention_mask"]
    model.largest_masked_share = 0.3
    model.config._attn_implementation_internal = "flash_attention_2"
    assert model.attention_mask_of(mask, None)["discriminator"] is mask


def test_full_rows_need_no_mask_of_pairs(monkeypatch):
    model, inputs = random_model(), batch()
    inputs["attention_mask"].fill_(1)
    model.largest_masked_share = 0.3
    expected = seeded(model, inputs)
    model.rows_are_full = True
    monkeypatch.setattr(model, "mask_of_sequences", lambda mask, positions: mask)
    output = seeded(model, inputs)
    for name in ("loss", "mlm_loss", "sbgo_loss", "rtd_loss", "sbpo_loss"):
        torch.testing.assert_close(output[name], expected[name])
    inputs["attention_mask"][0, -1] = 0
    with pytest.raises(RuntimeError, match="`rows_are_full` is True"):
        model(**inputs)


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_padding_the_vocabulary_alone_resizes_both_networks(sharing, tmp_path):
    model = random_model(embedding_sharing=sharing)
    model.resize_token_embeddings(pad_to_multiple_of=64)
    assert model.config.vocab_size == model.generator.config.vocab_size == 128
    assert model.generator.generator_lm_head.bias.shape == (128,)
    inputs = batch()
    inputs["input_ids"][0, 1] = 110  # a token that was added
    seeded(model, inputs).loss.backward()
    model.save_pretrained(tmp_path)
    assert SpanElectraForPreTraining.from_pretrained(tmp_path).config.vocab_size == 128


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_output_embeddings_are_the_input_embeddings_or_none(sharing):
    model = random_model(embedding_sharing=sharing)
    output = model.get_output_embeddings()
    # Two tables that a caller takes for an input and its output are, for PEFT, a reason to set tie_word_embeddings.
    assert output is None if sharing != "tied" else output.weight is model.get_input_embeddings().weight


class Adapted(torch.nn.Module):
    """A layer with an adapter, as PEFT puts it in the layer's place."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, *args):
        return self.base_layer(*args)


ONE_SHAPE = {"generator_hidden_size": 32, "generator_intermediate_size": 37, "generator_num_attention_heads": 2}


@pytest.mark.parametrize(
    ("settings", "layer", "others"),
    [
        ({}, "electra.embeddings.word_embeddings", "generator_lm_head"),
        ({}, "generator.electra.embeddings.word_embeddings", "electra.embeddings.word_embeddings"),
        ({"embedding_sharing": "separate"}, "generator.generator_lm_head", "generator.electra.embeddings"),
        ({"embedding_sharing": "disentangled"}, "generator.generator_lm_head", "word_embeddings.shared"),
        (ONE_SHAPE, "electra.encoder.layer.0.attention.self.query", "generator.electra.encoder.layer.0"),
    ],
)
def test_an_adapter_on_a_weight_that_other_layers_use_is_refused(settings, layer, others):
    model, inputs = random_model(**settings), batch()
    parent, _, name = layer.rpartition(".")
    setattr(model.get_submodule(parent), name, Adapted(model.get_submodule(layer)))
    model.peft_config = {}  # PEFT sets it
    for labels in (inputs["labels"], None):
        with pytest.raises(ValueError, match=r"adapter.*target_modules") as refused:
            model(**inputs | {"labels": labels})
        assert layer in str(refused.value) and others in str(refused.value)


def test_adapters_on_weights_of_their_own_are_accepted():
    assert not hasattr(random_model(), "peft_config")  # so that models without adapters are not searched
    for settings, layer in (
        ({}, "encoder.layer.0.attention.self.query"),
        ({"embedding_sharing": "separate"}, "embeddings.word_embeddings"),
    ):
        model = random_model(**settings)
        expected = seeded(model, batch()).loss
        parent, _, name = layer.rpartition(".")
        parent = model.electra.get_submodule(parent)
        setattr(parent, name, Adapted(getattr(parent, name)))
        model.peft_config = {}
        assert torch.equal(seeded(model, batch()).loss, expected)


def test_tied_networks_are_given_embeddings_together():
    model = random_model()
    table = torch.nn.Embedding(99, 16)
    model.set_input_embeddings(table)
    assert model.generator.get_input_embeddings().weight is model.get_input_embeddings().weight is table.weight


def test_both_networks_draw_added_tokens_as_asked():
    model = random_model(embedding_sharing="separate", initializer_range=1e-4)
    model.resize_token_embeddings(400, mean_resizing=False)
    for table in (model.get_input_embeddings().weight, model.generator.get_input_embeddings().weight):
        assert table[99:].std() < 1e-3 < 0.05 < table[:99].std()


# Ways to run it


# Transformers 5.23 renames the method; 5.10 has only this name.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = random_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        seeded(model, batch()).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


def test_bf16_autocast_trains_with_float32_losses():
    model = random_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = seeded(model, batch())
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    exact = seeded(random_model(), batch())
    assert output.mlm_loss.item() == pytest.approx(exact.mlm_loss.item(), rel=0.1)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_ids_may_be_narrower_than_labels():
    model, inputs = random_model(), batch()
    narrow = inputs | {"input_ids": inputs["input_ids"].int()}
    assert seeded(model, narrow).loss == seeded(model, inputs).loss


@pytest.mark.parametrize("objective", ["joint", "generator"])
def test_hidden_states_are_the_discriminators(objective):
    model, inputs = random_model(objective=objective), batch()
    model.config.output_hidden_states = model.generator.config.output_hidden_states = True
    states = seeded(model, inputs).hidden_states
    if objective == "generator":  # the discriminator has seen nothing
        assert states is None
    else:
        assert [state.shape for state in states] == [(3, 20, 32)] * 3


def test_the_generators_output_is_what_the_configuration_says_unless_it_is_asked_otherwise():
    model, ids = SpanElectraForMaskedLM(tiny_config()), batch()["input_ids"]
    model.config.return_dict = False
    assert isinstance(model(ids), tuple) and isinstance(model(ids, return_dict=None), tuple)
    assert model(ids, return_dict=True).logits.shape == (3, 20, 99)


@pytest.mark.parametrize("model_class", [SpanElectraForSequenceClassification, SpanElectraForMaskedLM])
def test_gradient_accumulation_changes_no_gradient_of_the_stock_trainer(model_class, tmp_path):
    generator, logged = torch.Generator().manual_seed(0), []
    rows = [{"input_ids": torch.randint(5, 99, (12,), generator=generator)} for _ in range(8)]
    for i, row in enumerate(rows):
        row["labels"] = row["input_ids"] if model_class is SpanElectraForMaskedLM else i % 3
    for size, steps in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer = Trainer(model_class(tiny_config(num_labels=3, **dropout)), arguments, train_dataset=rows)
        trainer.train()
        logged.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)


def test_labels_need_ids():
    with pytest.raises(ValueError, match="`labels` need `input_ids`"):
        random_model()(inputs_embeds=torch.zeros(1, 4, 16), labels=torch.zeros(1, 4, dtype=torch.long))


# Starting from ELECTRA


def test_task_heads_are_stock_electra_with_our_configuration():
    model = SpanElectraForSequenceClassification(tiny_config(num_labels=3))
    assert isinstance(model.electra, ElectraModel)
    assert model(**{k: v for k, v in batch().items() if k != "labels"}).logits.shape == (3, 3)


class OperatorCounts(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.counts[operator.overloadpacket.__name__] += 1
        return operator(*arguments, **(keywords or {}))


@pytest.mark.parametrize("capacity", [None, 0.3])
def test_with_static_shapes_the_step_asks_the_device_for_nothing(capacity):
    model, inputs = random_model().train(), batch()
    model.largest_masked_share = capacity
    with OperatorCounts() as trace:
        model(**inputs).loss.backward()
    asked = trace.counts["_local_scalar_dense"] + trace.counts["nonzero"]
    assert (asked == 0) == (capacity is not None), trace.counts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated")  # torch's, of its own vmap
@pytest.mark.parametrize("shared", [False, True])
def test_the_whole_step_compiles_without_a_graph_break(shared):
    model = random_model().train()
    model.largest_masked_share = 0.3
    inputs = batch()
    if shared:  # by two sequences in each row
        inputs["position_ids"] = torch.arange(20).remainder(8).expand(3, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("span_electra.span_objectives.sample_tokens", lambda logits, *_: logits.argmax(-1))
        model.eval()
        expected = model(**inputs)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    assert torch.allclose(compiled.loss, expected.loss, rtol=1e-5)
    assert torch.equal(compiled.corrupted_ids, expected.corrupted_ids)


@pytest.mark.parametrize("sharing", ["tied", "separate"])
def test_a_generator_with_more_tokens_is_trained_as_before(sharing):
    model = SpanElectraForMaskedLM(tiny_config(embedding_sharing=sharing))
    model.resize_token_embeddings(103)
    inputs = {name: value for name, value in batch().items() if name in ("input_ids", "attention_mask", "labels")}
    assert model(**inputs).logits.shape[-1] == 103 and model(**inputs).loss.isfinite()


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
def test_a_reloaded_checkpoint_has_the_same_weights(tmp_path, sharing):
    model = random_model(embedding_sharing=sharing)
    model.save_pretrained(tmp_path)
    again = SpanElectraForPreTraining.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


# Disentangled embeddings


def trained_disentangled_model():
    """A model whose tables have moved since it was made, or saved."""
    model = random_model(embedding_sharing="disentangled")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_the_sum_is_right_at_every_moment():
    model, ids = trained_disentangled_model(), batch()["input_ids"]
    table, residual = model.generator.get_input_embeddings().weight, model.get_input_embeddings().residual.weight
    assert torch.equal(model.get_input_embeddings().weight, table + residual)
    assert torch.equal(model.state_dict()[WORD_EMBEDDINGS], table + residual)
    stock = ElectraModel(model.config.discriminator_config()).eval()
    weights = {name.removeprefix("electra."): weight for name, weight in model.state_dict().items()}
    stock.load_state_dict({name: weights[name] for name in stock.state_dict()})
    assert torch.equal(stock(ids).last_hidden_state, model.electra(ids).last_hidden_state)


def test_accelerate_saves_what_save_pretrained_saves(tmp_path):
    model = trained_disentangled_model()
    model.save_pretrained(tmp_path / "ours")
    Accelerator(cpu=True).save_model(model, tmp_path / "accelerate")
    ours, others = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "accelerate"))
    assert torch.equal(ours[WORD_EMBEDDINGS], others[WORD_EMBEDDINGS])
    residual = f"{DISENTANGLED}residual.weight"
    assert torch.equal(ours[residual], others[residual])


def test_a_state_dict_of_disentangled_embeddings_is_loaded_exactly():
    model, other = trained_disentangled_model(), random_model(embedding_sharing="disentangled")
    other.load_state_dict(model.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


@pytest.mark.parametrize("sharing", ["tied", "disentangled", "separate"])
@pytest.mark.parametrize("memory", ["60KB", "80KB"])
def test_a_model_that_is_offloaded_gives_the_same_logits(sharing, memory, tmp_path):
    model, ids = random_model(embedding_sharing=sharing), batch()["input_ids"]
    model.save_pretrained(tmp_path / "model")
    offloaded = AutoModelForPreTraining.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": memory}, offload_folder=tmp_path / "offloaded"
    )
    assert "disk" in offloaded.hf_device_map.values()
    assert torch.allclose(offloaded(ids).logits, model(ids).logits, atol=1e-5)


# Static shapes


def test_more_masked_tokens_than_there_is_room_for_are_an_error():
    model, inputs = random_model(), batch()
    model.largest_masked_share = 0.05  # of 60 tokens, 8 of which are masked
    with pytest.raises(RuntimeError, match="more masked tokens than `largest_masked_share` allows"):
        model(**inputs)
