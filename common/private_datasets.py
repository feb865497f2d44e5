"""The private names of `datasets` that this package uses. They all stand here, and nowhere else.

tests/common/test_private_datasets.py fails, and says what has moved, when a new version of the library changes one.
"""

from collections.abc import Callable, Iterator

from datasets import Dataset, IterableDataset
from datasets.iterable_dataset import ExamplesIterable

CHECKED_ON = ("4.0.0", "5.2.0")  # versions of datasets: the lowest that setup.py allows, and the newest tried


def iterable_of(examples: Callable[..., Iterator[tuple[str, dict]]], **kwargs) -> IterableDataset:
    """A dataset of the examples that `examples(**kwargs)` yields, each with its key. A list in `kwargs` is its shards.

    `IterableDataset.from_generator` does the same, but it leaves a lock file in the user's cache for each value of
    `kwargs`, and offers no other place for it. A stream would leave one for every epoch."""
    return IterableDataset(ExamplesIterable(examples, kwargs))


def fingerprint(dataset: Dataset) -> str:
    """The library's own digest of a dataset: the same data processed the same way has the same one.

    The library has no public name for it, and a digest of all rows would take minutes to compute."""
    return dataset._fingerprint
