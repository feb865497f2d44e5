"""The same run divided among processes and accumulated batches: one curve."""

import json
import os
import random
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from trainer_examples import make_trainer, rows

from span_electra import run_finetuning, run_pretraining
from span_electra.common.errors import InputError
from span_electra.common.run_files import SAMPLES
from span_electra.tokenization.train_tokenizer import train_tokenizer
from span_electra.training.checkpoint_folders import damage

SHARDED = "2 x 4, sharded"
# Processes, rows of each and accumulated batches.
DIVISIONS = {"1 x 8": (1, 8, 1), "2 x 4": (2, 4, 1), "1 x 4, 2 accumulated": (1, 4, 2), SHARDED: (2, 4, 1)}
PAIR_DIVISIONS = {"pair, 1 x 8": (1, 8, 1), "pair, 2 x 4": (2, 4, 1)}
HERE = Path(__file__).parent
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SIZES |= {"max_position_embeddings": 64}
MODELS = {"electra": SIZES | {"embedding_size": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
MODELS |= {"pair": SIZES | {"model_type": "modernbert"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one run under each division, and their histories: 12 updates of 8 rows, no length like another,
    2 evaluations."""
    home = tmp_path_factory.mktemp("processes")
    words = [f"word{i**2}" for i in range(40)]
    chance = random.Random(0)
    lines = [" ".join(chance.choices(words, k=chance.randint(3, 30))) for _ in range(141)]
    (home / "train.txt").write_text("\n".join(lines[:128]), encoding="utf-8")
    short = [" ".join(line.split()[:9]) for line in lines[128:]]  # 13 rows: no multiple of 8
    (home / "validation.txt").write_text("\n".join(short), encoding="utf-8")
    for name, settings in MODELS.items():
        (home / f"{name}.json").write_text(json.dumps(settings))
    train_tokenizer([home / "train.txt"], home / "tokenizer", vocab_size=300)
    return home, {name: history(home, name, *division) for name, division in (DIVISIONS | PAIR_DIVISIONS).items()}


def history(home, name, processes, rows, accumulated, **more):
    config = home / ("pair.json" if name in PAIR_DIVISIONS else "electra.json")
    options = {"config": config, "tokenizer": home / "tokenizer", "train_file": home / "train.txt"}
    options |= {"validation_file": home / "validation.txt", "documents": "line", "max_seq_length": 64}
    options |= {"features_cache_dir": home / "cache", "output_dir": home / name.replace(" ", "_"), "max_steps": 12}
    options |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated}
    options |= {"per_device_eval_batch_size": 4, "logging_steps": 1, "eval_steps": 6, "save_steps": 12}
    options |= {"learning_rate": 1e-3, "warmup_steps": 2, "report_to": "none", "use_cpu": True, **more}
    # On a CPU `accelerate launch` starts several processes only through MPI.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    command += [HERE / "sharded_run.py"] if name == SHARDED else ["--module", "span_electra.run_pretraining"]
    command += [part for option, value in options.items() for part in (f"--{option}", value)]
    done = subprocess.run(
        list(map(str, command)), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((options["output_dir"] / "history.json").read_text())["history"]


def trace(history, name):
    return [entry[name] for entry in history if name in entry]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_divides_the_optimizer_and_resumes_exactly(runs, stage):
    pytest.importorskip("deepspeed", reason="DeepSpeed compiles an extension, so no extra installs it")
    home, histories = runs
    config, name = home / f"zero{stage}.json", f"ZeRO {stage}"
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    settings = {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
    config.write_text(json.dumps(settings | dict.fromkeys(sizes, "auto")))
    options = {"deepspeed": config, "save_steps": 6}
    divided = history(home, name, 2, 4, 1, **options)
    for metric in ("loss", "eval_loss", "grad_norm"):
        assert trace(divided, metric) == pytest.approx(trace(histories["2 x 4"], metric), rel=1e-5)
    run = home / name.replace(" ", "_")
    whole = (run / "checkpoint-12").rename(home / f"{name}-whole")
    resumed = history(home, name, 2, 4, 1, resume_from_checkpoint=run / "checkpoint-6", **options)
    assert trace(resumed, "loss") == trace(divided, "loss")
    weights = "model.safetensors"
    assert (run / "checkpoint-12" / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "undivided, division", [*(("1 x 8", name) for name in list(DIVISIONS)[1:]), tuple(PAIR_DIVISIONS)]
)
def test_divided_rows_give_the_same_curve(runs, undivided, division):
    _, histories = runs
    whole, divided = histories[undivided], histories[division]
    assert [entry["step"] for entry in whole] == [entry["step"] for entry in divided]
    # All that is exact says that masks and samples are the same; the rest differs by the order of additions.
    for name in ("replaced_share", "span_replaced_share", "generator_accuracy_baseline"):
        assert trace(divided, name) == trace(whole, name) != []
        assert trace(divided, f"eval_{name}") == trace(whole, f"eval_{name}") != []
    largest = 0.0
    for loss in ("loss", "mlm_loss", "sbgo_loss", "rtd_loss", "sbpo_loss", "grad_norm"):
        for name in (loss, f"eval_{loss}") if loss != "grad_norm" else (loss,):
            expected = trace(whole, name)
            assert trace(divided, name) == pytest.approx(expected, rel=1e-5) and len(expected) in (2, 3, 12, 13)
            largest = max(largest, *(abs(a / b - 1) for a, b in zip(trace(divided, name), expected, strict=True)))
    print(f"{division} beside {undivided}: largest relative difference {largest:.1e}")


@pytest.mark.slow
def test_a_sharded_model_is_saved_whole_with_its_code(runs):
    home, _ = runs
    sharded, whole = home / "2_x_4,_sharded", home / "2_x_4"
    names, expected = ({path.name for path in folder.iterdir()} for folder in (sharded, whole))
    assert names == expected - {SAMPLES}  # which asks for the whole model
    assert (sharded / "config.json").read_text() == (whole / "config.json").read_text()
    weights, expected = (load_file(folder / "model.safetensors") for folder in (sharded, whole))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.allclose(weight, expected[name], rtol=1e-3, atol=1e-6), name


def run_two_processes(output_dir, what):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(HERE / "two_processes.py"), str(output_dir), what]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_rows_that_fill_up_the_last_batches_are_not_counted(tokenizer, tmp_path):
    output = run_two_processes(tmp_path, "evaluation")
    metrics = json.loads(re.search(r"metrics: (\{.*\})", output)[1])
    trainer = make_trainer(tokenizer, tmp_path, per_device_eval_batch_size=4)
    trainer.eval_dataset = rows(12)
    alone = trainer.evaluate()
    for name in ("eval_loss", "eval_mlm_loss", "eval_discriminator_auc", "eval_generator_accuracy_baseline"):
        assert metrics[name] == pytest.approx(alone[name], rel=1e-5), name


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    output = run_two_processes(tmp_path, "signal")  # in step 3; the other process learns of it one step later
    for process in (0, 1):
        assert f"process {process}: Stopped by SIGTERM after step 4 of 6." in output
    assert damage(tmp_path / "checkpoint-4") is None


@pytest.mark.slow
def test_a_disk_that_fails_one_process_keeps_none_waiting(tmp_path):
    output = run_two_processes(tmp_path, "disk")
    assert re.search(r"checkpoint-4 could not be written \(.*No space left on device\)", output)
    assert "could not be written (another process failed)" in output
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-6"}
    assert damage(tmp_path / "checkpoint-6") is None


@pytest.mark.parametrize("script", [run_pretraining, run_finetuning])
@pytest.mark.parametrize("error", [None, InputError("refused")])
def test_a_script_takes_the_connection_of_its_processes_down_itself(script, error, tmp_path, monkeypatch):
    def run(arguments):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
        if error is not None:
            raise error

    monkeypatch.setattr(script, "run", run)
    with nullcontext() if error is None else pytest.raises(SystemExit):
        script.main([])
    assert not dist.is_initialized()
