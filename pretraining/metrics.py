"""The metrics that show whether both networks learn, counted on the device batch by batch.

Axes: B rows, T tokens of a batch.
"""

import torch

LOSSES = ("mlm_loss", "sbgo_loss", "rtd_loss", "sbpo_loss")

# Two logits in one bin count as a tie in the AUC. An edge of the bins lies at 0, so precision and recall are exact.
BINS, LARGEST_LOGIT = 2**15, 16.0

# The tokens that a histogram counts: all real ones, the masked ones, or all real ones after the fixed corruption.
ALL, SPAN, FIXED = range(3)
ORIGINAL, REPLACED = 0, 1


class PretrainingMetrics:
    """
    Accumulates the metrics of pretraining over batches, without waiting for the device.

    Each loss is a mean over its own tokens. The AUC comes from a histogram of the logits, in which ties count half;
    every other figure is an exact count. Each attribute is a tensor of sums: those of several processes can be added,
    and a checkpoint can hold them.

    Args:
        vocab_size: The size of the model's vocabulary.
        device: The device of the batches.
    """

    def __init__(self, vocab_size: int, device: torch.device | str = "cpu"):
        self.loss_sums = torch.zeros(len(LOSSES), device=device)
        self.loss_counts = torch.zeros(len(LOSSES), dtype=torch.int64, device=device)
        # The discriminator's logits: (which tokens, truth, bin of the logit).
        self.logits = torch.zeros(3, 2, BINS, dtype=torch.int64, device=device)
        self.originals = torch.zeros(vocab_size, dtype=torch.int64, device=device)  # how often each is masked
        self.generator_correct = torch.zeros((), dtype=torch.int64, device=device)

    def reset(self) -> None:
        for state in vars(self).values():
            state.zero_()

    @torch.no_grad()
    def update(self, outputs, labels: torch.Tensor, attention_mask: torch.Tensor) -> None:
        """Add one batch.

        Args:
            outputs: A `SpanPreTrainingOutput`.
            labels: Original ids where tokens are masked, -100 elsewhere, (rows, tokens).
            attention_mask: 1 for real tokens, 0 for padding, (rows, tokens).
        """
        counts = token_counts(labels, attention_mask)
        for i, name in enumerate(LOSSES):
            if getattr(outputs, name) is not None:
                self.loss_sums[i] += getattr(outputs, name).detach() * counts[name]
                self.loss_counts[i] += counts[name]

        masked = (labels != -100).long().flatten()  # (B * T)
        self.originals.scatter_add_(0, labels.clamp(min=0).flatten(), masked)
        self.generator_correct += (outputs.generator_correct.flatten() & masked.bool()).sum()
        if outputs.logits is None:  # the generator is trained alone
            return
        self.add_logits(ALL, outputs.logits, outputs.is_replaced, attention_mask)
        self.add_logits(SPAN, outputs.logits, outputs.is_replaced, labels != -100)

    @torch.no_grad()
    def add_logits(self, histogram: int, logits: torch.Tensor, is_replaced: torch.Tensor, mask: torch.Tensor) -> None:
        """Add the discriminator's `logits` to a histogram wherever `mask` is 1; all are (rows, tokens)."""
        # Boolean indexing would have to wait for the device, to know the number of its results.
        bins = logit_bins(logits).flatten() + BINS * is_replaced.long().flatten()
        self.logits[histogram].view(-1).scatter_add_(0, bins, mask.long().flatten())

    def compute(self, reduce=None) -> dict[str, float]:
        """Return the metrics of all batches since `reset`: the four losses, ratios between 0 and 1, AUCs, and the
        generator's perplexity. They come from the device in one transfer.

        Args:
            reduce: Sums a tensor over all processes, as `accelerator.reduce` does.
        """
        states = vars(self)
        if reduce is not None:
            states = {name: reduce(state.clone()) for name, state in states.items()}
        values = dict(zip(LOSSES, states["loss_sums"] / states["loss_counts"], strict=True))
        tokens = dict(zip(LOSSES, states["loss_counts"], strict=True))  # how many each value is a mean over

        def add(count: torch.Tensor, prefix: str = "", **metrics: torch.Tensor) -> None:
            values.update({prefix + name: metric for name, metric in metrics.items()})
            tokens.update({prefix + name: count for name in metrics})

        add(tokens["mlm_loss"], generator_perplexity=values["mlm_loss"].exp())
        masked, correct = states["originals"].sum(), states["generator_correct"]
        baseline = states["originals"].max() / masked  # of always guessing the most frequent token
        add(masked, "generator_", accuracy=correct / masked, accuracy_baseline=baseline)
        for prefix, histogram in (("", states["logits"][ALL]), ("span_", states["logits"][SPAN])):
            judged = histogram.sum()
            add(judged, prefix, replaced_share=histogram[REPLACED].sum() / judged)
            add(judged, f"{prefix}discriminator_", **classification_scores(histogram))
        fixed = states["logits"][FIXED]
        add(fixed.sum(), fixed_discriminator_auc=classification_scores(fixed)["auc"])
        numbers = torch.stack([value.float() for value in (*values.values(), *tokens.values())]).view(2, -1).tolist()
        return {name: value for name, value, count in zip(values, *numbers, strict=True) if count}


def token_counts(labels: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """How many tokens of a batch each loss is a mean over. Arguments are as in `PretrainingMetrics.update`."""
    masked, real = (labels != -100).sum(), attention_mask.sum()
    return {name: real if name == "rtd_loss" else masked for name in LOSSES}


def logit_bins(logits: torch.Tensor) -> torch.Tensor:
    """The bin of every logit, all of one width. Logits beyond the ends go to the outermost, 0 to the lower half."""
    scaled = logits.float() * (BINS / 2 / LARGEST_LOGIT)
    # NaN goes to any bin: the loss is not finite either, so the run stops.
    return (scaled.nan_to_num().ceil() + (BINS // 2 - 1)).clamp(0, BINS - 1).long()


def classification_scores(histogram: torch.Tensor) -> dict[str, torch.Tensor]:
    """Scores of a binary classifier that answers "replaced" where its logit is above 0.

    Args:
        histogram: Counts of logits, shape (2 for original and replaced, bins).

    Returns:
        Scalar tensors. A score over no tokens is NaN, except that precision is 0 if no token is called replaced.
    """
    predicted = histogram.unflatten(-1, (2, BINS // 2)).sum(-1)  # (truth, prediction)
    true_positives = predicted[REPLACED, REPLACED]
    originals, replaced = histogram.sum(-1)
    total = originals + replaced
    called_replaced = predicted[:, REPLACED].sum()
    # Of all pairs of an original and a replaced token, the ratio in which the replaced one has the larger logit.
    originals_below = histogram[ORIGINAL].cumsum(0) - histogram[ORIGINAL] / 2
    return {
        "precision": true_positives / called_replaced.clamp(min=1),
        "recall": true_positives / replaced,
        "f1": 2 * true_positives / (called_replaced + replaced),
        "accuracy": (predicted[ORIGINAL, ORIGINAL] + true_positives) / total,
        "accuracy_baseline": torch.maximum(originals, replaced) / total,  # of always giving the more frequent answer
        "auc": (originals_below / originals * (histogram[REPLACED] / replaced)).sum(),
    }
