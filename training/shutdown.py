"""How the processes of a run end: together, and on a signal only after the current step is saved."""

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

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # what a scheduler sends, and Ctrl-C
# A launcher passes a signal on to its processes. If you signal the whole group, each of them gets it twice.
REPEATED_WITHIN = 2.0  # seconds


class InterruptedRun(RuntimeError):
    """A signal stopped training, after a last checkpoint.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C, finishes the step or the evaluation, saves a checkpoint and stops. A second signal ends
    the process at once.

    With several processes, all stop after the same step, at most one step later than a single process would.
    """

    def __init__(self, trainer: Any):  # a CheckpointingTrainer, whose `stopped_by` is set
        self.trainer = trainer
        self.group = None
        self.question: tuple[torch.Tensor, Any] | None = None
        self.is_agreed = False  # among the processes: one may get the signal before the others

    @contextmanager
    def listening(self):
        """Note the signals inside the block; leave them to their previous handlers outside."""
        self.trainer.stopped_by, self.owner, self.stopped_at = None, os.getpid(), 0.0
        self.is_agreed = False
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            handlers = {number: signal.signal(number, self.note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.question = None
            if self.group is not None:  # its threads would outlive the interpreter
                dist.destroy_process_group(self.group)
                self.group = None

    def note(self, number, frame):
        if os.getpid() == self.owner and self.trainer.stopped_by is None:
            self.trainer.stopped_by, self.stopped_at = number, time.monotonic()
        elif os.getpid() != self.owner or time.monotonic() > self.stopped_at + REPEATED_WITHIN:
            # A second signal ends any process; a forked process, which inherits the handler, ends at the first.
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)

    # --- what the processes have heard ----------------------------------------------------------------------------

    def ask(self) -> tuple[torch.Tensor, Any]:
        """Begin to find out whether any process has heard a signal; do not wait for the others."""
        number = torch.tensor(self.trainer.stopped_by or 0)
        return number, dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.group, async_op=True)

    def answer(self) -> int:
        """The number of the signal that any process had heard at the last `ask`, or 0."""
        if self.question is None:
            return 0
        (number, work), self.question = self.question, None
        work.wait()
        return int(number)

    def stop_if_heard(self, number: int, control) -> None:
        if number:
            self.trainer.stopped_by, self.is_agreed = number, True
            control.should_training_stop = control.should_save = True

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1 and self.group is None:
            self.group = dist.new_group(backend="gloo")  # between the hosts, so that no device has to wait

    def on_step_end(self, args, state, control, **kwargs):
        if self.group is None:
            self.stop_if_heard(self.trainer.stopped_by or 0, control)
            return
        # The answer to the question of one step ago is there by now; that of this step would keep all waiting for
        # the slowest.
        number, self.question = self.answer(), self.ask()
        self.stop_if_heard(number, control)

    def on_evaluate(self, args, state, control, **kwargs):
        if not self.trainer.is_in_train:
            return
        self.on_step_end(args, state, control)
        self.stop_if_heard(self.answer(), control)  # an evaluation may take long: learn what was heard meanwhile

    def on_epoch_end(self, args, state, control, **kwargs):
        """Leave out what is due at the end of an epoch when a run stops inside one. Save if the step did not: with
        `save_strategy` "best" an evaluation overrules what a callback asks for."""
        if self.is_agreed and state.global_step < state.max_steps:
            control.should_evaluate = control.should_log = False
            control.should_save = not self.trainer.has_saved(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.answer()


def ignore_stop_signals(worker: int, then: Callable[[int], None] | None = None) -> None:
    """Let a data worker outlive the signals of `STOP_SIGNALS`, which a launcher sends to all processes of a run: its
    batches are needed until the last checkpoint is saved. It ends with the process that it works for, or when that
    process tells it to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it: there, a worker ends at the first SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=exit_when_parent_says, daemon=True).start()
    if then is not None:
        then(worker)


def exit_when_parent_says() -> None:
    """Exit only on a SIGTERM from the parent; ignore all others.

    To ignore them all would keep the parent from ending: at its exit it waits for the workers that are left, such as
    those of a failed run."""
    parent = multiprocessing.parent_process()  # `os.getppid()` may be the server that forks for it
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (parent and parent.pid):
        pass
    os._exit(0)


@contextmanager
def processes_end_together() -> Iterator[None]:
    """Make a script's processes wait for each other at its end, and close their connection themselves.

    If that were left to the interpreter's exit, a process might abort, and its launcher would kill the others while
    they still write.
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
