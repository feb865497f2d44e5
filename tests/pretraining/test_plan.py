"""`--plan`: what it measures, what it warns of, and that it writes nothing."""

import json
import re

import pytest
import torch
from refusals import snapshot
from trainer_examples import make_trainer, tiny_model, tiny_pair

from span_electra.common.errors import InputError
from span_electra.pretraining.plan import (
    STEPS,
    Costs,
    StepTimer,
    Text,
    flops_per_token,
    mismatches,
    occasions,
    run_largest,
    save,
)
from span_electra.run_pretraining import main, run
from span_electra.tokenization.train_tokenizer import train_tokenizer

SIZES = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    lines = [" ".join(f"word{i * j % 97}" for j in range(5 + i % 9)) for i in range(400)]
    for name in ("text.txt", "more.txt"):
        (home / name).write_text("\n".join(lines))
    train_tokenizer([home / "text.txt"], home / "tokenizer", vocab_size=280)
    (home / "tiny.json").write_text(json.dumps(SIZES))
    return home


def arguments(home, folder, **changes):
    options = {"config": home / "tiny.json", "tokenizer": home / "tokenizer", "train_file": home / "text.txt"}
    options |= {"output_dir": folder / "out", "features_cache_dir": folder / "cache", "documents": "line"}
    options |= {"max_seq_length": 32, "per_device_train_batch_size": 8, "validation_split_percentage": 10}
    options |= {"max_steps": 100, "eval_steps": 30, "save_steps": 40, "warmup_steps": 5}
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True}
    values = {name: value if isinstance(value, list) else [value] for name, value in (options | changes).items()}
    return [str(part) for name, listed in values.items() for part in (f"--{name}", *listed)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, r"text +[\d.]+ million tokens in 457 rows of [\d.]+; \d+% of the documents are longer"),
        ({"streaming": True, "validation_file": "text.txt"}, "a stream, of unknown length"),
        ({"train_file": ["text.txt", "more.txt"], "mixture": [1, 3]}, r"tokens in 914 rows of [\d.]+;"),
    ],
    ids=["rows", "stream", "mixture"],
)
def test_a_plan_shows_the_costs_and_writes_nothing(home, tmp_path, monkeypatch, capsys, changes, text):
    monkeypatch.chdir(home)
    before = snapshot(home)
    monkeypatch.setattr("span_electra.run_pretraining.prepare_repository", lambda *_: pytest.fail("asks the Hub"))
    main(arguments(home, tmp_path, plan=True, push_to_hub=True, **changes))
    table = capsys.readouterr().out
    assert re.search(text, table)
    assert re.search(r"run +100 steps of 8 rows: ", table)
    assert re.search(r"speed +[\d,]+ tokens a second \([\d.]+ s a step, mean of 10\)", table)
    assert re.search(r"time .* training, 0:00:\d\d 4 evaluations, 0:00:\d\d 3 checkpoints\n", table)
    assert not (tmp_path / "out").exists() and snapshot(home) == before


@pytest.mark.parametrize(("max_steps", "measured"), [(1, 1), (2, 1), (6, 3), (50, STEPS)])
def test_a_short_run_is_measured_as_far_as_it_goes(tokenizer, tmp_path, max_steps, measured):
    trainer = make_trainer(tokenizer, tmp_path, max_steps=max_steps)
    trainer.add_callback(timer := StepTimer())
    trainer.train()
    assert timer.steps == measured and timer.seconds > 0
    assert trainer.state.max_steps == max_steps


