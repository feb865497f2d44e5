"""The span objectives: what a pair of encoders of any architecture learns together.

Letters for axes: B batch, T tokens, E embedding, H hidden, V vocabulary, N masked tokens in the batch.

A generator and a discriminator are trained on four losses. Masked language modelling (MLM) and replaced token
detection (RTD) are ELECTRA's (Clark et al., 2020). The span boundary objectives, SBGO for the generator and SBPO for
the discriminator, ask the same questions of the two tokens around a span (Joshi et al., 2020, SpanBERT). Nothing here
knows an architecture: `SpanObjectives` lists what it asks of a model.

This file travels with every checkpoint.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .configuration_span_electra import SpanObjectivesConfig

IGNORED = -100  # the label of a token that is not masked
GOLDEN_RATIO = 0x9E3779B9 - 2**32  # of 2**32, as int32: its multiples lie far apart
CAPACITY_EXCEEDED = "There are more masked tokens than `largest_masked_share` allows: raise it, or set it to None."
PADDING_FOUND = "`rows_are_full` is True, but a batch has padding: set it to False."


@dataclass
class SpanPreTrainingOutput(ModelOutput):
    """
    What a pretraining step returns. Without `labels` only `logits` is set, and the hidden states and attentions if you
    asked for them. If the generator is trained alone, what the discriminator would give is None.

    Args:
        loss: the weighted sum of the losses below, a scalar.
        mlm_loss, sbgo_loss: mean cross-entropy over the masked tokens, in nats.
        rtd_loss: mean binary cross-entropy over all real tokens, in nats.
        sbpo_loss: the same over the masked tokens, predicted from the boundaries of their span.
        logits: the discriminator's score that a token was replaced, (batch, tokens).
        corrupted_ids: the discriminator's input, (batch, tokens).
        is_replaced: whether it differs from the original text, bool, (batch, tokens).
        generator_correct: masked tokens that the generator's best guess gets right, bool, (batch, tokens).
        hidden_states, attentions: the discriminator's, one of each layer.
    """

    loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    sbgo_loss: torch.Tensor | None = None
    rtd_loss: torch.Tensor | None = None
    sbpo_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    corrupted_ids: torch.Tensor | None = None
    is_replaced: torch.Tensor | None = None
    generator_correct: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class SpanObjectives(nn.Module):
    """
    The joint training step, for a [`PreTrainedModel`] that has a `generator` and a discriminator.

    The input is a masked-LM batch (`DataCollatorForSpanMasking` makes it): spans are told apart by `labels` alone.
    Without `labels` the model is the discriminator, which scores how likely each token of the input was replaced.

    A model provides `encode_masked`, `score_at_positions`, `score_from_boundaries`, `encode_corrupted` and
    `score_replaced`, calls `add_boundary_heads` when it is built and `freeze_untrained` afterwards.

    Attributes:
        largest_masked_share: the largest ratio of a batch's tokens that may be masked. With it all shapes are static,
            which a GPU wants; None counts the masked tokens of every batch.
        rows_are_full: no batch with labels has padding, so attention takes no mask and may use its fastest kernels.
        new_parameters: the names of the parameters that start at random although the others were loaded, which the
            Trainer therefore trains at another rate. None if all start alike.
    """

    config: SpanObjectivesConfig
    generator: nn.Module
    largest_masked_share: float | None = None
    rows_are_full: bool = False
    new_parameters: set[str] | None = None

    # What a model provides.

    def encode_masked(self, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
        """The generator's last hidden states, (B, T, H)."""
        raise NotImplementedError

    def score_at_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        """The generator's scores of the vocabulary, (N, V), from hidden states at masked positions, (N, H)."""
        raise NotImplementedError

    def score_from_boundaries(self, represented: torch.Tensor) -> torch.Tensor:
        """The same from what the boundary head made of a span's boundaries, (N, E)."""
        raise NotImplementedError

    def encode_corrupted(self, input_ids: torch.Tensor | None, **inputs) -> BaseModelOutput:
        """What the discriminator's encoder returns."""
        raise NotImplementedError

    def score_replaced(self, hidden: torch.Tensor) -> torch.Tensor:
        """The discriminator's score that each token was replaced, (B, T), from its last hidden states, (B, T, H)."""
        raise NotImplementedError

    def attention_mask_of(self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> dict:
        """The attention mask of each network by name: `generator` and `discriminator`."""
        raise NotImplementedError

    # The step.

    def add_boundary_heads(
        self, generator_size: int, embedding_size: int, discriminator_size: int, layer_norm_eps: float
    ) -> None:
        """Add the heads of SBGO and SBPO, if the configuration has them. The sizes are H, E and H."""
        if self.config.use_sbgo:
            self.sbgo_head = SpanBoundaryHead(self.config, generator_size, embedding_size, layer_norm_eps)
        if self.config.use_sbpo:
            self.sbpo_head = SpanBoundaryHead(self.config, discriminator_size, discriminator_size, layer_norm_eps)
            self.sbpo_prediction = nn.Linear(discriminator_size, 1)

    def freeze_untrained(self) -> None:
        """Ask for no gradient of what the objective leaves as it is."""
        generators = {
            id(parameter)
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if name.startswith(("generator.", "sbgo_head."))
        }
        for parameter in self.parameters():
            half = "generator" if id(parameter) in generators else "discriminator"
            if self.config.objective not in ("joint", half):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True):
        """As [`torch.nn.Module.train`]. A generator that is not trained keeps its dropout off."""
        super().train(mode)
        if self.config.objective == "discriminator":
            self.generator.eval()
        return self

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sampling_keys: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[torch.Tensor, ...] | SpanPreTrainingOutput:
        """
        Args:
            input_ids: with `labels`, a text whose spans are masked; without, any text, (batch, tokens).
            attention_mask: 1 for real tokens, 0 for padding, (batch, tokens); by default all are real.
            token_type_ids: segment ids, (batch, tokens), if the architecture has them.
            position_ids: the position of each token in its sequence, (batch, tokens). Wherever it does not go up by
                one another sequence begins: several may share a row, and they do not see each other.
            inputs_embeds: instead of `input_ids`, only without `labels`, (batch, tokens, embedding).
            labels: original ids where tokens are masked, -100 elsewhere, (batch, tokens).
            sampling_keys: seeds of the generator's samples in each row, int32, (batch,), which make a row's samples
                the same in any batch and on any process; by default drawn from torch's random numbers.

        Raises:
            ValueError: `labels` without `input_ids`, or `position_ids` with an attention that cannot separate
                sequences.
        """
        if labels is not None and input_ids is None:
            raise ValueError("`labels` need `input_ids`: the joint step replaces tokens by their ids.")
        if return_dict is None:
            return_dict = self.config.return_dict  # type: ignore[attr-defined]
        if position_ids is not None:
            position_ids = position_ids.expand(len(inputs_embeds if input_ids is None else input_ids), -1)
        attends_to_all = self.rows_are_full and labels is not None
        if attends_to_all and attention_mask is not None:
            torch._assert_async(attention_mask.all(), PADDING_FOUND)
        masks = self.attention_mask_of(None if attends_to_all else attention_mask, position_ids)
        inputs = {"token_type_ids": token_type_ids, "position_ids": position_ids, "return_dict": True}
        wanted = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        wanted = {name: value for name, value in wanted.items() if value is not None}  # of the discriminator
        judge_inputs = inputs | wanted | {"attention_mask": masks["discriminator"]}
        if labels is None:
            encoded = self.encode_corrupted(input_ids, inputs_embeds=inputs_embeds, **judge_inputs)
            results = {"logits": self.score_replaced(encoded.last_hidden_state)}
        else:
            masked = MaskedTokens.of(labels, self.largest_masked_share)
            inputs["attention_mask"] = masks["generator"]
            results, proposals = self.generator_step(input_ids, masked, **inputs)
            encoded = BaseModelOutput()
            if self.config.objective != "generator":
                sampled = self.sample(proposals, masked, sampling_keys, labels.shape)
                corrupted_ids = masked.write(sampled, into=input_ids)
                encoded = self.encode_corrupted(corrupted_ids, **judge_inputs)
                results |= self.discriminator_step(encoded, corrupted_ids, labels, masked, attention_mask)
            results["loss"] = self.weighted_sum(results)
        output = SpanPreTrainingOutput(
            **results, hidden_states=encoded.get("hidden_states"), attentions=encoded.get("attentions")
        )
        return output if return_dict else output.to_tuple()

    def generator_step(
        self, input_ids: torch.Tensor, masked: "MaskedTokens", **inputs
    ) -> tuple[dict[str, torch.Tensor | None], torch.Tensor]:
        """The generator's part of the output by name, and the scores to sample replacements from, (N, V)."""
        hidden = self.encode_masked(input_ids, **inputs)
        mlm_logits, sbgo_logits = self.score_vocabulary(hidden, masked)
        correct = mlm_logits.argmax(dim=-1) == masked.original
        results = {
            "mlm_loss": masked.cross_entropy(mlm_logits),
            "sbgo_loss": None if sbgo_logits is None else masked.cross_entropy(sbgo_logits),
            "generator_correct": masked.write(correct, into=torch.zeros_like(input_ids, dtype=torch.bool)),
        }
        return results, mlm_logits

    def score_vocabulary(
        self, hidden: torch.Tensor, masked: "MaskedTokens"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The generator's scores (N, V) of the masked tokens, from their own position and from the boundaries of their
        span (None if SBGO is off or not trained)."""
        mlm_logits = self.score_at_positions(masked.at_positions(hidden))
        if not self.trains_sbgo:
            return mlm_logits, None
        return mlm_logits, self.score_from_boundaries(self.sbgo_head(*masked.at_boundaries(hidden), masked.offset))

    @property
    def trains_sbgo(self) -> bool:
        return "sbgo" in self.config.loss_weights

    def sample(
        self, proposals: torch.Tensor, masked: "MaskedTokens", row_keys: torch.Tensor | None, shape: torch.Size
    ) -> torch.Tensor:
        """Draw a replacement for each masked token, (N,), from its scores of the vocabulary, (N, V). `row_keys` are
        the batch's `sampling_keys`, `shape` is (B, T)."""
        rows, tokens = shape
        if row_keys is None:
            row_keys = torch.randint(2**31, (rows,), dtype=torch.int32, device=proposals.device)
        keys = token_keys(row_keys, masked.positions, tokens)
        return sample_tokens(proposals, keys, self.config.sampling_temperature)

    def discriminator_step(
        self,
        encoded: BaseModelOutput,
        corrupted_ids: torch.Tensor,
        labels: torch.Tensor,
        masked: "MaskedTokens",
        is_real: torch.Tensor | None,
    ) -> dict[str, torch.Tensor | None]:
        """The discriminator's part of the output by name. `is_real` is the batch's attention mask, (B, T)."""
        is_replaced = (labels != IGNORED) & (corrupted_ids != labels)
        logits = self.score_replaced(encoded.last_hidden_state)
        return {
            "rtd_loss": self.rtd_loss(logits, is_replaced, is_real),
            "sbpo_loss": self.sbpo_loss(encoded.last_hidden_state, is_replaced, masked),
            "logits": logits,
            "corrupted_ids": corrupted_ids,
            "is_replaced": is_replaced,
        }

    def rtd_loss(
        self, logits: torch.Tensor, is_replaced: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Replaced token detection over all real tokens (ELECTRA, section 2)."""
        losses = F.binary_cross_entropy_with_logits(logits.float(), is_replaced.float(), reduction="none")  # (B, T)
        return losses.mean() if attention_mask is None else masked_mean(losses, attention_mask.bool())

    def sbpo_loss(
        self, hidden: torch.Tensor, is_replaced: torch.Tensor, masked: "MaskedTokens"
    ) -> torch.Tensor | None:
        """Replaced token detection for the masked tokens, from the two tokens around their span."""
        if not self.config.use_sbpo:
            return None
        represented = self.sbpo_head(*masked.at_boundaries(hidden), masked.offset)  # (N, H)
        logits = self.sbpo_prediction(represented).squeeze(-1).float()
        targets = is_replaced.flatten()[masked.positions].float()
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return masked_mean(losses, masked.is_masked)

    def weighted_sum(self, losses: Mapping):
        """The loss to minimise: the weighted sum of those of `losses` that the objective trains."""
        return sum(weight * losses[f"{name}_loss"] for name, weight in self.config.loss_weights.items())


@dataclass
class MaskedTokens:
    """The masked tokens of a batch whose rows lie end to end: where each is, which token stood there, and where the
    boundaries of its span are."""

    positions: torch.Tensor  # (N,), into the flattened batch, as are the next two
    left: torch.Tensor
    right: torch.Tensor
    offset: torch.Tensor  # (N,), distance from the left boundary
    original: torch.Tensor  # (N,)
    is_masked: torch.Tensor  # (N,), False for positions that only fill the capacity

    @classmethod
    def of(cls, labels: torch.Tensor, largest_share: float | None = None) -> "MaskedTokens":
        """Read them off `labels` (batch, tokens). With `largest_share`, the largest ratio of tokens that may be
        masked, there are always as many, for static shapes."""
        masked = labels != IGNORED
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
    """Represents a token by the two tokens at the boundaries of its span and by its offset (SpanBERT, section 3.2).

    Two layers of (linear, GELU, layer norm) on [left boundary; right boundary; position embedding].
    """

    def __init__(self, config: SpanObjectivesConfig, hidden_size: int, output_size: int, layer_norm_eps: float):
        super().__init__()
        self.position_embeddings = nn.Embedding(config.max_span_length, config.boundary_position_size)
        input_size = 2 * hidden_size + config.boundary_position_size
        self.dense_in = nn.Linear(input_size, hidden_size)
        self.norm_in = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dense_out = nn.Linear(hidden_size, output_size)
        self.norm_out = nn.LayerNorm(output_size, eps=layer_norm_eps)

    def forward(self, left: torch.Tensor, right: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """
        Args:
            left, right: hidden states of the boundaries, (N, hidden).
            offset: distance from the left boundary, from 1 up, (N,). Offsets past the last position embedding use it.

        Returns:
            Representations of the tokens, (N, output_size).
        """
        position = (offset - 1).clamp(0, self.position_embeddings.num_embeddings - 1)
        hidden = torch.cat([left, right, self.position_embeddings(position)], dim=-1)  # (N, 2H + P)
        hidden = self.norm_in(F.gelu(self.dense_in(hidden)))
        return self.norm_out(F.gelu(self.dense_out(hidden)))


class ResidualEmbedding(nn.Embedding):
    """An embedding that begins at zero; a class of its own, so that a model's initialisation can tell."""


class DisentangledEmbedding(nn.Module):
    """
    The discriminator's word embeddings as the generator's, without a gradient, plus a residual (He et al., 2021,
    DeBERTaV3, section 3.2).

    `weight` is the sum, at every moment: read as an attribute, called, and as the entry `weight` of the state dict, by
    which any other class loads one plain table.

    Attributes:
        shared: the generator's table, to which the model ties it.
        residual: what the discriminator adds.
        loaded_sum: the sum that a checkpoint holds, while one is loaded.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None):
        super().__init__()
        self.shared = nn.Embedding(num_embeddings, embedding_dim, padding_idx=padding_idx)
        self.residual = ResidualEmbedding(num_embeddings, embedding_dim, padding_idx=padding_idx)
        nn.init.zeros_(self.residual.weight)
        self.loaded_sum: torch.Tensor | None = None
        self.register_state_dict_post_hook(add_sum)
        self.register_load_state_dict_pre_hook(take_sum)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of `input_ids` (batch, tokens), (batch, tokens, embedding)."""
        return self.shared(input_ids).detach() + self.residual(input_ids)

    @property
    def weight(self) -> torch.Tensor:
        return sum_of(self.shared.weight, self.residual.weight)

    @property
    def num_embeddings(self) -> int:
        return self.residual.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.residual.embedding_dim

    @property
    def padding_idx(self) -> int | None:
        return self.residual.padding_idx

    @padding_idx.setter
    def padding_idx(self, value: int | None) -> None:
        self.shared.padding_idx = self.residual.padding_idx = value

    def __setattr__(self, name, value):
        if name == "weight":  # by a library that loads a checkpoint, which mostly holds the residual as well
            name = "loaded_sum"
            value = value.detach()
        super().__setattr__(name, value)

    @torch.no_grad()
    def set_weight(self, weight: torch.Tensor) -> None:
        """Set the sum: the residual becomes the difference between `weight` and the shared table."""
        self.residual.weight.copy_(weight.to(self.shared.weight) - self.shared.weight)

    @torch.no_grad()
    def resize(self, num_embeddings: int) -> None:
        """Keep the residuals of the first `num_embeddings` tokens; those of new ones are zero."""
        resized = ResidualEmbedding(num_embeddings, self.embedding_dim, padding_idx=self.padding_idx)
        resized.to(self.residual.weight)
        nn.init.zeros_(resized.weight)
        kept = min(num_embeddings, self.num_embeddings)
        resized.weight[:kept] = self.residual.weight[:kept]
        resized.weight.requires_grad_(self.residual.weight.requires_grad)
        self.residual = resized


def sum_of(shared: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """The discriminator's table; without data where one of the two has none."""
    if shared.is_meta or residual.is_meta:
        return torch.empty_like(residual, device="meta")
    return shared.detach() + residual


def add_sum(embedding: DisentangledEmbedding, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    state_dict[f"{prefix}weight"] = embedding.weight.detach()


def take_sum(embedding: DisentangledEmbedding, state_dict: dict, prefix: str, *args) -> None:
    """Read a plain table as the sum, and leave a sum out whose parts are there."""
    total = state_dict.pop(f"{prefix}weight", None)
    shared = state_dict.setdefault(f"{prefix}shared.weight", embedding.shared.weight.detach())
    if total is not None and f"{prefix}residual.weight" not in state_dict:
        state_dict[f"{prefix}residual.weight"] = total - shared


def span_boundaries(masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the nearest unmasked tokens on both sides of every token.

    Nothing but the mask describes a span, so one cumulative maximum and one minimum find every boundary of the batch.
    A span at the end of its row has only one boundary, which stands for both. Padding counts as a token here, so a
    padded row must not end in a span; `DataCollatorForSpanMasking` leaves none there.

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
    """Where the masked tokens are in a batch whose rows lie end to end.

    Args:
        masked: which tokens are masked, bool, (batch, tokens).
        capacity: the number of positions to return. None returns as many as there are, for which the host waits for a
            GPU; with a number the shapes never change, so the host does not wait and nothing is compiled again.

    Returns:
        Indices into `masked.flatten()`, (N,), and whether each is a masked token, bool, (N,): False for those that
        only fill the capacity.

    Raises:
        RuntimeError: (asynchronously on a GPU) the capacity is smaller than the number of masked tokens.
    """
    flat = masked.flatten()
    if capacity is None:
        positions = flat.nonzero().squeeze(-1)
        return positions, torch.ones_like(positions, dtype=torch.bool)
    torch._assert_async(flat.sum() <= capacity, CAPACITY_EXCEEDED)
    # A stable descending sort of booleans puts the masked tokens first, in their order.
    positions = flat.to(torch.uint8).argsort(descending=True, stable=True)[:capacity]
    return positions, flat[positions]


def sequence_numbers(position_ids: torch.Tensor) -> torch.Tensor:
    """The number of the sequence in its row that each token belongs to, from 0 up. A new one begins wherever
    `position_ids` (batch, tokens) does not go up by one."""
    return (torch.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1).cumsum(dim=1)


def mix32_(bits: torch.Tensor) -> torch.Tensor:
    """A bijection on int32 that looks random (Wellons' lowbias32), computed in place."""
    bits ^= bits >> 16 & 0xFFFF  # shifting a signed number extends its sign; the mask removes that
    bits *= 0x7FEB352D
    bits ^= bits >> 15 & 0x1FFFF
    bits *= 0x846CA68B - 2**32
    bits ^= bits >> 16 & 0xFFFF
    return bits


def token_keys(row_keys: torch.Tensor, positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """A key for each masked token, int32, (N,), from the key of its row, int32, (batch,), and its index in a row of
    `tokens`."""
    return mix32_(row_keys[positions // tokens] + (positions % tokens).int() * GOLDEN_RATIO)


def sample_tokens(logits: torch.Tensor, keys: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Draw one token from each row's softmax (ELECTRA, section 2), with the Gumbel-max trick in float32.

    Args:
        logits: scores over the vocabulary, (N, vocabulary).
        keys: seeds of the randomness, int32, (N,). A key always draws the same token, whatever else is in the batch.
        temperature: divides the logits; above 0.

    Returns:
        Token ids, (N,), without a gradient.
    """
    # Inverting the cumulative distribution is faster, but there a rounding error shifts every token's boundary, and
    # runs that are divided otherwise soon draw other tokens. Here, an error only decides a tie of the best two.
    scores = logits.detach().float()
    if temperature != 1.0:
        scores = scores / temperature
    column = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    return (scores + gumbel_noise_(mix32_(keys[:, None] + column * GOLDEN_RATIO))).argmax(dim=-1)  # over (N, V)


def gumbel_noise_(bits: torch.Tensor) -> torch.Tensor:
    """Gumbel variates -log(-log u), float32, from random int32 `bits`, which are overwritten."""
    # With 24 bits and a half, u could round up to 1, whose noise beats any score; with 23 bits u is exact.
    uniform = bits.bitwise_right_shift_(9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def replace_tokens(input_ids: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A copy of `input_ids` (batch, tokens) with `tokens` (N,) at the flat `positions` (N,)."""
    return input_ids.flatten().scatter(0, positions, tokens.to(input_ids.dtype)).view_as(input_ids)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` where `mask` (bool, same shape) is True, in float32; 0 where nothing is."""
    return torch.where(mask, values.float(), 0.0).sum() / mask.sum().clamp(min=1)
