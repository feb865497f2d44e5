"""End the processes of a run together, and on a signal only after the current step is saved."""

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

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # from a scheduler, and from Ctrl-C
# A launcher forwards a signal to its processes. If you signal the whole group, each of them gets it twice.
REPEATED_WITHIN = 2.0  # seconds


class InterruptedRun(RuntimeError):
    """A signal, whose number is `signal`, stopped training after a last checkpoint."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C, finishes the step or the evaluation, saves a checkpoint and stops. A second signal ends
    the process immediately.

    With several processes, all stop after the same step, at most one step later than a single process would.
    """

    def __init__(self, trainer: Any):  # a CheckpointingTrainer, whose `stopped_by` this sets
        self.trainer = trainer
        self.group = None
        self.question: tuple[torch.Tensor, Any] | None = None
        self.is_agreed = False  # one process may get the signal before the others

    @contextmanager
    def listening(self):
        """Note signals inside the block. Outside, their previous handlers are in force."""
        self.trainer.stopped_by, self.owner, self.stopped_at = None, os.getpid(), 0.0
        self.is_agreed = False
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
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
            # A second signal ends any process. A forked process inherits the handler, and ends at the first signal.
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)

    # --- agreement among processes --------------------------------------------------------------------------------

    def ask(self) -> tuple[torch.Tensor, Any]:
        """Start to find out whether any process has got a signal, without waiting for the others."""
        number = torch.tensor(self.trainer.stopped_by or 0)
        return number, dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.group, async_op=True)

    def answer(self) -> int:
        """Return the number of the signal that any process had got at the last `ask`, or 0."""
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
            self.group = dist.new_group(backend="gloo")  # on the CPU, so that no device has to wait

    def on_step_end(self, args, state, control, **kwargs):
        if self.group is None:
            self.stop_if_heard(self.trainer.stopped_by or 0, control)
            return
        # The answer to the previous step's question has arrived by now. Waiting for this step's would hold up all
        # processes for the slowest.
        number, self.question = self.answer(), self.ask()
        self.stop_if_heard(number, control)

    def on_evaluate(self, args, state, control, **kwargs):
        if not self.trainer.is_in_train:
            return
        self.on_step_end(args, state, control)
        self.stop_if_heard(self.answer(), control)  # an evaluation may be long, so ask again

    def on_epoch_end(self, args, state, control, **kwargs):
        """Skip what is due at the end of an epoch if the run stops within it. Save if the step did not: with
        `save_strategy` "best" an evaluation overrules a callback."""
        if self.is_agreed and state.global_step < state.max_steps:
            control.should_evaluate = control.should_log = False
            control.should_save = not self.trainer.has_saved(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.answer()


def ignore_stop_signals(worker: int, then: Callable[[int], None] | None = None) -> None:
    """Let a data worker outlive the `STOP_SIGNALS`, which a launcher sends to all processes of a run.

    Its batches are needed until the last checkpoint is saved. It ends with its parent, or when its parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it, and a worker ends at the first SIGTERM there
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=exit_when_parent_says, daemon=True).start()
    if then is not None:
        then(worker)


def exit_when_parent_says() -> None:
    """Exit only on a SIGTERM from the parent; ignore all others.

    A worker that ignored all of them would keep its parent from ending, which sends one at exit and waits."""
    parent = multiprocessing.parent_process()  # `os.getppid()` may be a fork server
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (parent and parent.pid):
        pass
    os._exit(0)


@contextmanager
def processes_end_together() -> Iterator[None]:
    """Make a script's processes wait for each other at its end, and close their connection.

    If the interpreter closed it at exit, a process might abort, and the launcher would kill the others while they
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
    """Return whether this process is one of several and connected to the others."""
    return dist.is_available() and dist.is_initialized()
