"""How the processes of a run end: together, and at a signal only when their step is done and kept."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from transformers import TrainerCallback

STOPS = (signal.SIGTERM, signal.SIGINT)  # what a scheduler sends, and Ctrl-C
ECHO = 2.0  # seconds: who signals a launcher's whole group is heard twice, for the launcher passes it on


class InterruptedRun(RuntimeError):
    """Training was stopped by a signal, after a last checkpoint.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C: finish the step or the evaluation, write a checkpoint, stop. A second signal ends the
    process at once."""

    def __init__(self, trainer: Any):  # a CheckpointingTrainer, whose `stopped_by` is set
        self.trainer = trainer
        self.group = None

    @contextmanager
    def listening(self):
        """Inside, the signals are noted; outside, whoever handled them before does."""
        self.trainer.stopped_by, self.owner, self.stopped_at = None, os.getpid(), 0.0
        self.is_agreed = False  # among the processes, of which one may have had the signal before the others
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python leaves signals to it alone
            handlers = {number: signal.signal(number, self.note) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self.group is not None:  # its threads would outlive the interpreter
                dist.destroy_process_group(self.group)
                self.group = None

    def note(self, number, frame):
        if os.getpid() == self.owner and self.trainer.stopped_by is None:
            self.trainer.stopped_by, self.stopped_at = number, time.monotonic()
        elif os.getpid() != self.owner or time.monotonic() > self.stopped_at + ECHO:
            # A process that was forked off and inherits the handler ends at once, and so does all at a second signal.
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1 and self.group is None:
            self.group = dist.new_group(backend="gloo")  # a word between the hosts makes no device wait

    def on_evaluate(self, args, state, control, **kwargs):
        if self.trainer.is_in_train:
            self.on_step_end(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        number = self.trainer.stopped_by or 0
        if args.world_size > 1:
            numbers = torch.tensor(number)
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self.group)
            number = int(numbers)
        if number:
            self.trainer.stopped_by, self.is_agreed = number, True
            control.should_training_stop = control.should_save = True


def ignore_stops(worker: int, then: Callable[[int], None] | None = None) -> None:
    """Let a data worker outlive the signals of `STOPS`, which a launcher sends to all processes of a run: its batches
    are wanted until the last checkpoint is written. It ends with the process that it works for, and at its word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it: a worker ends at the first SIGTERM there
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=end_at_owners_word, daemon=True).start()
    if then is not None:
        then(worker)


def end_at_owners_word() -> None:
    """Wait for the SIGTERM by which a process ends its workers; others' only pass. To ignore them all would keep the
    owner from ending: at its exit it waits for the workers that are left, those of a failed run for instance."""
    owner = multiprocessing.parent_process()  # `os.getppid()` may be the server that forks for it
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (owner and owner.pid):
        pass
    os._exit(0)


@contextmanager
def processes_end_together() -> Iterator[None]:
    """Around a script: its processes wait for each other when it is done, and take their connection down themselves.

    Left to the interpreter's exit, that may abort a process, and its launcher then kills the others at whatever they
    still write.
    """
    try:
        yield
        if is_connected():
            PartialState().wait_for_everyone()
    finally:
        if is_connected():
            dist.destroy_process_group()


def is_connected() -> bool:
    """Whether this process is one of several, and can talk to the others."""
    return dist.is_available() and dist.is_initialized()
