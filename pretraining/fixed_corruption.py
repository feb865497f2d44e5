"""A score that compares steps and models: how well the discriminator finds a corruption that never changes.

The discriminator's own task gets harder as its generator improves. So its scores say little about progress, and
nothing about which of two runs is better. Here the corruption does not depend on a generator.
"""

import torch

from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.span_objectives import sequence_numbers


def trade_places(
    input_ids: torch.Tensor, labels: torch.Tensor, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """The original text with the masked tokens of each sequence shifted by one among their positions.

    Every token is from the right text and only its position is wrong, so only context gives it away. The corruption is
    the same whatever the generator has learnt.

    Args:
        input_ids: a text whose spans are masked, (rows, tokens).
        labels: original ids where tokens are masked, -100 elsewhere; same shape.
        position_ids: by which sequences that share a row are told apart; same shape. Without, each row is one.

    Returns:
        Token ids, same shape. The first masked token of a sequence has the id of the second, the last that of the
        first.
    """
    masked = labels != -100
    rows, columns = masked.nonzero(as_tuple=True)  # row by row
    sequences = rows * labels.shape[1]
    if position_ids is not None:
        sequences = sequences + sequence_numbers(position_ids)[rows, columns]
    following = torch.arange(1, len(rows) + 1, device=rows.device)
    ends_sequence = following == torch.searchsorted(sequences, sequences, right=True)
    following = torch.where(ends_sequence, torch.searchsorted(sequences, sequences), following)
    moved = torch.where(masked, labels, input_ids)
    moved[rows, columns] = labels[rows, columns][following]
    return moved


class EvaluationCollator:
    """
    The batches of evaluation: masked as the run asks, and beside, by `fixed_labels`, as in every other run.

    Args:
        collator: Masks as in training.
        fixed: Masks that do not depend on the run's settings; from the same tokenizer, padded alike.
    """

    def __init__(self, collator: DataCollatorForSpanMasking, fixed: DataCollatorForSpanMasking):
        self.collator, self.fixed = collator, fixed

    def set_epoch(self, epoch: int) -> None:
        """As [`DataCollatorForSpanMasking.set_epoch`]."""
        self.collator.set_epoch(epoch)
        self.fixed.set_epoch(epoch)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """A batch as of `collator`, and `fixed_labels`: the original id where `fixed` masks, else -100."""
        return {**self.collator(features), "fixed_labels": self.fixed(features)["labels"]}
