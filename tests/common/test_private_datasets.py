"""The private names of `datasets`: that they are what they were, and still needed."""

import inspect

import datasets
from datasets import IterableDataset
from datasets.iterable_dataset import ExamplesIterable

from span_electra.common.private_datasets import CHECKED_ON, fingerprint, iterable_of

VERSION = f"datasets {datasets.__version__} (checked: {', '.join(CHECKED_ON)})"


def numbers(shards):
    for shard in shards:
        for number in range(3):
            yield f"{shard}-{number}", {"value": 10 * shard + number}


def test_the_private_names_are_what_they_were():
    for call, expected in (
        (ExamplesIterable.__init__, ["self", "generate_examples_fn", "kwargs"]),
        (IterableDataset.__init__, ["self", "ex_iterable"]),
    ):
        found = list(inspect.signature(call).parameters)[: len(expected)]
        assert found == expected, f"{VERSION} changed {call.__qualname__}: it takes {found}, not {expected}"
    rows = datasets.Dataset.from_dict({"value": [1, 2]})
    assert isinstance(getattr(rows, "_fingerprint", None), str), f"{VERSION} has no Dataset._fingerprint any more"
    assert fingerprint(rows) != fingerprint(rows.select([0]))


def test_a_dataset_of_examples_has_shards_and_resumes():
    rows = iterable_of(numbers, shards=[2, 0, 1])
    assert [row["value"] for row in rows] == [20, 21, 22, 0, 1, 2, 10, 11, 12]
    assert [row["value"] for row in rows.shard(2, 1, contiguous=False)] == [0, 1, 2]
    reader = iter(rows)
    for _ in range(4):
        next(reader)
    resumed = iterable_of(numbers, shards=[2, 0, 1])
    resumed.load_state_dict(rows.state_dict())
    assert [row["value"] for row in resumed] == [1, 2, 10, 11, 12]


def test_the_public_way_still_leaves_a_lock_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    IterableDataset.from_generator(numbers, gen_kwargs={"shards": [1]})
    assert list(tmp_path.rglob("*.lock")), f"{VERSION} leaves none: `iterable_of` can be `from_generator`"
