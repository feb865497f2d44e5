"""The masked tokens of a batch: where they are, what bounds their spans and how that represents them, and what a
generator puts in their place.

Letters for axes: B batch, T tokens, H hidden, V vocabulary, N masked tokens in the batch.

This file travels with every checkpoint, beside the model's.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_span_electra import SpanElectraConfig

GOLDEN_RATIO = 0x9E3779B9 - 2**32  # of 2**32, as int32: its multiples lie far apart


@dataclass
class MaskedTokens:
    """The masked tokens of a batch, whose rows lie end to end: where each is, what stood there, and where its span's
    edges are."""

    positions: torch.Tensor  # (N,), into the flattened batch, as are the next two
    left: torch.Tensor
    right: torch.Tensor
    offset: torch.Tensor  # (N,), distance from the left boundary
    original: torch.Tensor  # (N,)
    is_masked: torch.Tensor  # (N,), False for what only fills the capacity

    @classmethod
    def of(cls, labels: torch.Tensor, largest_share: float | None = None) -> "MaskedTokens":
        """Read them off `labels` (batch, tokens). With `largest_share`, of tokens that may be masked, there are always
        as many, for static shapes."""
        masked = labels != -100
        tokens = labels.shape[1]
        capacity = None if largest_share is None else min(labels.numel(), math.ceil(largest_share * labels.numel()))
        positions, is_masked = masked_positions(masked, capacity)
        left, right = (boundary.flatten()[positions] for boundary in span_boundaries(masked))
        column = positions % tokens
        row = positions - column
        original = labels.flatten()[positions].where(is_masked, 0)
        return cls(positions, row + left, row + right, column - left, original, is_masked)

    def at_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, H) of the masked tokens themselves, (N, H)."""
        return hidden.flatten(0, 1)[self.positions]

    def at_boundaries(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (B, T, H) of their left and right boundaries, (N, H) each."""
        return hidden.flatten(0, 1)[self.left], hidden.flatten(0, 1)[self.right]

    def write(self, values: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
        """A copy of `into` (B, T) that holds `values` (N,) at the masked tokens."""
        kept = into.flatten()[self.positions]
        return replace_tokens(into, self.positions, torch.where(self.is_masked, values, kept))

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of the original tokens under `logits` (N, V), in nats."""
        losses = F.cross_entropy(logits.float(), self.original, reduction="none")
        return masked_mean(losses, self.is_masked)


class SpanBoundaryHead(nn.Module):
    """Represents a token by the two tokens at the edges of its span and its place in it (SpanBERT, section 3.2).

    Two layers of (linear, GELU, layer norm) on [left boundary; right boundary; position embedding].
    """

    def __init__(self, config: SpanElectraConfig, hidden_size: int, output_size: int):
        super().__init__()
        self.position_embeddings = nn.Embedding(config.max_span_length, config.boundary_position_size)
        input_size = 2 * hidden_size + config.boundary_position_size
        self.dense_in = nn.Linear(input_size, hidden_size)
        self.norm_in = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dense_out = nn.Linear(hidden_size, output_size)
        self.norm_out = nn.LayerNorm(output_size, eps=config.layer_norm_eps)

    def forward(self, left: torch.Tensor, right: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """
        Args:
            left, right: hidden states of the boundaries, (N, hidden).
            offset: distance from the left boundary, from 1 up, (N,). Past the last position embedding it is the last.

        Returns:
            Representations of the tokens, (N, output_size).
        """
        place = (offset - 1).clamp(0, self.position_embeddings.num_embeddings - 1)
        hidden = torch.cat([left, right, self.position_embeddings(place)], dim=-1)  # (N, 2H + P)
        hidden = self.norm_in(F.gelu(self.dense_in(hidden)))
        return self.norm_out(F.gelu(self.dense_out(hidden)))


def span_boundaries(masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the nearest unmasked tokens on both sides of every token.

    Spans are told apart by nothing but the mask, so one cumulative maximum and one minimum find every boundary of the
    batch. A span that reaches the edge of its row has one boundary, which then stands for both. Padding counts as a
    token here, so a padded row must not end in a span; `DataCollatorForSpanMasking` leaves none there.

    Args:
        masked: which tokens are masked, bool, (batch, tokens).

    Returns:
        The left and the right boundary of each token as indices within its row, (batch, tokens) each. For an unmasked
        token both are the token itself.
    """
    tokens = masked.shape[1]
    index = torch.arange(tokens, device=masked.device).expand_as(masked)
    left = index.masked_fill(masked, -1).cummax(dim=1).values  # (B, T)
    right = index.masked_fill(masked, tokens).flip(1).cummin(dim=1).values.flip(1)  # (B, T)
    has_left, has_right = left >= 0, right < tokens
    left, right = torch.where(has_left, left, right), torch.where(has_right, right, left)
    return left.clamp(0, tokens - 1), right.clamp(0, tokens - 1)  # a row of masked tokens alone has no boundary


def masked_positions(masked: torch.Tensor, capacity: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the masked tokens are, in a batch laid out as one line.

    Args:
        masked: which tokens are masked, bool, (batch, tokens).
        capacity: the number of positions to return. None returns as many as there are, which makes a GPU wait for its
            host; with a number the shapes never change, and neither waits nor compiles again. It must not be smaller
            than the number of masked tokens.

    Returns:
        Indices into `masked.flatten()`, (N,), and whether each of them is a masked token, bool, (N,): False for what
        only fills the capacity.
    """
    flat = masked.flatten()
    if capacity is None:
        positions = flat.nonzero().squeeze(-1)
        return positions, torch.ones_like(positions, dtype=torch.bool)
    # A stable descending sort of booleans: masked tokens first, in their order.
    positions = flat.to(torch.uint8).argsort(descending=True, stable=True)[:capacity]
    return positions, flat[positions]


def sequence_numbers(position_ids: torch.Tensor) -> torch.Tensor:
    """Which of the sequences that share its row each token is in, from 0 up: one ends where `position_ids` (batch,
    tokens) does not go up by one."""
    return (torch.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1).cumsum(dim=1)


def mix32_(bits: torch.Tensor) -> torch.Tensor:
    """A bijection on int32 that passes for random (Wellons' lowbias32), written over its argument."""
    bits ^= bits >> 16 & 0xFFFF  # a shift of signed numbers draws the sign along: the masks take it off
    bits *= 0x7FEB352D
    bits ^= bits >> 15 & 0x1FFFF
    bits *= 0x846CA68B - 2**32
    bits ^= bits >> 16 & 0xFFFF
    return bits


def token_keys(row_keys: torch.Tensor, positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """A key for each token, int32, (N,): from its row's, int32, (batch,), and its place in a row of `tokens`."""
    return mix32_(row_keys[positions // tokens] + (positions % tokens).int() * GOLDEN_RATIO)


def sample_tokens(logits: torch.Tensor, keys: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Draw one token from each row's softmax (ELECTRA, section 2), with the Gumbel-max trick in float32.

    Args:
        logits: scores over the vocabulary, (N, vocabulary).
        keys: what the randomness follows from, int32, (N,): the same key draws the same token, in whatever company.
        temperature: divides the logits; above 0.

    Returns:
        Token ids, (N,). No gradient flows back through them.
    """
    scores = logits.detach().float()
    if temperature != 1.0:
        scores = scores / temperature
    column = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    return (scores + gumbel_noise_(mix32_(keys[:, None] + column * GOLDEN_RATIO))).argmax(dim=-1)  # over (N, V)


def gumbel_noise_(bits: torch.Tensor) -> torch.Tensor:
    """Gumbel variates -log(-log u), float32, from random int32 `bits`, which are written over."""
    # 24 bits and a half would round up to a u of 1, and so to a noise that wins over any score: 23 are exact.
    uniform = bits.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def replace_tokens(input_ids: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """`input_ids` (batch, tokens) with `tokens` (N,) at the flat `positions` (N,); the input is left as it is."""
    return input_ids.flatten().scatter(0, positions, tokens.to(input_ids.dtype)).view_as(input_ids)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` where `mask` (bool, same shape) is True, in float32; 0 where nothing is."""
    return torch.where(mask, values.float(), 0.0).sum() / mask.sum().clamp(min=1)
