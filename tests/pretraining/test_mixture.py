"""Mixtures: shares of tokens, corpora that begin again, the same rows after a resume, and what is refused."""

import json
import os
import re
import subprocess
import sys
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from refusals import assert_refused
from test_run_pretraining import SIZES
from test_streaming import batches
from trainer_examples import make_trainer, rows, word_tokenizer

from span_electra.common.errors import InputError
from span_electra.pretraining.arguments import parse_arguments
from span_electra.pretraining.mixture import MixedStream, Mixture, corpus_names
from span_electra.run_pretraining import main, run
from span_electra.tokenization import text
from span_electra.tokenization.create_features import create_features, load_tokenizer
from span_electra.tokenization.packing import make_packer
from span_electra.tokenization.text import Corpus
from span_electra.tokenization.train_tokenizer import train_tokenizer

torch.set_num_threads(1)  # more cost time on models as small as these
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes:UserWarning"),
]
SHARES = [6, 3, 1]


# --- rows on disk -------------------------------------------------------------------------------------------------


def make_mixture(shares=SHARES, sizes=(70, 50, 400), seed=0):
    """A row of corpus c has 8, 16 or 32 tokens, all of them 1000 * c + its number."""
    corpora = {
        f"corpus{c}": datasets.Dataset.from_dict({"input_ids": [[1000 * c + i] * (8 << c) for i in range(size)]})
        for c, size in enumerate(sizes)
    }
    return Mixture({name: rows.with_format("numpy") for name, rows in corpora.items()}, shares, seed)


def read(mixture, epochs):
    """Rows in order, each as (corpus, number, earlier readings)."""
    found = []
    for epoch in range(epochs):
        mixture.set_epoch(epoch)
        for row in mixture.__getitems__(list(range(len(mixture)))):
            corpus, number = divmod(int(row["input_ids"][0]), 1000)
            found.append((corpus, number, row["epoch"]))
    return found


def test_every_stretch_of_an_epoch_has_its_shares_of_tokens():
    found = read(make_mixture(), epochs=1)
    assert len(found) == 520
    for stretch in (found, found[:130], found[390:]):
        tokens = np.bincount([corpus for corpus, _, _ in stretch], weights=[8 << corpus for corpus, _, _ in stretch])
        assert tokens / tokens.sum() == pytest.approx([0.6, 0.3, 0.1], abs=0.01)


