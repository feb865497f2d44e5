"""The device-side metrics against scikit-learn, and what they say where there is nothing to count."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from span_electra.pretraining.metrics import BINS, LARGEST_LOGIT, PretrainingMetrics, logit_bins

VOCABULARY = 50


def random_batch(generator, rows=8, tokens=64, spread=1.0, shift=0.0):
    """Outputs, labels and attention mask with a discriminator that knows a little."""
    attention_mask = (torch.arange(tokens) < torch.randint(20, tokens + 1, (rows, 1), generator=generator)).long()
    masked = (torch.rand(rows, tokens, generator=generator) < 0.2) & attention_mask.bool()
    labels = torch.where(masked, torch.randint(0, VOCABULARY, (rows, tokens), generator=generator) ** 2 // 50, -100)
    is_replaced = masked & (torch.rand(rows, tokens, generator=generator) < 0.8)
    noise = torch.randn(rows, tokens, generator=generator)
    outputs = SimpleNamespace(
        mlm_loss=torch.rand((), generator=generator),
        sbgo_loss=None,
        rtd_loss=torch.rand((), generator=generator),
        sbpo_loss=torch.rand((), generator=generator),
        logits=(noise + is_replaced) * spread + shift,
        is_replaced=is_replaced,
        generator_correct=torch.rand(rows, tokens, generator=generator) < 0.3,
    )
    return outputs, labels, attention_mask


def accumulated(batches):
    metrics = PretrainingMetrics(VOCABULARY)
    for outputs, labels, attention_mask in batches:
        metrics.update(outputs, labels, attention_mask)
    return metrics


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [random_batch(generator) for _ in range(5)]


def counted(batches, of_span):
    """Truth and logit of the tokens that count, from all batches."""
    chosen = [(labels != -100) if of_span else mask.bool() for _, labels, mask in batches]
    truth = torch.cat([outputs.is_replaced[c] for (outputs, *_), c in zip(batches, chosen, strict=True)])
    logits = torch.cat([outputs.logits[c] for (outputs, *_), c in zip(batches, chosen, strict=True)])
    return truth.numpy(), logits.numpy()


@pytest.mark.parametrize("prefix, of_span", [("discriminator", False), ("span_discriminator", True)])
def test_discriminator_scores_equal_scikit_learn(batches, prefix, of_span):
    values = accumulated(batches).compute()
    truth, logits = counted(batches, of_span)
    expected = {
        "precision": precision_score(truth, logits > 0),
        "recall": recall_score(truth, logits > 0),
        "f1": f1_score(truth, logits > 0),
        "accuracy": accuracy_score(truth, logits > 0),
        "accuracy_baseline": max(truth.mean(), 1 - truth.mean()),
    }
    assert {name: values[f"{prefix}_{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert values[f"{prefix}_auc"] == pytest.approx(roc_auc_score(truth, logits), abs=1e-3)


@pytest.mark.parametrize("spread, shift", [(0.01, -2.2), (0.05, -2.2), (1.0, 0.0), (5.0, -3.0), (1.0, -15.0)])
def test_auc_is_exact_to_a_thousandth_wherever_the_logits_lie(spread, shift):
    generator = torch.Generator().manual_seed(1)
    batches = [random_batch(generator, rows=64, tokens=128, spread=spread, shift=shift)]
    truth, logits = counted(batches, of_span=False)
    auc = accumulated(batches).compute()["discriminator_auc"]
    assert auc == pytest.approx(roc_auc_score(truth, logits), abs=1e-3)


def test_equal_logits_count_half_in_the_auc(batches):
    for outputs, *_ in batches:
        outputs.logits = torch.full_like(outputs.logits, -2.0)
    assert accumulated(batches).compute()["discriminator_auc"] == pytest.approx(0.5, abs=1e-6)


def test_generator_accuracy_stands_beside_always_guessing_the_most_frequent_original(batches):
    values = accumulated(batches).compute()
    originals = np.concatenate([labels[labels != -100].numpy() for _, labels, _ in batches])
    correct = np.concatenate([outputs.generator_correct[labels != -100].numpy() for outputs, labels, _ in batches])
    assert values["generator_accuracy"] == pytest.approx(correct.mean(), abs=1e-6)
    assert values["generator_accuracy_baseline"] == pytest.approx(
        np.bincount(originals).max() / originals.size, abs=1e-6
    )


def test_replaced_shares_are_of_real_and_of_masked_tokens(batches):
    values = accumulated(batches).compute()
    assert values["replaced_share"] == pytest.approx(counted(batches, of_span=False)[0].mean(), abs=1e-6)
    assert values["span_replaced_share"] == pytest.approx(counted(batches, of_span=True)[0].mean(), abs=1e-6)


def test_losses_are_means_over_tokens_and_those_that_are_off_are_left_out(batches):
    values = accumulated(batches).compute()
    for name, counts in (
        ("mlm_loss", [(labels != -100).sum() for _, labels, _ in batches]),
        ("rtd_loss", [mask.sum() for *_, mask in batches]),
    ):
        expected = np.average([getattr(outputs, name) for outputs, *_ in batches], weights=counts)
        assert values[name] == pytest.approx(expected, rel=1e-5)
    assert "sbgo_loss" not in values and "sbpo_loss" in values


def test_a_loss_that_is_not_a_number_is_reported_as_such(batches):
    batches[0][0].mlm_loss = torch.tensor(float("nan"))
    batches[0][0].logits[:] = float("nan")
    assert np.isnan(accumulated(batches).compute()["mlm_loss"])


def test_reset_forgets_everything(batches):
    metrics = accumulated(batches)
    metrics.reset()
    metrics.update(*batches[0])
    assert metrics.compute() == accumulated(batches[:1]).compute()


def test_reduction_over_processes_equals_one_process_that_saw_all(batches):
    parts = [accumulated(batches[:2]), accumulated(batches[2:])]
    names = list(vars(parts[0]))
    total = iter([vars(parts[0])[name] + vars(parts[1])[name] for name in names])
    reduced = parts[0].compute(reduce=lambda state: next(total))
    assert reduced == pytest.approx(accumulated(batches).compute(), rel=1e-6)


def test_an_undecided_logit_is_not_called_replaced():
    bins = logit_bins(torch.tensor([-1e9, -1e-6, 0.0, 1e-6, LARGEST_LOGIT, 1e9, float("inf")]))
    half = BINS // 2
    assert bins.tolist() == [0, half - 1, half - 1, half, BINS - 1, BINS - 1, BINS - 1]
