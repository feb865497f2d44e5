"""Text that is read during training: rows are cut, shuffled and batched on the fly, and none is kept on disk.

A stream has no end. Every data worker of every process is a reader with its own share of the shards. It goes through
them again and again, each time in another order and with new masks. A checkpoint holds the position of each reader, so
that a resumed run reads what the uninterrupted one would have read.
"""

import gc
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from span_electra.common.errors import InputError
from span_electra.common.private_datasets import iterable_of
from span_electra.tokenization.packing import Packer
from span_electra.tokenization.text import Corpus, Source

# The rows of this many blocks are shuffled together: 8 million characters, or about 16,000 rows of 128 tokens. A
# resumed reader cuts them again, which takes seconds.
BLOCKS_IN_BUFFER = 8
POSITION = "stream_position"  # the entry of a batch that holds its reader's position after it


class TextStream(IterableDataset):
    """
    Endless batches of the rows that `create_features` would cut, each with its reader's position after it.

    Args:
        corpus: The text. Its sources are the shards.
        packer: Cuts text into rows.
        batch_size: The number of rows in a batch of one process.
        seed: Determines the order of shards and rows; 0 or more.
        workers: The number of data workers of each process; 0 for none.
        process_index: The number of this process.
        num_processes: The number of processes that share the stream.

    Raises:
        InputError: There are fewer shards than readers.
    """

    def __init__(
        self,
        corpus: Corpus,
        packer: Packer,
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        self.corpus, self.packer = corpus, packer
        self.batch_size, self.seed = batch_size, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.shards = list(enumerate(corpus.sources))
        readers = max(1, workers)
        check_shards(len(self.shards), num_processes, readers, str(corpus.paths[0]))
        # The readers of a process take turns, a batch each. These are their positions after the last complete round.
        self.positions: list[dict | None] = [None] * readers
        self.round: list[dict] = []  # the positions in the round that has begun since
        self._dataset: datasets.IterableDataset | None = None  # what is being read
        self.seen_of_round = 0  # how many batches of that round a resumed run still has to skip

    # --- reading --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[list[dict], dict]]:
        worker = get_worker_info()
        if worker is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers already run in parallel
            gc.freeze()  # garbage collection in a forked worker would copy all memory that it shares with its parent
        rows = self.rows_from(self.positions[0 if worker is None else worker.id])
        while True:
            batch = list(islice(rows, self.batch_size))
            yield batch, self.position()

    def rows_from(self, position: dict | None) -> Iterator[dict]:
        """All rows from a position on; None is the beginning."""
        self._begin, self._dataset = position, None
        return self._rows(position)

    def position(self) -> dict | None:
        """The position after the last row that was yielded."""
        if self._dataset is None:
            return self._begin
        return {"epoch": self._epoch, "rows": self._dataset.state_dict()}

    def _rows(self, position: dict | None) -> Iterator[dict]:
        epoch, state = (0, None) if position is None else (position["epoch"], position["rows"])
        while True:
            rows = self.rows_of_epoch(epoch)
            self._epoch, self._dataset = epoch, rows
            if state is not None:
                rows.load_state_dict(state)
            is_empty = state is None
            for row in rows:
                is_empty = False
                yield row
            if is_empty:
                raise InputError(
                    f"{self.corpus.paths[0]}: a reader of the stream finds no text in any of its shards. Give files "
                    "that hold text, or fewer data workers (--dataloader_num_workers)."
                )
            epoch, state = epoch + 1, None

    def rows_of_epoch(self, epoch: int) -> datasets.IterableDataset:
        """This process's rows of one epoch, with `input_ids` and `epoch`. The library divides them among workers."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        shards = [self.shards[index] for index in order]
        blocks = iterable_of(read_blocks, shards=shards, corpus=self.corpus)
        # If shards do not divide evenly, `split_dataset_by_node` deals out rows, and each process tokenizes them all.
        blocks = blocks.shard(self.num_processes, self.process_index, contiguous=False)
        return blocks.map(
            RowShuffler(self.packer, self.seed, epoch),
            batched=True,
            batch_size=BLOCKS_IN_BUFFER,
            remove_columns=["shard", "number", "text", "document_lines"],
        )

    # --- resuming -------------------------------------------------------------------------------------------------

    def passed(self, position: dict) -> None:
        """Note that training has taken a batch, after which its reader is at `position`."""
        self.round.append(position)
        self.seen_of_round = max(0, self.seen_of_round - 1)
        if len(self.round) == len(self.positions):
            self.positions, self.round = self.round, []

    def save(self, checkpoint: str | Path) -> None:
        """Write this process's positions to a checkpoint's folder."""
        state = {**self._made_from(), "batches_since": len(self.round), "positions": self.positions}
        self._state_file(checkpoint).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def load(self, checkpoint: str | Path) -> None:
        """Resume from where `save` was called.

        Raises:
            InputError: The checkpoint belongs to a run without a stream, or to another stream.
        """
        try:
            state = json.loads(self._state_file(checkpoint).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: holds no position of a stream (no whole "
                f"{self._state_file(checkpoint).name}). If its run began without --streaming, leave that out."
            ) from error
        for name, value in self._made_from().items():
            if state.get(name, value) != value:  # older checkpoints say less
                raise InputError(
                    f"--resume_from_checkpoint {checkpoint}: its stream has {name} {state.get(name)}, this run's has "
                    f"{value}; resume with the options that the run began with, or start a new run."
                )
        self.positions, self.round, self.seen_of_round = state["positions"], [], state["batches_since"]

    def _made_from(self) -> dict[str, Any]:
        """What must stay the same, so that a position means the same rows."""
        names = "\n".join(source_name(source) for _, source in self.shards)
        return {
            "processes": self.num_processes,
            "readers in each process": len(self.positions),
            "per_device_train_batch_size": self.batch_size,
            "seed": self.seed,
            "documents": self.corpus.documents,
            "documents that share a row": self.packer.pack_documents,
            "text column": self.corpus.text_column,
            "row length": self.packer.max_seq_length,
            "tokenizer": text_digest(self.packer.backend.to_str()),
            "shards": f"{len(self.shards)} ({text_digest(names)})",
        }

    def _state_file(self, checkpoint: str | Path) -> Path:
        return Path(checkpoint) / state_name(self.process_index)


def check_shards(shards: int, processes: int, readers: int, path: str) -> None:
    """Refuse more readers than shards."""
    if shards >= processes * readers:
        return
    advice = f"--dataloader_num_workers {shards // processes}" if shards >= processes else f"{shards} processes"
    raise InputError(
        f"--streaming, {path}: {shards} shards (files, or parts of a `datasets` name) are too few for {processes} "
        f"processes x {readers} data workers, because each of these needs a shard of its own. Split the text into at "
        f"least {processes * readers} files, or use {advice}."
    )


def check_stream(checkpoint: str | Path, rows: datasets.Dataset | TextStream) -> None:
    """Refuse to resume from a checkpoint whose run read something else."""
    if isinstance(rows, TextStream):
        rows.load(checkpoint)
    elif (Path(checkpoint) / state_name(0)).exists():
        raise InputError(f"--resume_from_checkpoint {checkpoint}: its run read a stream, so add --streaming.")


def state_name(process_index: int) -> str:
    return f"stream-{process_index}.json"


def source_name(source: Source) -> str:
    """A name that does not depend on the folder, and changes if the file grows."""
    if isinstance(source, Path):
        return f"{source.name} {source.stat().st_size}"
    return f"{source.info.dataset_name} {source.split}"


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_blocks(shards: Sequence[tuple[int, Source]], corpus: Corpus) -> Iterator[tuple[str, dict]]:
    """The blocks of text in `shards`. Each has a key, its shard's number and its own number in the shard."""
    for shard, source in shards:
        for number, block in enumerate(corpus.source_blocks(source)):
            row = {"shard": shard, "number": number, "text": block.text, "document_lines": block.document_lines}
            yield f"{shard}-{number}", row


@dataclass
class RowShuffler:
    """Turns blocks of text into their rows, in an order that follows from the seed, the epoch and the first block.

    The library's own shuffle buffer would be lost at a resumption; the position in a mapped dataset is restored.
    """

    packer: Packer
    seed: int
    epoch: int

    def __call__(self, blocks: dict[str, list]) -> dict[str, list]:
        rows = []
        for text, document_lines, number in zip(
            blocks["text"], blocks["document_lines"], blocks["number"], strict=True
        ):
            packed = self.packer.pack(text, document_lines, number)
            if len(packed):  # blank text has no rows
                rows.extend(np.split(packed.values.to_numpy(), packed.offsets.to_numpy()[1:-1]))
        address = [self.seed, self.epoch, blocks["shard"][0], blocks["number"][0]]
        order = np.random.default_rng(address).permutation(len(rows))
        return {"input_ids": [rows[index] for index in order], "epoch": [self.epoch] * len(rows)}
