"""Streams: the rows that features hold, every shard once, the same rows again after a resume, and what is refused."""

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from refusals import assert_refused, filled_in
from test_run_pretraining import SIZES
from torch.utils.data import DataLoader
from trainer_examples import make_trainer, sequences_of, word_tokenizer

from span_electra.common.errors import InputError
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.stream import TextStream
from span_electra.run_pretraining import main, run
from span_electra.tokenization import text
from span_electra.tokenization.create_features import create_features, load_tokenizer
from span_electra.tokenization.packing import make_packer
from span_electra.tokenization.text import Corpus
from span_electra.tokenization.train_tokenizer import train_tokenizer

torch.set_num_threads(1)  # more cost time on models as small as these
# The forked workers of a DataLoader are warned of by Python 3.12 and later, as this process has threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes:UserWarning"),
]


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
    shutil.copytree(home / "shards", home / "grown")
    (home / "grown/5.txt").write_text("\n\n".join([*shards[5], "and one more"]))
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


def make_stream(home, short_probability=0.05, paths=("shards",), corpus=None, packed=False, **settings):
    packer = make_packer(load_tokenizer(home / "tokenizer"), 16, short_probability, pack_documents=packed)
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


def test_short_documents_share_the_rows_of_a_stream(home, tmp_path):
    read = first_epoch(make_stream(home, short_probability=0, packed=True))
    alone = prepared(home, tmp_path / "features", 0)
    assert sorted(sequences_of(read, cls_token_id=0)) == alone  # which rows they share depends on the blocks
    assert len(read) < len(alone) and max(map(len, read)) <= 16


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


@pytest.mark.parametrize("workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_stream_goes_on_where_it_stood_however_often(home, tmp_path, workers):
    """Over the end of an epoch, and after more stops than batches in a turn of the readers."""
    settings = {"workers": workers, "num_processes": 2, "process_index": 1}
    expected = [rows for rows, _ in itertools.islice(batches(make_stream(home, **settings), workers), 300)]
    assert expected[-1][-1][0] > 0
    read, stream = [], make_stream(home, **settings)
    for stop in (1, 2, 7, 100, 101, 300):
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
    table = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(40)]})

    def load(name, configuration, split, streaming):
        assert (name, configuration, split, streaming) == ("some_data", None, "train", True)
        return table.to_iterable_dataset(num_shards=4)

    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = Corpus(["some_data"], streaming=True)
    assert len(corpus.sources) == 4
    read = first_epoch(make_stream(home, 0, corpus=corpus, workers=2), workers=2)
    tokenizer = load_tokenizer(home / "tokenizer")
    decoded = sorted(tokenizer.decode(ids, skip_special_tokens=True) for ids in read)
    assert decoded == sorted(table["text"])
    with pytest.raises(InputError, match=r"no column 'content'.*The columns are: text\..*--text_column"):
        _ = Corpus(["some_data"], text_column="content", streaming=True).sources


# --- runs --------------------------------------------------------------------------------------------------------