def test_of_a_slow_model_one_step_is_measured(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("span_electra.pretraining.plan.MOST_SECONDS", 0)
    trainer = make_trainer(tokenizer, tmp_path, max_steps=50)
    trainer.add_callback(timer := StepTimer())
    trainer.train()
    assert timer.steps == 1


def out_of_memory_above(tokenizer, folder, most):
    """Makes Trainers whose steps fail with more than `most` rows."""

    def make(arguments):
        trainer = make_trainer(tokenizer, folder, per_device_train_batch_size=arguments.per_device_train_batch_size)

        def step(model, inputs, *_):
            if len(inputs["input_ids"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return torch.tensor(0.0)

        trainer.training_step = step
        return trainer

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "most", "text"),
    [
        (
            16,
            5,
            r"batch_size 16: does not fit .* 4 does.* --per_device_train_batch_size 4 --gradient_accumulation_steps 4",
        ),
        (2, 0, r"not even one row fits"),
    ],
)
def test_a_batch_too_large_is_refused_with_the_largest_that_fits(tokenizer, tmp_path, rows, most, text):
    arguments = make_trainer(tokenizer, tmp_path, per_device_train_batch_size=rows).args
    with pytest.raises(InputError, match=text):
        run_largest(out_of_memory_above(tokenizer, tmp_path, most), arguments)


FITTING = {"rows": 10_000, "row_length": 100.0}  # a million tokens, so 2,000 pieces
MISMATCHES = {
    "nothing": ({}, {}, None),
    "warm-up": ({}, {"warmup_steps": 1000}, r"warm-up takes 1,000 steps, and the run has 1,000"),
    "epochs": ({"rows": 300}, {"vocabulary": 346}, r"53 epochs of a small text \(30,000 tokens\)"),
    "large vocabulary": ({}, {"vocabulary": 8001}, r"has 8,001 tokens, and about 2,000 fit"),
    "small vocabulary": ({}, {"vocabulary": 499}, r"has 499 tokens"),
    "much text": ({"rows": 10**9}, {"vocabulary": 50_000}, None),
    "given vocabulary": ({}, {"vocabulary": None}, None),
    "a stream": ({"rows": None}, {}, None),
}


@pytest.mark.parametrize(("text", "changes", "warning"), MISMATCHES.values(), ids=MISMATCHES)
def test_numbers_that_do_not_fit_together_are_named(text, changes, warning):
    costs = Costs(1000, 16, *[0] * 8)
    given = {"warmup_steps": 100, "vocabulary": 2000} | changes
    found = mismatches(Text(**FITTING | text), costs, **given)
    assert found == [] if warning is None else len(found) == 1 and re.search(warning, found[0])


def test_a_run_evaluates_and_saves_at_its_last_step_too():
    assert [occasions("steps", every, 100, 3) for every in (30, 50, 200, 0)] == [4, 2, 1, 100]
    assert occasions("epoch", 10, 100, 3) == 3 and occasions("no", 10, 100, 3) == 0


@pytest.mark.parametrize("make_model", [tiny_model, tiny_pair])
def test_the_size_of_a_checkpoint_is_that_of_a_real_one(tokenizer, tmp_path, make_model):
    trainer = make_trainer(tokenizer, tmp_path, make_model(), save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    real = sum(path.stat().st_size for path in (tmp_path / "checkpoint-2").rglob("*") if path.is_file())
    size, seconds = save(trainer)
    assert size == pytest.approx(real, rel=0.1) and seconds > 0


def test_flops_grow_with_the_layers(tokenizer, tmp_path):
    counts = [flops_per_token(make_trainer(tokenizer, tmp_path, tiny_model(num_hidden_layers=n))) for n in (1, 2, 3)]
    # 6 FLOPs for a weight and token in the linear layers of discriminator and generator, and some for attention.
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], rel=0.05)
    assert counts[1] - counts[0] > 6 * (4 * 32 * 32 + 2 * 32 * 64)


@pytest.mark.slow
def test_a_plan_names_what_the_run_then_does(home, tmp_path, capsys):
    options = arguments(home, tmp_path, max_steps=60, eval_steps=25, save_steps=20)
    main([*options, "--plan", "true"])
    table = capsys.readouterr().out
    run(options)
    history = json.loads((tmp_path / "out" / "history.json").read_text())["history"]
    evaluations = sum("eval_loss" in entry for entry in history)
    saved = len(list((tmp_path / "out").glob("checkpoint-*")))
    assert f" {evaluations} evaluations" in table and f" {saved} checkpoints" in table
