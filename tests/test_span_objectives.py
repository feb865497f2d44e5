"""The masked tokens of a batch: boundaries, capacity, samples and their replacement."""

import math

import torch

from span_electra.span_objectives import (
    gumbel_noise_,
    masked_positions,
    replace_tokens,
    sample_tokens,
    span_boundaries,
    token_keys,
)


def test_boundaries_are_the_nearest_visible_tokens():
    masked = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    left, right = span_boundaries(masked)
    assert left.tolist() == [[0, 0, 0, 3, 3, 5], [0, 1, 1, 1, 1, 5], [0, 1, 2, 3, 4, 5]]
    assert right.tolist() == [[0, 3, 3, 3, 5, 5], [0, 1, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5]]


def test_a_span_at_the_edge_of_its_row_has_its_one_boundary_twice():
    left, right = span_boundaries(torch.tensor([[1, 1, 0, 0, 1]], dtype=torch.bool))
    assert left.tolist() == [[2, 2, 2, 3, 3]]
    assert right.tolist() == [[2, 2, 2, 3, 3]]


def test_a_capacity_fixes_the_number_of_positions_and_marks_the_filling():
    masked = torch.tensor([[0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    positions, is_masked = masked_positions(masked)
    assert positions.tolist() == [1, 3, 5] and is_masked.all()
    positions, is_masked = masked_positions(masked, capacity=5)
    assert positions[:3].tolist() == [1, 3, 5]
    assert is_masked.tolist() == [True, True, True, False, False]
    assert len(set(positions.tolist())) == 5


def keys_of_rows(rows: int, tokens: int) -> torch.Tensor:
    return token_keys(torch.arange(rows, dtype=torch.int32), torch.arange(rows * tokens), tokens)


def test_samples_follow_the_softmax():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(40_000, 4) + 3.0
    counts = torch.bincount(sample_tokens(logits, keys_of_rows(400, 100)), minlength=4)
    expected = 40_000 * torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001
    cold = torch.bincount(sample_tokens(logits, keys_of_rows(400, 100), temperature=0.01), minlength=4)
    assert cold[0] == 40_000


def test_samples_of_a_large_vocabulary_are_even_and_neighbours_know_nothing_of_each_other():
    samples = sample_tokens(torch.zeros(40_000, 1000), keys_of_rows(400, 100))
    for values, cells in ((samples, 1000), (samples[1:] // 50 * 20 + samples[:-1] // 50, 400)):
        counts = torch.bincount(values, minlength=cells)
        expected = len(values) / cells
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - cells) < 3.3 * math.sqrt(2 * cells)  # p = 0.001


def test_the_noise_is_finite_for_the_first_and_the_last_of_all_random_bits():
    noise = gumbel_noise_(torch.tensor([0, -1, 2**31 - 1, -(2**31)], dtype=torch.int32))
    assert noise.isfinite().all()  # an infinite one would win over any score
    assert noise.argmin() == 0 and noise.argmax() == 1


def test_a_sample_follows_from_its_key_alone():
    logits, keys = torch.randn(300, 99), keys_of_rows(3, 100)
    samples = sample_tokens(logits, keys)
    few = torch.tensor([299, 7, 150])
    assert torch.equal(sample_tokens(logits[few], keys[few]), samples[few])
    assert (sample_tokens(logits, keys.roll(1)) != samples).float().mean() > 0.9


def test_samples_of_half_precision_logits_are_drawn_in_float32():
    logits = torch.randn(64, 999).bfloat16()
    assert torch.equal(sample_tokens(logits, keys_of_rows(8, 8)), sample_tokens(logits.float(), keys_of_rows(8, 8)))


def test_replacing_leaves_the_input_as_it_is():
    ids = torch.tensor([[1, 2], [3, 4]])
    assert replace_tokens(ids, torch.tensor([1, 2]), torch.tensor([8, 9])).tolist() == [[1, 8], [9, 4]]
    assert ids.tolist() == [[1, 2], [3, 4]]
