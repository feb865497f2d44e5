"""A Trainer whose checkpoints are whole or not there at all, and from which a run goes on as if never interrupted."""

import logging
import math
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from span_electra.common.attributes import replaced_attribute
from span_electra.common.errors import one_line
from span_electra.common.output_folder import move_into_place, sync
from span_electra.common.run_files import checkpoints
from span_electra.training.checkpoint_folders import ASIDE, find_checkpoint, rotate, seal, time_written
from span_electra.training.resuming import run_facts
from span_electra.training.shutdown import InterruptedRun, StopOnSignal, ignore_stops

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
OPTIMIZER_SETTINGS = ("weight_decay", "betas", "eps")


class SaveError(RuntimeError):
    """A checkpoint could not be written; those before it are as they were."""


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
        if condition:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

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


def is_write_error(error: Exception) -> bool:
    """Whether a full disk, or another trouble with it, is behind `error`, which every library says in its own way."""
    by_torch = ("PytorchStreamWriter", "inline_container", "iostream error")  # RuntimeErrors, as so much else
    return isinstance(error, (OSError, SafetensorError)) or any(text in str(error) for text in by_torch)


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
