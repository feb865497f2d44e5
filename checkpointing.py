"""Checkpoints that are whole or not there at all, and runs that end where they are told to without losing a step."""

import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import logging

from span_electra.errors import InputError, one_line
from span_electra.span_sampling import MASKING_VERSION

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"  # names every file of a checkpoint, with its size and its digest
ASIDE = ".unfinished"  # the folder, in a run's, for what is being written or removed
CHECKPOINT_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")  # and no other: copies put aside are their owner's
TRAINER_STATE = "trainer_state.json"
OPTIMIZER_SETTINGS = ("weight_decay", "betas", "eps")
STOPS = (signal.SIGTERM, signal.SIGINT)  # what a scheduler sends, and Ctrl-C
ECHO = 2.0  # seconds: who signals a launcher's whole group is heard twice, for the launcher passes it on


class SaveError(RuntimeError):
    """A checkpoint could not be written; those before it are as they were."""


class InterruptedRun(RuntimeError):
    """Training was stopped by a signal, after a last checkpoint.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


# --- folders ------------------------------------------------------------------------------------------------------


def seal(folder: Path, after: float = 0.0, **facts) -> None:
    """See every file of `folder` to the disk, and then a manifest of them; `facts` are written beside.

    Args:
        after: the time of the checkpoint before, in seconds since 1970. This one's is later, whatever the clock says.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.name != MANIFEST):
        if path.is_file() and path.name != TRAINING_ARGS_NAME:  # never read, and not in what the Hub gets
            files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        sync(path)
    manifest = {"files": files, "written": max(time.time(), math.nextafter(after, math.inf)), **facts}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def damage(folder: Path, digests: bool = True) -> str | None:
    """What is wrong with a checkpoint, None if it is whole. Nothing in it is loaded; without `digests`, files are only
    looked for."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it was never finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    for name, written in files.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != written["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes of {written['bytes']:,}"
            if digests and file_digest(path) != written["sha256"]:
                return f"{name} is not what was written (another SHA-256)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def sealed_facts(folder: Path) -> dict:
    """What `seal` was given beside the files."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {name: value for name, value in manifest.items() if name not in ("files", "written")}


def time_written(folder: Path) -> float:
    """When a checkpoint was sealed, in seconds since 1970: 0 before manifests said so, infinity for one that cannot be
    read, so that it is looked at, and named as damaged, first."""
    try:
        return float(json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("written", 0))
    except (OSError, ValueError, AttributeError, TypeError):
        return math.inf


def find_checkpoint(folder: Path, resume: str) -> Path:
    """The checkpoint that `resume` names: a path, or "true" for the newest in `folder` that is whole.

    Raises:
        InputError: there is none, or the one that is named is damaged.
    """
    if resume.lower() != "true":
        if problem := damage(Path(resume)):
            raise InputError(
                f"--resume_from_checkpoint {resume}: not a checkpoint to go on from, {problem}; give another "
                "checkpoint-N folder of a run, or true for the newest in --output_dir that is whole."
            )
        return Path(resume)
    passed_over: list[str] = []
    # Not the highest number: after a return to an earlier one, those that were written before it lead elsewhere.
    for checkpoint in sorted(checkpoints(folder), key=lambda path: (time_written(path), step_of(path)), reverse=True):
        if not (problem := damage(checkpoint)):
            for damaged in passed_over:
                logger.warning(f"Passed over {damaged}.")
            return checkpoint
        passed_over.append(f"{checkpoint.name}: {problem}")
    found = f"there is none in {folder}"
    if passed_over:
        found = f"none of those in {folder} is whole ({'; '.join(passed_over)})"
    raise InputError(
        f"--resume_from_checkpoint true: no checkpoint to go on from, {found}; to start anew, leave it out and give "
        "another --output_dir, or --overwrite_output_dir."
    )