def arguments(home, folder, **changes):
    options = {"config": home / "tiny.json", "tokenizer": home / "tokenizer", "train_file": home / "shards"}
    options |= {"output_dir": folder, "streaming": True, "max_steps": 20, "max_seq_length": 16, "learning_rate": 1e-3}
    options |= {"per_device_train_batch_size": 8, "logging_steps": 5, "save_steps": 5, "report_to": "none"}
    options |= {"use_cpu": True, "disable_tqdm": True, "eval_steps": 10, "seed": 3}
    options = {name: value for name, value in (options | changes).items() if value is not None}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def losses(folder):
    history = json.loads((folder / "history.json").read_text())["history"]
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 3)])
def test_a_streaming_run_resumed_twice_ends_as_the_uninterrupted_one(home, tmp_path, workers, accumulation):
    settings = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation}
    run(arguments(home, tmp_path / "whole", **settings))
    run(arguments(home, tmp_path / "parts", **settings))
    for step in (5, 15):
        for later in (tmp_path / "parts").glob("checkpoint-*"):
            if int(later.name.split("-")[1]) > step:
                later.rename(tmp_path / f"{later.name}-before-{step}")
        run(arguments(home, tmp_path / "parts", resume_from_checkpoint="true", **settings))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_with_two_workers_each_go_on_where_they_stood(home, tmp_path):
    options = arguments(home, tmp_path / "run", dataloader_num_workers=2, logging_steps=1)
    # On a CPU `accelerate launch` starts several processes only through MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--module", "span_electra.run_pretraining", *options]
    results = []
    for more in ([], ["--resume_from_checkpoint", "true"]):
        done = subprocess.run(
            launch + more, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(((tmp_path / "run/model.safetensors").read_bytes(), losses(tmp_path / "run")))
        for step in (15, 20):
            shutil.rmtree(tmp_path / f"run/checkpoint-{step}")
        assert {path.name for path in (tmp_path / "run/checkpoint-10").glob("stream-*")} == {
            "stream-0.json",
            "stream-1.json",
        }
    assert results[0] == results[1]


def test_the_streams_workers_are_started_as_asked(home, tmp_path):
    settings = {"dataloader_num_workers": 2, "dataloader_multiprocessing_context": "spawn"}
    trainer = make_trainer(word_tokenizer(), tmp_path, **settings)
    trainer.train_dataset = make_stream(home)
    assert trainer.get_train_dataloader().multiprocessing_context.get_start_method() == "spawn"


@pytest.mark.slow
def test_a_streaming_run_is_evaluated_on_text_of_its_own(home, tmp_path, capsys, caplog):
    run(arguments(home, tmp_path / "run", validation_file=home / "validation.txt", features_cache_dir=tmp_path))
    history = json.loads((tmp_path / "run/history.json").read_text())["history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [10, 20]
    assert "a stream to train on" in caplog.text and "No evaluation" not in caplog.text


REFUSED = {
    "no steps": ({"max_steps": None}, r"--streaming needs --max_steps: a stream has no end"),
    "evaluation by epoch": ({"eval_strategy": "epoch"}, r"--eval_strategy is epoch; with --streaming it must be"),
    "checkpoints by epoch": ({"save_strategy": "epoch"}, r"--save_strategy is epoch; with --streaming it must be"),
    "counted rows": ({"max_train_samples": 9}, r"--max_train_samples: .*--streaming"),
    "features": ({"train_file": "{home}/features"}, r"features: a folder of features.*leave out --streaming"),
    "no such file": ({"train_file": "{home}/missing.txt"}, r"missing\.txt: no such file"),
    "more workers than shards": (
        {"dataloader_num_workers": 7},
        r"6 shards .* 1 processes x 7 data workers.* at least 7 files, or use --dataloader_num_workers 6\.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_stream_cannot_do_is_refused(home, tmp_path, capsys, case):
    assert_refused(main, arguments, REFUSED[case], home, tmp_path, capsys)


def test_more_processes_than_shards_are_refused(home):
    with pytest.raises(InputError, match=r"6 shards .* 8 processes x 1 data workers.* 8 files, or use 6 processes"):
        make_stream(home, num_processes=8)


def test_blank_text_among_the_shards_has_no_rows(home, tmp_path):
    shutil.copytree(home / "shards", tmp_path / "shards")
    (tmp_path / "shards" / "6.txt").write_text("\n\n\n")
    (tmp_path / "shards" / "7.jsonl").write_text('{"text": ""}\n')
    corpus = Corpus([tmp_path / "shards"], streaming=True)
    read = first_epoch(make_stream(home, short_probability=0, corpus=corpus))
    assert sorted(read) == prepared(home, tmp_path / "features", 0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("empty", r"^\S+empty: a reader of the stream finds no text .*--dataloader_num_workers"),
        ("spoilt", r"^\S+\.txt, line 21, byte 5: 0xff is not UTF-8"),
    ],
)
def test_text_that_cannot_be_used_ends_the_run_in_one_line(home, tmp_path, capsys, folder, message, workers):
    with pytest.raises(SystemExit):
        main(arguments(home, tmp_path / "run", train_file=home / folder, dataloader_num_workers=workers))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(message, error.removeprefix("error: ")), error


@pytest.fixture(scope="module")
def stopped(home, tmp_path_factory):
    """The folder of a streaming run, with its last checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    run(arguments(home, folder / "run", max_steps=4, save_steps=2))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, r"its stream has seed 3, this run's has 4; resume with"),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            r"its stream has per_device_train_batch_size 8, this run's has 4",
        ),
        ({"dataloader_num_workers": 2}, r"its stream has readers in each process 1, this run's has 2"),
        ({"train_file": "{home}/shards/0.txt"}, r"its stream has shards 6 \(\w+\), this run's has 1 \(\w+\)"),
        ({"pack_documents": True}, r"its stream has documents that share a row False, this run's has True"),
        ({"train_file": "{home}/grown"}, r"its stream has shards 6 \(\w+\), this run's has 6 \(\w+\)"),
        ({"documents": "line"}, r"its stream has documents blank_line, this run's has line"),
        ({"streaming": False, "validation_split_percentage": 0}, r"its run read a stream, so add --streaming"),
    ],
)
def test_another_stream_is_not_taken_for_the_one_that_stopped(home, stopped, tmp_path, capsys, changes, message):
    before = (stopped / "run/arguments.json").read_bytes()
    with pytest.raises(SystemExit):
        main(
            arguments(
                home,
                stopped / "run",
                resume_from_checkpoint="true",
                features_cache_dir=tmp_path,
                **filled_in(changes, home),
            )
        )
    assert re.search(message, capsys.readouterr().err)
    assert (stopped / "run/arguments.json").read_bytes() == before


def test_a_stream_does_not_go_on_from_a_run_without_one(home, tmp_path, capsys):
    run(arguments(home, tmp_path / "run", streaming=False, features_cache_dir=tmp_path, max_steps=2, save_steps=2))
    with pytest.raises(SystemExit):
        main(arguments(home, tmp_path / "run", resume_from_checkpoint="true"))
    assert re.search(
        r"holds no position of a stream \(no whole stream-0\.json\).*--streaming", capsys.readouterr().err
    )
