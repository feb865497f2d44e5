"""Several corpora in shares of their tokens: rows on disk, or streams.

The library's `interleave_datasets` mixes rows, not tokens, repeats a corpus in the same order, and does not say how
often a row was read before, which its masks depend on.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from span_electra.common.errors import InputError
from span_electra.pretraining.stream import TextStream
from span_electra.tokenization.packing import Packer
from span_electra.tokenization.text import Corpus
from span_electra.training.resuming import sample_digest

logger = logging.getLogger(__name__)


class Mixture(Dataset):
    """
    Rows of several corpora on disk, in shares of their tokens.

    An epoch has as many rows as all corpora together, and the corpora alternate evenly within it. Each corpus is read
    in a random order. One that is used up begins again in another order; one that is not continues in the next epoch.

    Which row comes when is a function of the seed, the epoch and the position. A row's `epoch` counts its earlier
    readings, so that the collator masks it anew each time.

    Args:
        corpora: The rows of each corpus, by its name.
        shares: The share of each corpus; above 0, and of any sum.
        seed: Determines the order of the rows; 0 or more.

    Raises:
        InputError: A share is less than one row in an epoch.
    """

    def __init__(self, corpora: dict[str, datasets.Dataset], shares: Sequence[float], seed: int = 0):
        parts = list(corpora.values())
        self.names, self.seed = list(corpora), seed
        self.rows = datasets.concatenate_datasets(parts)
        self.sizes, self.counts = list(map(len, parts)), rows_in_epoch(corpora, shares)
        self.mixture = []  # what a resumed run must have in common with this one
        for name, share, rows, count in zip(self.names, percentages(shares), parts, self.counts, strict=True):
            times, size = count / len(rows), f"{len(rows):,} rows"
            logger.info(f"{name}: {share} of the tokens, read {times:.2f} times in an epoch ({size})")
            self.mixture.append(f"{count:,} of {size} in an epoch ({sample_digest(rows)})")
        # Workers that persist keep the copy that they were started with: only shared memory tells it of a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows, readings = self.current_order()
        ids = self.rows[rows[indices].tolist()]["input_ids"]
        return [{"input_ids": row, "epoch": reading} for row, reading in zip(ids, readings[indices], strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch. The Trainer's data loader calls this before each."""
        self._epoch.fill_(epoch)
        self.current_order()  # workers that are forked now inherit it

    def current_order(self) -> tuple[np.ndarray, np.ndarray]:
        epoch = int(self._epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, *self.order(epoch))
        return self._order[1:]

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch as positions in `rows`, and how often each was read before."""
        rows, readings, turns = [], [], []
        offset = 0
        for number, (count, size) in enumerate(zip(self.counts, self.sizes, strict=True)):
            reads = np.arange(epoch * count, (epoch + 1) * count)  # counted from the start of the run
            first, last = reads[0] // size, reads[-1] // size
            orders = [np.random.default_rng([self.seed, number, i]).permutation(size) for i in range(first, last + 1)]
            rows.append(offset + np.concatenate(orders)[reads - first * size])
            readings.append(reads // size)
            turns.append((np.arange(count) + 0.5) / count)
            offset += size
        order = np.concatenate(turns).argsort(kind="stable")
        return np.concatenate(rows)[order], np.concatenate(readings)[order]

    def readings(self, epoch: float) -> dict[str, float]:
        """How often each corpus has been read after so many epochs, by its name."""
        counts = zip(self.names, self.counts, self.sizes, strict=True)
        return {name: round(epoch * count / size, 2) for name, count, size in counts}


class MixedStream(TextStream):
    """
    A stream of several corpora, in shares of their tokens: the next row is always from the corpus that is furthest
    behind its share. So the shares of each reader are exact to a row.

    Args:
        corpora: The text of each corpus, by its name. Each needs a shard for each reader.
        shares: The share of each corpus; above 0, and of any sum.
        packer: Cuts text into rows.
        settings: The other arguments of `TextStream`.
    """

    def __init__(self, corpora: dict[str, Corpus], shares: Sequence[float], packer: Packer, **settings: Any):
        self.names, self.shares = list(corpora), list(shares)
        self.streams = [TextStream(corpus, packer, **settings) for corpus in corpora.values()]
        super().__init__(self.streams[0].corpus, packer, **settings)
        for name, share in zip(self.names, percentages(shares), strict=True):
            logger.info(f"{name}: {share} of the tokens")

    def rows_from(self, position: dict | None) -> Iterator[dict]:
        position = position or {"corpora": [None] * len(self.streams), "tokens": [0] * len(self.streams)}
        self._tokens = list(position["tokens"])
        rows = [stream.rows_from(at) for stream, at in zip(self.streams, position["corpora"], strict=True)]
        return self._mixed(rows)

    def _mixed(self, rows: list[Iterator[dict]]) -> Iterator[dict]:
        while True:
            behind = min(range(len(rows)), key=lambda i: self._tokens[i] / self.shares[i])
            row = next(rows[behind])
            self._tokens[behind] += len(row["input_ids"])
            yield row

    def position(self) -> dict:
        return {"corpora": [stream.position() for stream in self.streams], "tokens": list(self._tokens)}

    def readings(self, epoch: float) -> dict[str, float]:
        """How often this process's readers have read each corpus to its end, on average, by its name."""
        positions = [position["corpora"] for position in self.positions if position is not None]
        epochs = [[0 if at is None else at["epoch"] for at in corpora] for corpora in zip(*positions, strict=True)]
        return {name: float(np.mean(counts)) for name, counts in zip(self.names, epochs, strict=False)}

    def _made_from(self) -> dict[str, Any]:
        parts = [stream._made_from() for stream in self.streams]
        return parts[0] | {"shards": [part["shards"] for part in parts], "mixture": self.shares}


def rows_in_epoch(corpora: dict[str, datasets.Dataset], shares: Sequence[float]) -> list[int]:
    """How many rows an epoch takes from each corpus, so that their tokens have these shares."""
    total = sum(map(len, corpora.values()))
    rows = np.array(shares) / [mean_tokens(rows) for rows in corpora.values()]
    counts = np.diff(np.rint(total * rows.cumsum() / rows.sum()), prepend=0).astype(int).tolist()
    for name, share, count in zip(corpora, shares, counts, strict=True):
        if count < 1:
            raise InputError(
                f"--mixture: {share:g} is less than one row of {name} in an epoch of {total:,} rows. Give a larger "
                "share, or leave the corpus out of --train_file."
            )
    return counts


def mean_tokens(rows: datasets.Dataset) -> float:
    """The mean length of the rows in a table, including those that are held back."""
    column = rows.data.column("input_ids")
    return sum(len(chunk.flatten()) for chunk in column.chunks) / len(column)


def percentages(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share / sum(shares):.3g} %" for share in shares]


def mixed_list(paths: Sequence[str], shares: Sequence[float]) -> str:
    """Name the texts of a mixture with their shares."""
    parts = (f"{part} {Path(path).name or path}" for part, path in zip(percentages(shares), paths, strict=True))
    return f"a mix of {', '.join(parts)} (shares of tokens)"


def corpus_names(paths: Sequence[str]) -> list[str]:
    """A name for each corpus: that of its file or folder, or the whole path where two have the same name."""
    names = [Path(path).name or path for path in paths]
    return names if len(set(names)) == len(names) else list(paths)
