"""Streams: the rows that features hold, every shard once, the same rows again after a resume, and what is refused."""

import gzip
import itertools
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from refusals import assert_refused
from test_run_pretraining import SIZES
from torch.utils.data import DataLoader

from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.run_pretraining import main, run
from span_electra.streaming import TextStream
from span_electra.tokenization import text
from span_electra.tokenization.create_features import create_features, load_tokenizer, make_packer
from span_electra.tokenization.text import Corpus, InputError
from span_electra.tokenization.train_tokenizer import train_tokenizer

torch.set_num_threads(1)  # more cost time on models as small as these
# The forked workers of a DataLoader are warned of by Python 3.12 and later, as this process has threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tokenizer and six shards of unequal size, of every kind."""
    home = tmp_path_factory.mktemp("home")
    shards = [[" ".join(f"s{i}w{j * k % 97}" for k in range(3 + j % 17)) for j in range(30 + 7 * i)] for i in range(6)]
    (home / "shards").mkdir()
    (home / "shards/0.txt").write_text("\n\n".join(shards[0]))
    (home / "shards/1.txt").write_text("\n\n".join(shards[1]))
    (home / "shards/2.txt.gz").write_bytes(gzip.compress("\n\n".join(shards[2]).encode()))
    (home / "shards/3.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in shards[3]))
    pq.write_table(pa.table({"text": shards[4]}), home / "shards/4.parquet")
    (home / "shards/5.txt").write_text("\n\n".join(shards[5]))
    (home / "validation.txt").write_text("\n".join(shards[0]))
    (home / "empty").mkdir()
    for name in "ab":
        (home / "empty" / f"{name}.txt").write_text("")
    (home / "spoilt").mkdir()
    for i in range(2):
        (home / f"spoilt/{i}.txt").write_bytes(b"fine\n" * 20 + b"not \xff fine\n")
    train_tokenizer([home / "shards"], home / "tokenizer", vocab_size=280)
    create_features([home / "shards"], str(home / "tokenizer"), home / "features", max_seq_length=16)
    (home / "tiny.json").write_text(json.dumps(SIZES))
    return home


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(text, "BLOCK_SIZE", 200)  # a shard has a dozen, and a buffer holds less than a shard


def make_stream(home, short_probability=0.05, paths=("shards",), corpus=None, **settings):
    packer = make_packer(load_tokenizer(home / "tokenizer"), 16, short_probability)
    corpus = corpus or Corpus([home / path for path in paths], streaming=True)
    return TextStream(corpus, packer, **{"batch_size": 4, **settings})


def batches(stream, workers=0):
    """Endless batches as the Trainer's loader gives them: rows as tuples with their epoch, and the position."""
    loader = DataLoader(stream, batch_size=None, collate_fn=lambda item: item, num_workers=workers)
    for rows, position in loader:
        yield [(row["epoch"], tuple(row["input_ids"].tolist())) for row in rows], position


def first_epoch(stream, workers=0):
    """The rows of each reader's first pass, while all of them take turns."""
    read, ended = [], set()
    for turn, (rows, _) in enumerate(batches(stream, workers)):
        read.extend(ids for epoch, ids in rows if epoch == 0)
        if any(epoch > 0 for epoch, _ in rows):
            ended.add(turn % max(1, workers))
        if len(ended) == max(1, workers):
            return read


def prepared(home, folder, short_probability, paths=("shards",)):
    rows = create_features(
        [home / path for path in paths],
        str(home / "tokenizer"),
        folder,
        max_seq_length=16,
        short_seq_probability=short_probability,
    )
    return sorted(tuple(row) for row in rows["input_ids"])


def test_a_stream_has_the_rows_of_features_in_another_order(home, tmp_path):
    read = first_epoch(make_stream(home, short_probability=0))
    assert sorted(read) == prepared(home, tmp_path / "features", 0)
    assert read != sorted(read)


def test_a_file_that_is_streamed_has_the_very_lengths_of_its_features(home, tmp_path):
    read = first_epoch(make_stream(home, short_probability=0.3, paths=["shards/5.txt"]))
    assert sorted(read) == prepared(home, tmp_path / "features", 0.3, ["shards/5.txt"])


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_and_their_workers_read_every_shard_once(home, tmp_path, workers):
    read = []
    for index in range(2):
        read += first_epoch(
            make_stream(home, short_probability=0, workers=workers, process_index=index, num_processes=2), workers
        )
    assert sorted(read) == prepared(home, tmp_path / "features", 0)


def test_every_epoch_has_all_rows_in_an_order_of_its_own(home):
    orders = [[], [], []]
    for rows, _ in batches(make_stream(home, short_probability=0)):
        for epoch, ids in rows:
            if epoch < 3:
                orders[epoch].append(ids)
        if rows[-1][0] == 3:
            break
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2] != orders[0]
    other = first_epoch(make_stream(home, short_probability=0, seed=1))
    assert sorted(other) == sorted(orders[0]) and other != orders[0]


