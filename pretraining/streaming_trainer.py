"""The Trainer, for rows on disk and for a stream whose position goes into the checkpoint."""

from functools import partial

from torch.utils.data import DataLoader
from transformers import Trainer

from span_electra.common.errors import InputError
from span_electra.pretraining.stream import POSITION, TextStream
from span_electra.training.shutdown import ignore_stops


class StreamingTrainer(Trainer):
    """The Trainer, for rows on disk and for a `TextStream`, whose position goes into the checkpoint."""

    def get_train_dataloader(self):
        stream, args = self.train_dataset, self.args
        if not isinstance(stream, TextStream):
            return super().get_train_dataloader()
        stream.round = []  # the readers to come start where a round was whole
        # Not prepared by Accelerate, which would read everything in one process: every process reads its own share.
        return DataLoader(
            stream,
            batch_size=None,
            collate_fn=partial(collate_with_position, self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=ignore_stops,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        stream = self.train_dataset
        if not isinstance(stream, TextStream):
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        try:
            while stream.seen_of_round:
                stream.passed(next(epoch_iterator)[POSITION])
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        except InputError as error:  # a worker's comes with its traceback in the text
            raise InputError(str(error).strip().rpartition("InputError: ")[2]) from error
        for batch in batches:
            stream.passed(batch.pop(POSITION))
        return batches, count

    def _load_optimizer_and_scheduler(self, checkpoint):  # which comes before the first batch is asked for
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and isinstance(self.train_dataset, TextStream):
            self.train_dataset.load(checkpoint)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if isinstance(self.train_dataset, TextStream):
            self.train_dataset.save(output_dir)


def collate_with_position(collator, item: tuple[list[dict], dict]) -> dict:
    rows, position = item
    return {**collator(rows), POSITION: position}
