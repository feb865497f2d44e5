"""A callback that gives every epoch masks of its own."""

from transformers import TrainerCallback


class SetEpoch(TrainerCallback):
    """
    Tells a collator which epoch begins, so that every epoch has masks of its own.

    `SpanElectraTrainer` adds it by itself. Add it to any other Trainer that uses a `DataCollatorForSpanMasking`. The
    masks are then the same with and without data workers, whether these persist or not, and after a resumption.

    Args:
        collator: The Trainer's `data_collator`, or anything else with a `set_epoch`.

    Example:

    ```python
    collator = DataCollatorForSpanMasking(tokenizer)
    trainer = Trainer(model, args, data_collator=collator, train_dataset=rows, callbacks=[SetEpoch(collator)])
    ```
    """

    def __init__(self, collator):
        self.collator = collator
        self.next_epoch = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.next_epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Counted here: `state.epoch` is a fraction of `max_steps` where nobody knows how many rows an epoch has.
        self.collator.set_epoch(self.next_epoch)
        self.next_epoch += 1