def without_config(folder: str | Path) -> str:
    """What to say of a folder from which a model is to be loaded, and which holds none."""
    newest = max(checkpoints(Path(folder)), key=step_of, default=None)
    hint = f"; a run that was stopped keeps its models in folders of their own: give {newest}" if newest else ""
    return f"has no config.json{hint}."


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of the run in `folder`, whole or not."""
    return [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if CHECKPOINT_NAME.fullmatch(path.name)]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def rotate(run: Path, limit: int | None, kept: set[str]) -> None:
    """Remove a run's oldest checkpoints until `limit` are left, torn ones first; those named in `kept` stay."""
    if not limit or limit < 0:
        return
    found = sorted(
        checkpoints(run), key=lambda path: (damage(path, digests=False) is None, time_written(path), step_of(path))
    )
    excess = max(0, len(found) - max(limit, len(kept)))
    for checkpoint in [path for path in found if path.name not in kept][:excess]:
        (run / ASIDE).mkdir(exist_ok=True)
        aside = checkpoint.rename(run / ASIDE / checkpoint.name)  # killed in between, none is left that is torn
        remove(aside)
        (run / ASIDE).rmdir()


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, which leaves what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def file_digest(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(written: Path, place: Path) -> None:
    """Give a finished folder its name in one step."""
    # A damaged one may be there, or one of after the checkpoint that this run went on from.
    if place.exists() or place.is_symlink():
        remove(place)
    written.rename(place)
    sync(place.parent)


def run_facts(args: TrainingArguments, dataset) -> dict:
    """What a run that resumes must have in common with the one it resumes, for the rows to come to be the same, and
    for the optimizer's state to fit."""
    rows_per_process = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return {
        "rows": len(dataset) if has_length(dataset) else None,
        "text": sample_digest(dataset) if has_length(dataset) else None,
        "rows_per_update": rows_per_process * args.world_size,
        "train_sampling_strategy": args.train_sampling_strategy,
        "dataloader_drop_last": args.dataloader_drop_last,
        "seed": args.seed,
        "data_seed": args.data_seed,
        "optim": args.to_dict()["optim"],
        "masking_version": MASKING_VERSION,
    }


def sample_digest(dataset, count: int = 16) -> str:
    """A digest of the ids in some of its rows, by which other text of as many rows is told apart."""
    sha256 = hashlib.sha256()
    for index in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
        sha256.update(np.asarray(dataset[index]["input_ids"], dtype=np.int64).tobytes())
    return sha256.hexdigest()[:12]


# --- the Trainer --------------------------------------------------------------------------------------------------


class CheckpointingTrainer(Trainer):
    """
    A Trainer whose checkpoints appear whole or not at all, and hold all that an exact resumption takes.

    Everything is written to a folder beside, seen to the disk and renamed; only then an older checkpoint goes. What
    cannot be written leaves those before as they are: the run goes on, or stops if `args.stop_on_save_error`.

    Attributes:
        resumable_tensors: Accumulators that a resumed run goes on with, by name; each process has its own.
        stopped_by: The signal by which training was stopped, or None.
        last_checkpoint: The last one that this run wrote or went on from, or None.
        facts: What else than `run_facts` a run that resumes must have in common with this one, by name.
    """

    def __init__(self, *args, **kwargs):
        self.resumable_tensors: dict[str, torch.Tensor] = {}
        self.stopped_by: int | None = None
        self.last_checkpoint: Path | None = None
        self.facts: dict = {}
        self._writes_aside = False
        super().__init__(*args, **kwargs)
        self.stop_on_signal = StopOnSignal(self)
        self.add_callback(self.stop_on_signal)
        self.add_callback(SettingsOfThisRun())

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As [`~transformers.Trainer.train`]; True resumes from the newest checkpoint that is whole.

        Raises:
            InputError: there is none.
            InterruptedRun: SIGTERM or Ctrl-C came before the last step.
            SaveError: a checkpoint could not be written, and `args.stop_on_save_error` is set.
        """
        run = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(run / ASIDE, ignore_errors=True)  # of a run that was killed
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(find_checkpoint(run, "true"))
        self.last_checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        # The library's last clean-up would take copies that somebody put aside for checkpoints of the run.
        own = replaced_attribute(transformers.trainer, "sort_checkpoints", lambda output_dir, **_: checkpoints(run))
        with self.stop_on_signal.listening(), own:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.stopped_by is not None and self.state.global_step < self.state.max_steps:
            raise InterruptedRun(self._interruption(signal.Signals(self.stopped_by).name), self.stopped_by)
        return output

    def _interruption(self, name: str) -> str:
        """What a signal of that name stopped, and what is left of it."""
        step, last = self.state.global_step, self.last_checkpoint
        stopped = f"Stopped by {name} after step {step:,} of {self.state.max_steps:,}."
        if last is None:
            return f"{stopped} No checkpoint was written, so the run begins anew."
        is_of_this_step = last.name == f"{PREFIX_CHECKPOINT_DIR}-{step}"
        kept = "Nothing is lost" if is_of_this_step else f"Of the steps after {last.name} nothing is kept"
        return f"{stopped} {kept}: give the same command with --resume_from_checkpoint true to go on from {last.name}."

    def _issue_warnings_after_load(self, load_result):
        """Warn of what a checkpoint lacks: a tied tensor, which is stored under its source's name, is not missing."""
        missing = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)  # type: ignore[arg-type]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=sorted(missing)))

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # or a finished run, resumed, would take one step more
            return
        super()._run_epoch(*args, **kwargs)

    def _get_dataloader(self, *args, **kwargs):
        dataloader = super()._get_dataloader(*args, **kwargs)
        loader = getattr(dataloader, "base_dataloader", dataloader)  # in what Accelerate makes of it
        loader.worker_init_fn = partial(ignore_stops, then=loader.worker_init_fn)
        # An iterator draws a number for its workers: from training's generator, one more after a resumption.
        loader.generator = torch.Generator()
        return dataloader

    def _load_optimizer_and_scheduler(self, checkpoint):
        """As the library's, but the rate and the other settings are this run's; a checkpoint's is the place in the
        schedule, and what the optimizer has gathered."""
        settings = [{name: group.get(name) for name in OPTIMIZER_SETTINGS} for group in self.optimizer.param_groups]
        schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)  # in what Accelerate makes of it
        rates = list(getattr(schedule, "base_lrs", []))
        super()._load_optimizer_and_scheduler(checkpoint)
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update({name: value for name, value in own.items() if value is not None})
        if checkpoint is not None and isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            schedule.base_lrs = rates
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            for group, rate, factor in zip(self.optimizer.param_groups, rates, factors, strict=True):
                group["initial_lr"], group["lr"] = rate, rate * factor
            schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]  # what is logged

    def _determine_best_metric(self, *args, **kwargs):
        # With `save_strategy` "best" the answer also decides whether a checkpoint is written: a signal's always is.
        return super()._determine_best_metric(*args, **kwargs) or self.stop_on_signal.is_agreed

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, ASIDE) if self._writes_aside else folder

    def _save_checkpoint(self, model, trial):
        run = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        problem = self._write_aside(model, trial, run, name)
        if self._any_process(problem is not None):
            self._save_failed(run / name, problem)
            return
        self.last_checkpoint = run / name
        if self.args.push_to_hub:
            try:
                self._push_from_checkpoint(str(run / name))
            except Exception as error:  # it copies the weights
                if not is_write_error(error):
                    raise
                logger.error(f"{run / name} could not be made ready to be sent ({one_line(error)}). Training goes on.")
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate(run, self.args.save_total_limit, {name, *([Path(best).name] if best else [])})

    def _write_aside(self, model, trial, run: Path, name: str) -> Exception | None:
        """Write the checkpoint and give it its name; return what kept this process from it."""
        best, state, problem = self.state.best_global_step, self.state, None
        # The library looks for the best checkpoint where it writes, behind a barrier that a failure would not reach.
        state.best_global_step = None
        self._writes_aside = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not is_write_error(error):
                raise
            problem = error
        finally:
            self._writes_aside = False
            state.best_global_step = best
        if self._any_process(problem is not None) or not self.args.should_save:
            return problem
        try:
            best_name = f"{PREFIX_CHECKPOINT_DIR}-{best}"
            if best and (best_name == name or (run / best_name).is_dir()):
                state.best_model_checkpoint = str(run / best_name)
            state.save_to_json(str(run / ASIDE / name / TRAINER_STATE))
            earlier = [seconds for seconds in map(time_written, checkpoints(run)) if seconds < math.inf]
            facts = run_facts(self.args, self.train_dataset) | self.facts
            seal(run / ASIDE / name, max(earlier, default=0.0), **facts)
            move_into_place(run / ASIDE / name, run / name)
            (run / ASIDE).rmdir()
        except OSError as error:
            return error
        return None

    def _save_failed(self, checkpoint: Path, problem: Exception | None) -> None:
        shutil.rmtree(checkpoint.parent / ASIDE, ignore_errors=True)
        reason = "another process failed" if problem is None else one_line(problem)
        message = (
            f"{checkpoint} could not be written ({reason}). What was written of it is removed; the checkpoints before "
            "it are as they were. Free some space, or write to another disk."
        )
        if getattr(self.args, "stop_on_save_error", False):  # which the Trainer's own arguments lack
            raise SaveError(
                f"{message} Stopped, as --stop_on_save_error asks; resume with --resume_from_checkpoint true."
            )
        logger.error(f"{message} Training goes on; --stop_on_save_error stops it instead.")

    def _any_process(self, condition: bool) -> bool:
        """Whether it holds on any of the processes; all of them must ask."""
        if self.args.world_size == 1:
            return condition
        return bool(self.accelerator.reduce(torch.tensor(float(condition), device=self.args.device)).item())

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self._writes_aside:  # it is sent under the name that it will have
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir=None, state_dict=None):
        if self._writes_aside or not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        # The model of an earlier stop, say, stays whole until this one is.
        place = Path(self.args.output_dir if output_dir is None else output_dir)
        aside = place / ASIDE
        super()._save(str(aside), state_dict)
        for path in sorted(aside.iterdir()):
            sync(path)
            path.replace(place / path.name)
        aside.rmdir()
        sync(place)

    # Each process saves and restores its random state; its accumulators go with it.

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if self.resumable_tensors:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.resumable_tensors.items()}
            save_file(tensors, os.path.join(output_dir, accumulators_name(self.args.process_index)))

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        for tensor in self.resumable_tensors.values():
            tensor.zero_()
        # Sums all of them. The first process takes those over whose processes are no more.
        index, count = self.args.process_index, self.args.world_size
        for path in Path(checkpoint).glob(accumulators_name("*")):
            writer = int(path.stem.rpartition("_")[2])
            if writer == index or (index == 0 and writer >= count):
                for name, tensor in load_file(path).items():
                    self.resumable_tensors[name].add_(tensor.to(self.resumable_tensors[name].device))


@contextmanager
def replaced_attribute(owner, name: str, value):
    """`owner.name` is `value` inside, and what it was before outside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def is_write_error(error: Exception) -> bool:
    """Whether a full disk, or another trouble with it, is behind `error`, which every library says in its own way."""
    by_torch = ("PytorchStreamWriter", "inline_container", "iostream error")  # RuntimeErrors, as so much else
    return isinstance(error, (OSError, SafetensorError)) or any(text in str(error) for text in by_torch)


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


def accumulators_name(process_index: int | str) -> str:
    return f"accumulators_{process_index}.safetensors"


class SettingsOfThisRun(TrainerCallback):
    """Puts right what a resumed state says of the run that wrote it: how often it logged, evaluated and saved, and
    where its folder was."""

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)


class StopOnSignal(TrainerCallback):
    """On SIGTERM or Ctrl-C: finish the step or the evaluation, write a checkpoint, stop. A second signal ends the
    process at once."""

    def __init__(self, trainer: CheckpointingTrainer):
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
