"""The tokenizer of a run that continues from a checkpoint with new words."""

import json
import shutil

import pytest
import torch
from refusals import assert_refused
from trainer_examples import tiny_model
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from span_electra.common.errors import InputError
from span_electra.common.vocabulary import NEW_PIECES, new_rows
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.pretraining.model import build_model
from span_electra.pretraining.tokenizer import build_tokenizer
from span_electra.run_pretraining import main
from span_electra.tokenization import extend_tokenizer as extension
from span_electra.tokenization.create_features import create_features
from span_electra.tokenization.train_tokenizer import train_tokenizer

torch.set_num_threads(1)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Text of a domain, two models with the tokenizer of other text, its extension, and rows made with both."""
    home = tmp_path_factory.mktemp("home")
    (home / "general.txt").write_text("The old man saw the sea and the card, a log of it.\n" * 20, encoding="utf-8")
    lines = [f"The cardiologist saw a cardiogram {i % 7} of cardiology.\n" for i in range(300)]
    (home / "domain.txt").write_text("".join(lines), encoding="utf-8")
    (home / "words.txt").write_text("cardiogram\n", encoding="utf-8")
    tokenizer = train_tokenizer([home / "general.txt"], home / "tokenizer", vocab_size=300)
    train_tokenizer([home / "domain.txt"], home / "other", vocab_size=300)
    models = {
        "electra": tiny_model(vocab_size=len(tokenizer)),
        "bert": BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer), pad_token_id=2)),
    }
    for name, model in models.items():
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    extension.extend_tokenizer(home / "electra", home / "extended", paths=[home / "domain.txt"], size=8)
    create_features([home / "domain.txt"], home / "electra", home / "old_rows", max_seq_length=32, documents="file")
    create_features([home / "domain.txt"], home / "extended", home / "rows", max_seq_length=32, documents="file")
    return home


def arguments(home, folder, **changes):
    options = {"model_name_or_path": home / "electra", "train_file": home / "domain.txt", "documents": "file"}
    options |= {"output_dir": folder, "features_cache_dir": folder.parent / "cache", "max_steps": 4, "save_steps": 2}
    options |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 8, "max_seq_length": 32}
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "eval_steps": 2, "logging_steps": 1}
    options = {name: value for name, value in (options | changes).items() if value is not None}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def built(home, tmp_path, model="electra", **options):
    asked = ModelArguments(model_name_or_path=str(home / model), **options)
    data = DataArguments(train_file=[str(home / "domain.txt")], features_cache_dir=str(tmp_path))
    tokenizer = build_tokenizer(asked, data)
    return tokenizer, build_model(asked, data, tokenizer)


@pytest.mark.parametrize("model", ["electra", "bert"])
@pytest.mark.parametrize("way", ["option", "tokenizer"])
def test_new_pieces_start_as_the_mean_of_what_they_are_made_of(home, tmp_path, caplog, model, way):
    caplog.set_level("INFO")
    options = {"extend_vocabulary": 8} if way == "option" else {"tokenizer": str(home / "extended")}
    tokenizer, extended = built(home, tmp_path, model, **options)
    assert "8 pieces are new" in caplog.text and "other words" not in caplog.text
    own = AutoTokenizer.from_pretrained(home / model)
    rows, before = new_rows(tokenizer, own), AutoModel.from_pretrained(home / model).get_input_embeddings().weight
    assert len(rows) == 8 and extended.config.vocab_size == len(own) + 8
    for network in (extended, extended.generator):
        table = network.get_input_embeddings().weight
        assert torch.equal(table[: len(own)], before)
        for new, old in rows.items():
            torch.testing.assert_close(table[new], before[old].mean(0))


def test_pieces_are_found_once(home, tmp_path, monkeypatch):
    options = {"extend_vocabulary": 3, "extend_vocabulary_file": str(home / "words.txt")}
    first, _ = built(home, tmp_path, **options)
    monkeypatch.setattr(extension, "extend_tokenizer", None)
    again, _ = built(home, tmp_path, "bert", **options)  # another model with the same tokenizer
    assert again.get_vocab() == first.get_vocab() and "Ġcardiogram" in first.init_kwargs[NEW_PIECES]


REFUSED = {
    "no pieces": ({"extend_vocabulary": 0}, r"--extend_vocabulary is 0; it must be at least 1"),
    "too many": ({"extend_vocabulary": 5000}, r"The text needs only \d+ new pieces, not 5000.*no more than that"),
    "a new model": (
        {"extend_vocabulary": 5, "model_name_or_path": None, "config": "tiny", "tokenizer": "{home}/tokenizer"},
        r"extend the tokenizer of --model_name_or_path.*train_tokenizer",
    ),
    "another tokenizer": (
        {"extend_vocabulary": 5, "tokenizer": "{home}/other"},
        r"--extend_vocabulary: .*electra was trained with other tokens .*Leave --tokenizer out",
    ),
    "rows of the tokenizer as it is": (
        {"extend_vocabulary": 5, "train_file": "{home}/old_rows"},
        r"old_rows were made with the tokenizer as it is.*extend_tokenizer --tokenizer .*electra .*--size 5 ",
    ),
    "old rows": (
        {"tokenizer": "{home}/extended", "train_file": "{home}/old_rows"},
        r"made with another tokenizer .*create_features --input \.\.\. --tokenizer .*extended",
    ),
    "a stream of the Hub": (
        {"extend_vocabulary": 5, "train_file": "some_corpus", "streaming": True},
        r"it would read all of the stream some_corpus before training.*extend_tokenizer",
    ),
    "no such words": ({"extend_vocabulary_file": "{home}/missing.txt"}, r"missing\.txt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_extended_is_refused_and_nothing_is_touched(home, tmp_path, capsys, case):
    assert_refused(main, arguments, REFUSED[case], home, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"extend_vocabulary": 8}, {"tokenizer": "{home}/extended", "train_file": "{home}/rows"}], ids=str
)
def test_a_run_with_new_pieces_resumes_exactly_and_finds_none_again(home, tmp_path, capsys, monkeypatch, options):
    options = {name: str(value).replace("{home}", str(home)) for name, value in options.items()}
    main(arguments(home, tmp_path / "whole", **options))
    main(arguments(home, tmp_path / "stopped", **options))
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    monkeypatch.setattr(extension, "extend_tokenizer", None)
    if "extend_vocabulary" in options:
        resume = {"resume_from_checkpoint": "true"}
        with pytest.raises(SystemExit):
            main(arguments(home, tmp_path / "stopped", **options | {"extend_vocabulary": 9} | resume))
        assert "began with 8 new pieces" in capsys.readouterr().err
    main(arguments(home, tmp_path / "stopped", **options, resume_from_checkpoint="true"))
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    saved = json.loads((tmp_path / "whole" / "tokenizer_config.json").read_text())
    assert len(saved[NEW_PIECES]) == 8 and {*saved[NEW_PIECES]} <= tokenizer.get_vocab().keys()
    assert AutoModel.from_pretrained(tmp_path / "whole").config.vocab_size == len(tokenizer)


def test_a_run_without_new_pieces_is_not_resumed_with_words(home):
    asked = ModelArguments(model_name_or_path=str(home / "electra"), extend_vocabulary_file=str(home / "words.txt"))
    with pytest.raises(InputError, match=r"^--extend_vocabulary: the run in .*electra began with 0 new pieces"):
        build_tokenizer(asked, DataArguments(), checkpoint=home / "electra")


@pytest.mark.slow
def test_a_stream_of_files_is_read_for_new_pieces(home, tmp_path):
    main(arguments(home, tmp_path / "out", extend_vocabulary=4, streaming=True, max_steps=1))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out").init_kwargs[NEW_PIECES]) == 4
