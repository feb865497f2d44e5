"""Run a script in this process if one is enough, and under `accelerate launch` otherwise."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import islice

import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.config import default_config_file
from accelerate.commands.launch import launch_command, launch_command_parser, multi_gpu_launcher
from accelerate.utils import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from span_electra.common.attributes import replaced_attribute
from span_electra.common.command_line import option_types
from span_electra.common.errors import InputError, one_line

NOT_PASSED_ON = {"h", "help", "m", "module", "no_python"}  # options of accelerate that would start something else
# What tells a process that it is one of several, or that `accelerate launch` has settled how it runs.
LAUNCHERS_SET = (
    *("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    "ACCELERATE_MIXED_PRECISION",
)


def launch(script: str, groups: Sequence[type], arguments: Sequence[str]) -> None:
    """Run a script's `main`, in as many processes as the options, accelerate's configuration and the GPUs ask for.

    Args:
        script: The module.
        groups: Dataclasses whose fields are the script's options.
        arguments: The script's options and accelerate's, in any order. A name that both have is the script's.

    Raises:
        InputError: accelerate refuses its options, or another launcher has started this process.
    """
    for_accelerate, own = split(arguments, {*option_types(groups)})
    is_launched = any(name in os.environ for name in LAUNCHERS_SET)
    asks_for_more = for_accelerate or os.path.isfile(default_config_file) or torch.accelerator.device_count() > 1
    if is_launched and for_accelerate:
        raise InputError(
            f"{for_accelerate[0]}: a launcher has already started this process; give it to that launcher, or leave it "
            "out."
        )
    if is_launched or not asks_for_more:
        import_module(script).main(own)
    else:
        under_accelerate([*for_accelerate, "--module", script, *own])


def split(arguments: Sequence[str], own: set[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into the options of `accelerate launch` and those of a script, whose names are `own`."""
    # argparse has no public way to ask for a parser's options.
    actions = launch_command_parser()._option_string_actions
    for_accelerate: list[str] = []
    for_script: list[str] = []
    words = iter(arguments)
    for word in words:
        name, is_joined, _ = word.partition("=")
        if name not in actions or name.lstrip("-").replace("-", "_") in own | NOT_PASSED_ON:
            for_script.append(word)
        else:
            takes_next = not is_joined and actions[name].nargs != 0
            for_accelerate += [word, *islice(words, int(takes_next))]
    return for_accelerate, for_script


def under_accelerate(arguments: list[str]) -> None:
    parser = launch_command_parser()
    parser.usage = argparse.SUPPRESS  # of an error, it would fill the screen
    parsed = parser.parse_args(arguments)
    if parsed.num_processes is not None and parsed.num_processes < 1:
        raise InputError(f"--num_processes is {parsed.num_processes}; it must be at least 1.")
    if parsed.cpu or not torch.accelerator.is_available():  # accelerate would give each process one thread
        threads = max(1, torch.get_num_threads() // (parsed.num_processes or 1))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        with replaced_attribute(accelerate_launch, "simple_launcher", without_gpus):
            launch_command(parsed)
    except ChildFailedError as error:  # whose process has said why
        _, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except (AssertionError, ImportError, OSError, ValueError) as error:
        reason = one_line(error) if str(error) else "there is no process to start; give --num_processes"
        raise InputError(f"accelerate launch: {reason}.") from error


def without_gpus(parsed) -> None:
    """Replace this process by the one that accelerate would start, so that signals reach it.

    Of several processes on a CPU accelerate would start only one, so torchrun starts them."""
    if parsed.num_processes > 1 and parsed.mpirun_hostfile is None:
        os.environ["ACCELERATE_USE_CPU"] = "true"
        multi_gpu_launcher(parsed)
        return
    command, environment = prepare_simple_launcher_cmd_env(parsed)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)
