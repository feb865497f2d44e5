"""Text that is read while training goes on: rows are cut, shuffled and batched on the way, none is kept on disk.

A stream has no end. It is read by as many readers as there are data workers in all processes; each goes through its
share of the shards again and again, every time in another order and with masks of its own. Where every reader stands
goes into the checkpoint, so that a resumed run reads what the uninterrupted one would have read.
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
from datasets.iterable_dataset import ExamplesIterable
from torch.utils.data import IterableDataset, get_worker_info

from span_electra.common.errors import InputError
from span_electra.tokenization.packing import Packer
from span_electra.tokenization.text import Corpus, Source

# Rows are shuffled among those of so many blocks: 8 million characters, about 16,000 rows of 128 tokens. A resumed
# reader cuts them anew, which takes seconds.
BLOCKS_IN_BUFFER = 8
POSITION = "stream_position"  # the batch's entry that says where its reader stood behind it


class TextStream(IterableDataset):
    """
    Endless batches of the rows that `create_features` would cut, each with the position of its reader behind it.

    Args:
        corpus: The text; its sources are the shards.
        packer: What cuts text into rows.
        batch_size: Rows in a batch of one process.
        seed: What the order of shards and rows follows from, 0 or more.
        workers: Data workers of each process, 0 for none.
        process_index: This process's number.
        num_processes: How many processes share the stream.

    Raises:
        InputError: if there are fewer shards than readers.
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
        check_shards(len(self.shards), num_processes, readers)
        # The readers of a process take turns, a batch each. What is kept is where all stood when a round was whole.
        self.positions: list[dict | None] = [None] * readers
        self.round: list[dict] = []  # the positions in the round since
        self.seen_of_round = 0  # batches of that round that a resumed run has still to pass over

    # --- reading --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[list[dict], dict]]:
        worker = get_worker_info()
        if worker is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # workers are parallel enough
            gc.freeze()  # to collect what a forked worker has from its process would copy all of it
        position = self.positions[0 if worker is None else worker.id]
        epoch, state = (0, None) if position is None else (position["epoch"], position["rows"])
        rows = self._rows(epoch, state)
        while True:
            batch = list(islice(rows, self.batch_size))
            yield batch, {"epoch": self._epoch, "rows": self._dataset.state_dict()}

    def _rows(self, epoch: int, state: dict | None) -> Iterator[dict]:
        """All rows from a position on; the state of the last one's dataset is that of `_dataset`."""
        while True:
            self._epoch, self._dataset = epoch, self.rows_of_epoch(epoch)
            if state is not None:
                self._dataset.load_state_dict(state)
            is_empty = state is None
            for row in self._dataset:
                is_empty = False
                yield row
            if is_empty:
                raise InputError(
                    f"{self.corpus.paths[0]}: one of the stream's readers finds no text in any of its shards. Give "
                    "files that hold text, or fewer data workers (--dataloader_num_workers)."
                )
            epoch, state = epoch + 1, None

    def rows_of_epoch(self, epoch: int) -> datasets.IterableDataset:
        """This process's rows, each with `input_ids` and `epoch`, once. The library divides them among workers."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        shards = [self.shards[index] for index in order]
        # Not `from_generator`, which leaves a lock file in the user's cache for every order of the shards.
        blocks = datasets.IterableDataset(ExamplesIterable(read_blocks, {"shards": shards, "corpus": self.corpus}))
        # Not `split_dataset_by_node`, which deals out rows, all tokenized by all, where shards do not divide evenly.
        blocks = blocks.shard(self.num_processes, self.process_index, contiguous=False)
        return blocks.map(
            RowShuffler(self.packer, self.seed, epoch),
            batched=True,
            batch_size=BLOCKS_IN_BUFFER,
            remove_columns=["shard", "number", "text", "document_lines"],
        )

    # --- resuming -------------------------------------------------------------------------------------------------

    def passed(self, position: dict) -> None:
        """Note that training has taken the batch behind which a reader stood at `position`."""
        self.round.append(position)
        self.seen_of_round = max(0, self.seen_of_round - 1)
        if len(self.round) == len(self.positions):
            self.positions, self.round = self.round, []

    def save(self, checkpoint: str | Path) -> None:
        """Write this process's positions to a checkpoint's folder."""
        state = {**self._made_from(), "batches_since": len(self.round), "positions": self.positions}
        self._state_file(checkpoint).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def load(self, checkpoint: str | Path) -> None:
        """Go on from where `save` was called.

        Raises:
            InputError: the checkpoint is of a run without a stream, or of another stream.
        """
        try:
            state = json.loads(self._state_file(checkpoint).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: does not say where a stream stood (no whole "
                f"{self._state_file(checkpoint).name}). If its run began without --streaming, leave that out."
            ) from error
        for name, value in self._made_from().items():
            if state.get(name, value) != value:  # older checkpoints say less
                raise InputError(
                    f"--resume_from_checkpoint {checkpoint}: its stream has {name} {state.get(name)}, this run's has "
                    f"{value}; resume with what the run began with, or start anew."
                )
        self.positions, self.round, self.seen_of_round = state["positions"], [], state["batches_since"]

    def _made_from(self) -> dict[str, Any]:
        """What must not change for a position to mean the same rows."""
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


def check_shards(shards: int, processes: int, readers: int) -> None:
    """Refuse to let a reader go without a shard."""
    if shards >= processes * readers:
        return
    advice = f"--dataloader_num_workers {shards // processes}" if shards >= processes else f"{shards} processes"
    raise InputError(
        f"--streaming: {shards} shards (files, or parts of a `datasets` name) are fewer than the readers, "
        f"{processes} processes x {readers} data workers, and none can be read by two. Split the text into at least "
        f"{processes * readers} files, or use {advice}."
    )


def check_stream(checkpoint: str | Path, rows: datasets.Dataset | TextStream) -> None:
    """Refuse to go on from a checkpoint whose run read something else."""
    if isinstance(rows, TextStream):
        rows.load(checkpoint)
    elif (Path(checkpoint) / state_name(0)).exists():
        raise InputError(f"--resume_from_checkpoint {checkpoint}: its run read a stream; add --streaming.")


def state_name(process_index: int) -> str:
    return f"stream-{process_index}.json"


def source_name(source: Source) -> str:
    """The same wherever the folder lies, and another where the file has grown."""
    if isinstance(source, Path):
        return f"{source.name} {source.stat().st_size}"
    return f"{source.info.dataset_name} {source.split}"


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_blocks(shards: Sequence[tuple[int, Source]], corpus: Corpus) -> Iterator[tuple[str, dict]]:
    """The blocks of text in `shards`, each with its key, its shard's number and its own in the shard."""
    for shard, source in shards:
        for number, block in enumerate(corpus.source_blocks(source)):
            row = {"shard": shard, "number": number, "text": block.text, "document_lines": block.document_lines}
            yield f"{shard}-{number}", row


@dataclass
class RowShuffler:
    """Blocks of text in, their rows out, in an order that follows from the seed, the epoch and the first block.

    The library restores the state of a mapped function's input, but loses what is in its own shuffle buffer.
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
