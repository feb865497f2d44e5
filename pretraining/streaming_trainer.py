"""The Trainer for rows on disk, and for a stream whose position is saved with every checkpoint."""

from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from span_electra.common.attributes import replaced_attribute
from span_electra.common.errors import InputError
from span_electra.pretraining.mixture import MixedStream, Mixture
from span_electra.pretraining.stream import POSITION, TextStream
from span_electra.training.checkpointing_trainer import CheckpointingTrainer
from span_electra.training.shutdown import ignore_stop_signals


class StreamingTrainer(CheckpointingTrainer):
    """A `CheckpointingTrainer` that also trains on a `TextStream`, whose position is saved with every checkpoint."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(EpochOfStream())

    def train(self, *args, **kwargs):
        if not isinstance(self.train_dataset, TextStream):
            return super().train(*args, **kwargs)
        # A resumed Trainer would skip the rows that the run has seen; the stream itself resumes at its position.
        with replaced_attribute(self.args, "ignore_data_skip", True):
            return super().train(*args, **kwargs)

    def get_train_dataloader(self):
        stream, args = self.train_dataset, self.args
        if isinstance(stream, Mixture):  # has an order of its own, and an `epoch` in its rows that no model takes
            sequential = replaced_attribute(args, "train_sampling_strategy", "sequential")
            with sequential, replaced_attribute(args, "remove_unused_columns", False):
                return super().get_train_dataloader()
        if not isinstance(stream, TextStream):
            return super().get_train_dataloader()
        stream.round = []  # new readers start after the last complete round
        # Not prepared by Accelerate, which would read everything in one process: here each process reads its share.
        return DataLoader(
            stream,
            batch_size=None,
            collate_fn=partial(collate_with_position, self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=ignore_stop_signals,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator(),  # otherwise its iterator would draw one of training's random numbers
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        stream = self.train_dataset
        if not isinstance(stream, TextStream):
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        try:
            while stream.seen_of_round:
                stream.passed(next(epoch_iterator)[POSITION])
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        except InputError as error:  # an error from a worker has its traceback in the text
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from error
        for batch in batches:
            stream.passed(batch.pop(POSITION))
        return batches, count

    def readings(self) -> dict[str, float]:
        """How often each corpus of a mixture has been read, by its name in the log."""
        if not isinstance(self.train_dataset, Mixture | MixedStream):
            return {}
        readings = self.train_dataset.readings(self.state.epoch or 0)
        return {f"epochs_of_{name}": count for name, count in readings.items()}

    def save_process_state(self, folder: Path) -> None:
        super().save_process_state(folder)
        if isinstance(self.train_dataset, TextStream):
            self.train_dataset.save(folder)

    def load_process_state(self, checkpoint: Path) -> None:
        super().load_process_state(checkpoint)
        if isinstance(self.train_dataset, TextStream):
            self.train_dataset.load(checkpoint)


class EpochOfStream(TrainerCallback):
    """Counts a stream's steps from the start of the run; the Trainer would count from the resumption."""

    def on_step_end(self, args, state, control, train_dataloader=None, **kwargs):
        if isinstance(train_dataloader.dataset, TextStream):
            state.epoch = state.global_step / state.max_steps


def collate_with_position(collator, item: tuple[list[dict], dict]) -> dict:
    rows, position = item
    return {**collator(rows), POSITION: position}
