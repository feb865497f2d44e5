"""Where a script runs: in this process, in its place, or in several under a launcher."""

import os
import subprocess
import sys

import pytest
import torch

from span_electra.cli import launch as launching
from span_electra.cli.launch import LAUNCHERS_SET, launch, split
from span_electra.common.command_line import option_types
from span_electra.common.errors import InputError
from span_electra.pretraining.arguments import GROUPS

SCRIPT = "span_electra.run_pretraining"


class Replaced(Exception):
    """Raised where this process would become another one."""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What a launch leads to: (how, command or arguments, environment)."""
    found = []

    def replace(program, command, environment):
        found.append(("replaced", command, environment))
        raise Replaced

    def several(parsed):
        found.append(("several", parsed.training_script_args, {"processes": parsed.num_processes}))

    for name in (*LAUNCHERS_SET, "OMP_NUM_THREADS", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(launching, "default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(os, "execvpe", replace)
    monkeypatch.setattr(launching, "multi_gpu_launcher", several)
    monkeypatch.setattr(f"{SCRIPT}.main", lambda arguments: found.append(("here", arguments, None)))
    return found


def test_options_of_accelerate_are_told_from_the_scripts():
    arguments = ["small.yaml", "--num_processes", "2", "--debug", "--max_steps=3", "--multi-gpu", "--bf16", "true"]
    arguments += ["--config_file=a.yaml", "--gradient_accumulation_steps", "4", "--config_overrides", '{"a": 1}']
    for_accelerate, own = split(arguments, {*option_types(GROUPS)})
    assert for_accelerate == ["--num_processes", "2", "--multi-gpu", "--config_file=a.yaml"]
    assert own == [word for word in arguments if word not in for_accelerate]


@pytest.mark.parametrize("word", ["--module", "-m", "--no_python", "--help"])
def test_what_would_start_something_else_is_not_passed_on(word):
    assert split([word], set()) == ([], [word])


def test_a_single_process_runs_here(started):
    launch(SCRIPT, GROUPS, ["demo.yaml", "--seed", "1"])
    assert started == [("here", ["demo.yaml", "--seed", "1"], None)]
    assert "OMP_NUM_THREADS" not in os.environ  # so it has all cores


def test_a_process_that_a_launcher_started_runs_here(started, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    launch(SCRIPT, GROUPS, ["--seed", "1"])
    assert started == [("here", ["--seed", "1"], None)]
    with pytest.raises(InputError, match=r"--num_processes: a launcher has already started this process"):
        launch(SCRIPT, GROUPS, ["--num_processes", "2"])


def test_a_single_process_with_options_of_accelerate_takes_this_ones_place(started, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(Replaced):
        launch(SCRIPT, GROUPS, ["demo.yaml", "--mixed_precision", "bf16", "--seed", "1"])
    ((_, command, environment),) = started
    assert command[1:] == ["-m", SCRIPT, "demo.yaml", "--seed", "1"]
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert environment["OMP_NUM_THREADS"] == "7"  # all cores, and not accelerate's one


def test_a_configuration_of_accelerate_is_followed(started, tmp_path):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\nmixed_precision: bf16\n"
    )
    with pytest.raises(Replaced):
        launch(SCRIPT, GROUPS, ["--config_file", str(config), "--seed", "1"])
    assert started[0][2]["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_several_processes_start_on_a_cpu_too(started):
    launch(SCRIPT, GROUPS, ["--num_processes", "2", "--seed", "1"])
    assert started == [("several", ["--seed", "1"], {"processes": 2})]
    assert os.environ["ACCELERATE_USE_CPU"] == "true"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--multi_gpu", "--num_processes", "1"], "You need to use at least 2 processes"),
        (["--use_deepspeed"], "DeepSpeed is not installed"),
        (["--use_fsdp"], "there is no process to start; give --num_processes"),
    ],
)
def test_a_refusal_of_accelerate_is_one_line(started, monkeypatch, options, message):
    def none(parsed):
        raise AssertionError

    monkeypatch.setattr("accelerate.commands.launch.multi_gpu_launcher", none)  # as torchrun does with 0 processes
    monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: False)
    with pytest.raises(InputError, match=f"^accelerate launch: {message}"):
        launch(SCRIPT, GROUPS, options)


def test_no_processes_are_refused(started):
    with pytest.raises(InputError, match="--num_processes is 0; it must be at least 1"):
        launch(SCRIPT, GROUPS, ["--num_processes", "0"])
    assert started == []


def test_a_wrong_value_does_not_print_all_options_of_accelerate(started, capsys):
    with pytest.raises(SystemExit):
        launch(SCRIPT, GROUPS, ["--num_processes", "x"])
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_the_exit_status_is_that_of_the_processes(tmp_path):
    command = [sys.executable, "-m", "span_electra.cli.main", "pretrain", "--num_processes", "2"]
    command += ["--config", "tiny", "--train_file", "missing.txt", "--tokenizer", "missing", "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "error: The tokenizer missing" in done.stderr
    assert "Traceback" not in done.stderr