def test_a_corpus_is_read_to_its_end_before_it_begins_again_in_another_order():
    found = read(make_mixture(), epochs=2)
    for corpus, size in enumerate((70, 50, 400)):
        reads = [(number, reading) for c, number, reading in found if c == corpus]
        orders = [[number for number, _ in reads[i : i + size]] for i in range(0, len(reads), size)]
        assert [reading for _, reading in reads] == [i // size for i in range(len(reads))]
        assert all(sorted(order) == list(range(size)) for order in orders[:-1])
        assert len({tuple(order) for order in orders}) == len(orders) > (corpus < 2)
    other = read(make_mixture(seed=1), epochs=2)
    assert other != found and [row[::2] for row in other] == [row[::2] for row in found]


def test_the_log_says_how_often_each_corpus_is_read(caplog):
    with caplog.at_level("INFO", "span_electra"):
        mixture = make_mixture()
    assert "corpus1: 30 % of the tokens, read 2.00 times in an epoch (50 rows)" in caplog.text
    found = read(mixture, epochs=2)
    readings = {f"corpus{c}": sum(row[0] == c for row in found) / size for c, size in enumerate((70, 50, 400))}
    assert mixture.readings(2.0) == {name: round(count, 2) for name, count in readings.items()}


def test_a_share_below_one_row_is_refused():
    with pytest.raises(InputError, match=r"--mixture: 0\.0001 is less than one row of corpus2 .* 520 rows"):
        make_mixture([0.6, 0.4, 0.0001])


def test_corpora_of_one_name_have_their_whole_paths():
    assert corpus_names(["a/wiki.txt", "books/", "org/data:en"]) == ["wiki.txt", "books", "data:en"]
    assert corpus_names(["a/train.txt", "b/train.txt"]) == ["a/train.txt", "b/train.txt"]


def trained(folder, resume=None, **arguments):
    """The input ids and labels of every update: 12 of 4 rows, almost three epochs of a mixture whose second corpus
    begins again after every 6 rows."""
    trainer = make_trainer(word_tokenizer(), folder, max_steps=12, **arguments)
    corpora = {"long": rows(12).with_format("numpy"), "short": rows(6, length=12).with_format("numpy")}
    trainer.train_dataset = Mixture(corpora, [1, 1])
    trainer.train(resume_from_checkpoint=resume)
    return [(batch["input_ids"].tolist(), batch["labels"].tolist()) for _, batch in trainer.batches], trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *trained(folder, save_strategy="steps", save_steps=5)


def test_a_row_is_masked_anew_at_each_reading(whole):
    _, seen, _ = whole
    masked, order = {}, []
    for ids, labels in seen[:5]:  # an epoch, which reads the short rows twice
        for row, label in zip(ids, labels, strict=True):
            original = tuple(o if label == -100 else label for o, label in zip(row, label, strict=True) if o != 2)
            masked.setdefault(original, []).append(tuple(label))
            order.append(original)
    order = [original for original in order if len(original) == 12]
    assert len(order) == 12 and set(order[:6]) == set(order[6:])  # to its end before it begins again
    short = [masked[original] for original in order[:6]]
    assert sum(first != second for first, second in short) >= 4  # two masks of few tokens may be equal


@pytest.mark.parametrize("persistent", [False, True])
def test_data_workers_change_no_row(whole, tmp_path, persistent):
    _, expected, _ = whole
    seen, _ = trained(tmp_path, dataloader_num_workers=2, dataloader_persistent_workers=persistent)
    assert seen == expected


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 10])  # at the end of an epoch, within one
def test_a_mixture_resumes_with_the_very_next_row(whole, tmp_path, step):
    folder, expected, trainer = whole
    seen, resumed = trained(tmp_path, resume=str(folder / f"checkpoint-{step}"), remove_unused_columns=step == 5)
    assert seen == expected[step:]
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three corpora of four files each, whose documents are of unequal length; a tokenizer and features."""
    home = tmp_path_factory.mktemp("home")
    for corpus, (words, documents) in {"wiki": (14, 60), "books": (40, 12), "forum": (4, 20)}.items():
        (home / corpus).mkdir()
        for shard in range(4):
            lines = [" ".join(f"w{j * i % 97}" for j in range(3 + i % words)) for i in range(documents + shard)]
            (home / corpus / f"{shard}.txt").write_text("\n\n".join(f"{corpus}{shard} {line}" for line in lines))
    (home / "empty.txt").write_text("\n\n")
    train_tokenizer([home / "wiki", home / "books"], home / "tokenizer", vocab_size=280)
    create_features([home / "wiki"], str(home / "tokenizer"), home / "features", max_seq_length=16)
    (home / "tiny.json").write_text(json.dumps(SIZES))
    (home / "mix.yaml").write_text(f"train_file: [{home}/wiki, {home}/books]\nmixture: [0.75, 1e-1]\n")
    (home / "one.yaml").write_text(f"train_file: [{home}/wiki]\nmixture: 2\n")
    (home / "words.yaml").write_text("mixture: [most, some]\n")
    return home


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(text, "BLOCK_SIZE", 200)  # a shard has a dozen, and a buffer holds less than a shard


def make_stream(home, shares=SHARES, **settings):
    packer = make_packer(load_tokenizer(home / "tokenizer"), 16)
    corpora = {name: Corpus([home / name], streaming=True) for name in ("wiki", "books", "forum")}
    return MixedStream(corpora, shares, packer, **{"batch_size": 4, **settings})


def test_a_mixed_stream_has_its_shares_of_tokens_to_a_row(home):
    stream, tokens = make_stream(home), 0
    for batch, position in islice(batches(stream), 400):
        tokens += sum(len(ids) for _, ids in batch)
        stream.passed(position)
        assert sum(position["tokens"]) == tokens
        assert position["tokens"] == pytest.approx([0.6 * tokens, 0.3 * tokens, 0.1 * tokens], abs=2 * 16)
    assert stream.readings(0)["forum"] >= 1  # it began again


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_mixed_stream_goes_on_where_it_stood_however_often(home, tmp_path, workers):
    """While one corpus waits for its next row, and after another has begun again."""
    settings = {"workers": workers, "num_processes": 2, "process_index": 1, "shares": [60, 30, 1]}
    expected = [batch for batch, _ in islice(batches(make_stream(home, **settings), workers), 200)]
    found, stream = [], make_stream(home, **settings)
    for stop in (1, 2, 7, 100, 101, 200):
        iterator = batches(stream, workers)
        while stream.seen_of_round:
            stream.passed(next(iterator)[1])
        while len(found) < stop:
            batch, position = next(iterator)
            found.append(batch)
            stream.passed(position)
        stream.save(tmp_path)
        readings, stream = stream.readings(0), make_stream(home, **settings)
        stream.load(tmp_path)
        assert stream.readings(0) == readings
    assert found == expected and found[-1][-1][0] > 0


# --- runs ---------------------------------------------------------------------------------------------------------


def arguments(home, folder, **changes):
    options = {"config": home / "tiny.json", "tokenizer": home / "tokenizer", "output_dir": folder, "max_steps": 20}
    options |= {"train_file": [home / "wiki", home / "books", home / "forum"], "mixture": SHARES}
    options |= {"features_cache_dir": folder.parent / "cache", "max_seq_length": 16, "learning_rate": 1e-3}
    options |= {"per_device_train_batch_size": 8, "logging_steps": 5, "save_steps": 5, "report_to": "none"}
    options |= {"use_cpu": True, "disable_tqdm": True, "eval_steps": 10, "seed": 3}
    words = []
    for name, value in (options | changes).items():
        if value is not None:
            words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return [str(word).replace("{home}", str(home)) for word in words]


def history(folder):
    entries = json.loads((folder / "history.json").read_text())["history"]
    timed = ("runtime", "per_second", "_time")
    return [{n: v for n, v in entry.items() if not any(part in n for part in timed)} for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"streaming": True, "dataloader_num_workers": 2}], ids=["rows", "stream"])
def test_a_mixed_run_resumed_twice_ends_as_the_uninterrupted_one(home, tmp_path, changes):
    changes = changes | {"max_steps": 60, "mixture": [1, 1, 8]}
    run(arguments(home, tmp_path / "whole", **changes))
    run(arguments(home, tmp_path / "parts", **changes))
    for step in (5, 40):
        for later in (tmp_path / "parts").glob("checkpoint-*"):
            if int(later.name.split("-")[1]) > step:
                later.rename(tmp_path / f"{later.name}-before-{step}")
        run(arguments(home, tmp_path / "parts", resume_from_checkpoint="true", **changes))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert history(tmp_path / "whole") == history(tmp_path / "parts")
    assert [entry["epochs_of_forum"] for entry in history(tmp_path / "parts") if "loss" in entry][-1] >= 1
    card = (tmp_path / "whole/README.md").read_text()
    assert "on a mix of 10 % wiki, 10 % books, 80 % forum (shares of tokens)" in card


@pytest.mark.slow
def test_two_processes_read_the_rows_of_one(home, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--module", "span_electra.run_pretraining"]
    traces = []
    for start, batch in (([sys.executable, "-m", "span_electra.run_pretraining"], 8), (launch, 4)):
        changes = {"per_device_train_batch_size": batch, "max_seq_length": None, "mixture": [1, 1]}
        changes |= {"train_file": ["{home}/features", "{home}/books"]}
        options = arguments(home, tmp_path / str(batch), **changes)
        done = subprocess.run(
            start + options, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        names = ("replaced_share", "generator_accuracy_baseline", "epochs_of_features", "epochs_of_books")
        traces.append([[entry[name] for name in names] for entry in history(tmp_path / str(batch)) if "loss" in entry])
    assert traces[0] == traces[1] and len(traces[0]) == 4


REFUSED = {
    "a share too few": ({"mixture": [0.6, 0.4]}, r"--mixture has 2 shares, and --train_file has 3 entries: give"),
    "a negative share": ({"mixture": [0.6, -0.3, 0.1]}, r"--mixture: -0\.3 is not a share\. Each must be above 0"),
    "no number": ({"mixture": [0.6, "nan", 0.1]}, r"--mixture: nan is not a share"),
    "without end": ({"mixture": [0.6, "inf", 0.1]}, r"--mixture: inf is not a share"),
    "nothing at all": ({"mixture": [0, 0, 0]}, r"--mixture: 0 is not a share.*remove it from --train_file"),
    "one corpus twice": (
        {"train_file": ["{home}/wiki", "{home}/./wiki"], "mixture": [1, 1]},
        r"--train_file names \S+wiki twice",
    ),
    "a number of rows": ({"max_train_samples": 9}, r"--max_train_samples: does not work with --mixture"),
    "an empty corpus": (
        {"train_file": ["{home}/wiki", "{home}/empty.txt"], "mixture": [1, 1]},
        r"empty\.txt: empty, there is no text to read",
    ),
    "an empty stream": (
        {"train_file": ["{home}/wiki", "{home}/empty.txt"], "mixture": [1, 1], "streaming": True},
        r"empty\.txt: empty, there is no text to read",
    ),
    "a corpus that is missing": ({"train_file": ["{home}/wiki", "{home}/no.txt"], "mixture": [1, 1]}, r"no\.txt"),
    "features as a stream": (
        {"train_file": ["{home}/wiki", "{home}/features"], "mixture": [1, 1], "streaming": True},
        r"features: a folder of features is on disk already; leave out --streaming",
    ),
    "too few files of one corpus": (
        {"streaming": True, "train_file": ["{home}/wiki", "{home}/books/0.txt"], "mixture": [1, 1]}
        | {"dataloader_num_workers": 2},
        r"--streaming, \S+0\.txt: 1 shards .* too few for 1 processes x 2 data workers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mixture_that_cannot_be_made_is_refused(home, tmp_path, capsys, case):
    assert_refused(main, arguments, REFUSED[case], home, tmp_path, capsys)
    assert not (tmp_path / "cache").exists()


def test_a_recipe_gives_the_mixture(home):
    for name, mixture in {"mix": [0.75, 0.1], "one": [2.0]}.items():
        options = [str(home / f"{name}.yaml"), "--config", "tiny", "--output_dir", "out"]
        assert parse_arguments(options)[1].mixture == mixture
    with pytest.raises(InputError, match=r"words\.yaml: mixture holds most; give numbers"):
        parse_arguments([str(home / "words.yaml")])


@pytest.fixture(scope="module")
def stopped(home, tmp_path_factory):
    """A folder with two mixed runs that have a checkpoint: on rows and on a stream."""
    folder = tmp_path_factory.mktemp("stopped")
    for name in ("rows", "stream"):
        run(arguments(home, folder / name, max_steps=2, save_steps=1, streaming=name == "stream"))
    return folder


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("rows", {"mixture": [5, 4, 1]}, r"its run had mixture \['[\d,]+ of [\d,]+ rows in an epoch.*, this one \['"),
        ("rows", {"mixture": None}, r"its run had (rows|text|mixture)"),
        ("rows", {"train_file": ["{home}/books", "{home}/wiki", "{home}/forum"]}, r"its run had (content|mixture)"),
        ("stream", {"mixture": [5, 4, 1]}, r"its stream has mixture \[6\.0, 3\.0, 1\.0\], this run's has \[5\.0,"),
        ("stream", {"mixture": None}, r"its stream has shards \['4 \(\w+\)', .*, this run's has 12 \("),
    ],
)
def test_another_mixture_is_not_resumed(home, stopped, capsys, kind, changes, message):
    before = (stopped / kind / "arguments.json").read_bytes()
    with pytest.raises(SystemExit):
        main(arguments(home, stopped / kind, resume_from_checkpoint="true", streaming=kind == "stream", **changes))
    assert re.search(message, capsys.readouterr().err)
    assert (stopped / kind / "arguments.json").read_bytes() == before
