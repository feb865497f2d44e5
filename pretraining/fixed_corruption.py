"""Score how well the discriminator finds a corruption that never changes, to compare steps and models.

The discriminator's own task gets harder as its generator improves, so its scores say little about progress, and
nothing about which of two runs is better. Here the corruption does not depend on a generator.
"""

import torch

from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.span_objectives import sequence_numbers


def trade_places(
    input_ids: torch.Tensor, labels: torch.Tensor, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Restore the original text, with the masked tokens of each sequence shifted by one among their positions.

    Every token is from the right text and only its position is wrong, so only context reveals it.

    Args:
        input_ids: A text whose spans are masked, shape (rows, tokens).
        labels: Original ids where tokens are masked, -100 elsewhere. Same shape.
        position_ids: They separate the sequences that share a row. Same shape. None if each row is one sequence.

    Returns:
        Token ids of the same shape. A sequence's first masked token has the id of the second, and its last the id of
        the first.
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
    Makes batches for evaluation: masked as the run asks, with `fixed_labels` that are masked as in every other run.

    Args:
        collator: Masks as in training.
        fixed: Masks independently of the run's settings. It has the same tokenizer and padding.
    """

    def __init__(self, collator: DataCollatorForSpanMasking, fixed: DataCollatorForSpanMasking):
        self.collator, self.fixed = collator, fixed

    def set_epoch(self, epoch: int) -> None:
        """Set both collators' epoch, as in [`DataCollatorForSpanMasking.set_epoch`]."""
        self.collator.set_epoch(epoch)
        self.fixed.set_epoch(epoch)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """Return `collator`'s batch with `fixed_labels`, the original id where `fixed` masks and -100 elsewhere."""
        return {**self.collator(features), "fixed_labels": self.fixed(features)["labels"]}