def test_a_row_of_a_stream_is_masked_for_its_own_epoch(home):
    collator = DataCollatorForSpanMasking(load_tokenizer(home / "tokenizer"))
    ids = list(range(16))
    mixed = collator([{"input_ids": ids, "epoch": 3}, {"input_ids": ids, "epoch": 0}])
    for row, epoch in enumerate([3, 0]):
        collator.set_epoch(epoch)
        alone = collator([{"input_ids": ids}])
        assert torch.equal(alone["labels"][0], mixed["labels"][row])
        assert torch.equal(alone["sampling_keys"][0], mixed["sampling_keys"][row])
    assert not torch.equal(mixed["labels"][0], mixed["labels"][1])


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_stream_goes_on_where_it_stood_however_often(home, tmp_path, workers):
    """Over the end of an epoch, and after more stops than batches in a turn of the readers."""
    settings = {"workers": workers, "num_processes": 2, "process_index": 1}
    expected = [rows for rows, _ in itertools.islice(batches(make_stream(home, **settings), workers), 90)]
    assert expected[-1][-1][0] > 0
    read, stream = [], make_stream(home, **settings)
    for stop in (1, 2, 7, 30, 31, 90):
        iterator = batches(stream, workers)
        while stream.seen_of_round:
            stream.passed(next(iterator)[1])
        while len(read) < stop:
            rows, position = next(iterator)
            read.append(rows)
            stream.passed(position)
        stream.save(tmp_path)
        stream = make_stream(home, **settings)
        stream.load(tmp_path)
    assert read == expected


def test_to_go_on_cuts_no_row_of_the_shards_before(home, tmp_path, monkeypatch):
    stream = make_stream(home)
    for rows, position in batches(stream):
        stream.passed(position)
        if rows[-1][0] == 1:
            break
    stream.save(tmp_path)
    cut = []
    resumed = make_stream(home)
    monkeypatch.setattr(type(resumed.packer), "pack", counted(type(resumed.packer).pack, cut))
    resumed.load(tmp_path)
    next(batches(resumed))
    assert len(cut) == 8  # one buffer


def counted(function, calls):
    def counting(*args):
        calls.append(args)
        return function(*args)

    return counting


def test_a_datasets_name_is_streamed_shard_by_shard(home, monkeypatch):
    table = datasets.Dataset.from_dict({"text": [f"row {i} of the table" for i in range(40)]})

    def load(name, configuration, split, streaming):
        assert (name, configuration, split, streaming) == ("some_data", None, "train", True)
        return table.to_iterable_dataset(num_shards=4)

    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = Corpus(["some_data"], streaming=True)
    assert len(corpus.sources) == 4
    read = first_epoch(make_stream(home, 0, corpus=corpus, workers=2), workers=2)
    tokenizer = load_tokenizer(home / "tokenizer")
    decoded = sorted(tokenizer.decode(ids, skip_special_tokens=True) for ids in read)
    assert decoded == sorted(table["text"]), decoded
    with pytest.raises(InputError, match=r"no column 'content'.*The columns are: text\..*--text_column"):
        _ = Corpus(["some_data"], text_column="content", streaming=True).sources
