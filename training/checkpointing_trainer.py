"""A Trainer whose checkpoints are whole or absent, and from which a run resumes as if it had never stopped."""

import logging
import math
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from span_electra.common.attributes import replaced_attribute
from span_electra.common.errors import one_line
from span_electra.common.output_folder import move_files_into_place, move_into_place
from span_electra.common.run_files import checkpoints
from span_electra.training.checkpoint_folders import (
    ASIDE,
    MANIFEST,
    copy_code_and_folders,
    find_checkpoint,
    rotate,
    seal,
    time_written,
)
from span_electra.training.private_trainer import PrivateTrainer
from span_electra.training.resuming import check_same_run, parameters_digest, run_facts
from span_electra.training.shutdown import InterruptedRun, StopOnSignal, ignore_stop_signals
from span_electra.training.unsupported import check_weights_are_kept

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
OPTIMIZER_SETTINGS = ("weight_decay", "betas", "eps")


class SaveError(RuntimeError):
    """A checkpoint could not be written; the earlier ones are unharmed."""


class CheckpointingTrainer(PrivateTrainer):
    """
    A Trainer whose checkpoints are whole or absent, and hold everything that an exact resumption needs.

    A checkpoint is written to a separate folder, flushed to the disk and renamed; only then is an older one removed.
    If it cannot be written, the earlier ones stay as they are: the run continues, or stops if
    `args.stop_on_save_error` is set.

    Attributes:
        resumable_tensors: Accumulators that a resumed run continues, by name; each process has its own.
        stopped_by: The signal that stopped training, or None.
        last_checkpoint: The checkpoint that this run saved last, or else resumed from; None if there is none.
        facts: What a run must have in common with one that resumes it, besides `run_facts`, by name.
        sending: The checkpoint that is being uploaded, or None.

    Raises:
        InputError: an option of `args` keeps weights or optimizer states in a form that no checkpoint can hold.
    """

    def __init__(self, *args, **kwargs):
        self.resumable_tensors: dict[str, torch.Tensor] = {}
        self.stopped_by: int | None = None
        self.last_checkpoint: Path | None = None
        self.facts: dict = {}
        self.sending: Path | None = None
        super().__init__(*args, **kwargs)
        self.stop_on_signal = StopOnSignal(self)
        self.add_callback(self.stop_on_signal)
        self.add_callback(SettingsOfThisRun(self))
        self.add_callback(WholeUploads(self))

    def create_accelerator_and_postprocess(self) -> None:
        check_weights_are_kept(self.args)
        super().create_accelerator_and_postprocess()

    # --- training -------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As [`~transformers.Trainer.train`]; True resumes from the newest whole checkpoint.

        Raises:
            InputError: there is no such checkpoint, or it is of another run.
            InterruptedRun: SIGTERM or Ctrl-C came before the last step.
            SaveError: a checkpoint could not be written, and `args.stop_on_save_error` is set.
        """
        run = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(run / ASIDE, ignore_errors=True)  # left by a run that was killed
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(find_checkpoint(run, "true"))
        self.last_checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        # Before FSDP changes names and shapes. The optimizer, too, keeps the parameters of the first call.
        self.facts.setdefault("parameters", parameters_digest(self.model))
        if self.last_checkpoint is not None:
            self.check_resumable(self.last_checkpoint)
            self.load_process_state(self.last_checkpoint)
        hook = self.model.register_load_state_dict_post_hook(forget_tied_keys)
        with self.stop_on_signal.listening():
            try:
                output = self.train_and_rotate(resume_from_checkpoint, *args, **kwargs)
            finally:
                hook.remove()
        if self.stopped_by is not None and self.state.global_step < self.state.max_steps:
            raise InterruptedRun(self.interruption(signal.Signals(self.stopped_by).name), self.stopped_by)
        return output

    def train_and_rotate(self, *args, **kwargs):
        """Train; the library removes no checkpoints, for it would take copies that a user made for the run's."""
        self.most_checkpoints = self.args.save_total_limit
        with replaced_attribute(self.args, "save_total_limit", None):
            return super().train(*args, **kwargs)

    def check_resumable(self, checkpoint: Path) -> None:
        """Refuse to resume from a checkpoint whose run saw other rows, masked them in another way, or trained other
        parameters."""
        if (checkpoint / MANIFEST).is_file():  # the stock Trainer's have none
            check_same_run(checkpoint, run_facts(self.args, self.train_dataset) | self.facts)

    def interruption(self, name: str) -> str:
        """What a signal of that name stopped, and what is kept."""
        step, last = self.state.global_step, self.last_checkpoint
        stopped = f"Stopped by {name} after step {step:,} of {self.state.max_steps:,}."
        if last is None:
            return f"{stopped} No checkpoint was written, so the run starts from the beginning next time."
        kept = "Nothing is lost" if self.has_saved(step) else f"The steps after {last.name} are lost"
        return f"{stopped} {kept}: give the same command with --resume_from_checkpoint true to resume at {last.name}."

    def has_saved(self, step: int) -> bool:
        """Whether the last checkpoint is of that step."""
        return self.last_checkpoint is not None and self.last_checkpoint.name == f"{PREFIX_CHECKPOINT_DIR}-{step}"

    def set_initial_training_values(self, *args, **kwargs):
        """As the library's, but no epoch for a finished run that is resumed: it would take one step more."""
        epochs, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        state = self.last_checkpoint and self.last_checkpoint / TRAINER_STATE
        if state and state.is_file() and TrainerState.load_from_json(str(state)).global_step >= max_steps:
            epochs = 0
        return (epochs, *others, max_steps)

    def create_scheduler(self, *args, **kwargs):
        """As the library's; notes this run's learning rates and settings before a checkpoint replaces them."""
        scheduler = super().create_scheduler(*args, **kwargs)
        groups = self.optimizer.param_groups
        self.own_settings = [{name: group[name] for name in OPTIMIZER_SETTINGS if name in group} for group in groups]
        self.own_rates = list(getattr(self.inner_scheduler(), "base_lrs", []))
        return scheduler

    def inner_scheduler(self):
        return getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)  # in what Accelerate makes of it

    def load_weights(self, checkpoint: Path, load: Callable[[], None]) -> None:
        """Let a model that saves itself in several folders load them as well."""
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "load_checkpoint"):
            model.load_checkpoint(checkpoint)
        else:
            load()

    # --- data workers ---------------------------------------------------------------------------------------------

    def get_train_dataloader(self):
        return outlive_signals(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset=None):
        return outlive_signals(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        return outlive_signals(super().get_test_dataloader(test_dataset))

    # --- saving ---------------------------------------------------------------------------------------------------

    def save_checkpoint(self, run: Path, write: Callable[[], None]) -> None:
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        problem = self.write_aside(run / ASIDE / checkpoint.name, write)
        if not self.any_process(problem is not None) and self.args.should_save:
            problem = self.seal_and_move(run / ASIDE / checkpoint.name, checkpoint)
        if self.any_process(problem is not None):
            self.report_failed_save(checkpoint, problem)
            return
        self.last_checkpoint = checkpoint
        if self.args.should_save:  # before the upload, which reads the run's folder while training continues
            self.await_uploads()
            best = self.state.best_model_checkpoint
            rotate(run, self.most_checkpoints, {checkpoint.name, *([Path(best).name] if best else [])})
        if self.args.push_to_hub:
            try:
                with replaced_attribute(self, "sending", checkpoint):
                    self.send_checkpoint(checkpoint)
            except Exception as error:  # it copies the weights
                if not is_write_error(error):
                    raise
                logger.error(f"{checkpoint} could not be prepared for upload ({one_line(error)}). The run continues.")

    def await_uploads(self) -> None:
        """Wait until every checkpoint that is to be published has been, before one is removed."""

    def write_aside(self, aside: Path, write: Callable[[], None]) -> Exception | None:
        """Write a checkpoint to the folder `aside`; return the error that kept this process from it."""
        self.checkpoints_go_to = aside.parent
        try:
            # The library looks for the best checkpoint where it writes, behind a barrier that a failing process
            # would not reach.
            with replaced_attribute(self.state, "best_global_step", None):
                write()
            self.save_process_state(aside)
        except Exception as error:
            if not is_write_error(error):
                raise
            return error
        finally:
            self.checkpoints_go_to = None
        return None

    def seal_and_move(self, aside: Path, checkpoint: Path) -> Exception | None:
        """Complete a checkpoint and give it its final name; return the error that prevented it."""
        run, state = checkpoint.parent, self.state
        try:
            best = f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if state.best_global_step and (best == checkpoint.name or (run / best).is_dir()):
                state.best_model_checkpoint = str(run / best)
            state.save_to_json(str(aside / TRAINER_STATE))
            earlier = [seconds for seconds in map(time_written, checkpoints(run)) if seconds < math.inf]
            seal(aside, max(earlier, default=0.0), **run_facts(self.args, self.train_dataset) | self.facts)
            move_into_place(aside, checkpoint)
            aside.parent.rmdir()
        except OSError as error:
            return error
        return None

    def report_failed_save(self, checkpoint: Path, problem: Exception | None) -> None:
        shutil.rmtree(checkpoint.parent / ASIDE, ignore_errors=True)
        reason = "another process failed" if problem is None else one_line(problem)
        message = (
            f"{checkpoint} could not be written ({reason}). The unfinished part is removed, and earlier checkpoints "
            "are unharmed. Free some space, or write to another disk."
        )
        if getattr(self.args, "stop_on_save_error", False):  # which the Trainer's own arguments lack
            raise SaveError(
                f"{message} The run stops because of --stop_on_save_error; resume with --resume_from_checkpoint true."
            )
        logger.error(f"{message} The run continues; --stop_on_save_error would stop it.")

    def any_process(self, condition: bool) -> bool:
        """Whether a condition holds on any of the processes; all of them must ask."""
        if condition:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As [`~transformers.Trainer.save_model`], but an earlier model in the folder stays whole until the new one
        is."""
        if self.checkpoints_go_to is not None:  # part of a checkpoint
            self.write_model(Path(output_dir or self.args.output_dir))
            return
        place = Path(output_dir or self.args.output_dir)
        self.write_model(place / ASIDE)
        if self.args.should_save:
            move_files_into_place(place / ASIDE, place)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def write_model(self, folder: Path) -> None:
        """Write the model and its tokenizer to `folder`."""
        super().save_model(str(folder), _internal_call=True)

    # --- what each process saves for itself -----------------------------------------------------------------------

    def save_process_state(self, folder: Path) -> None:
        """Write what this process must resume with to a checkpoint's folder."""
        if self.resumable_tensors:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.resumable_tensors.items()}
            save_file(tensors, folder / accumulators_name(self.args.process_index))

    def load_process_state(self, checkpoint: Path) -> None:
        """Read what `save_process_state` wrote. The first process adds what processes had counted that are no more."""
        for tensor in self.resumable_tensors.values():
            tensor.zero_()
        index, count = self.args.process_index, self.args.world_size
        for path in checkpoint.glob(accumulators_name("*")):
            writer = int(path.stem.rpartition("_")[2])
            if writer == index or (index == 0 and writer >= count):
                for name, tensor in load_file(path).items():
                    self.resumable_tensors[name].add_(tensor.to(self.resumable_tensors[name].device))


class SettingsOfThisRun(TrainerCallback):
    """Lets a resumed run keep its own settings where the library takes those of the run that wrote the checkpoint:
    the learning rate, the optimizer's settings, how often to log, evaluate and save, and the run's folder.

    From the checkpoint come the position in the schedule and what the optimizer has gathered."""

    def __init__(self, trainer: CheckpointingTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)
        best = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)
        if self.trainer.last_checkpoint is None:
            return
        for group, own in zip(self.trainer.optimizer.param_groups, self.trainer.own_settings, strict=True):
            group.update(own)
        schedule = self.trainer.inner_scheduler()
        if isinstance(schedule, LambdaLR):
            schedule.base_lrs = self.trainer.own_rates
            schedule.last_epoch -= 1
            schedule.step()  # to where it was, at this run's rates


class WholeUploads(TrainerCallback):
    """Completes the run's folder before it is uploaded while training continues: of a checkpoint's model, the library
    copies only the weights, their configuration and the tokenizer there."""

    def __init__(self, trainer: CheckpointingTrainer):
        self.trainer = trainer

    def on_push_begin(self, args, state, control, **kwargs):
        if self.trainer.sending is not None and args.should_save:
            copy_code_and_folders(self.trainer.sending, Path(args.output_dir))


def forget_tied_keys(model, incompatible_keys) -> None:
    """Take tied parameters off the missing keys of a checkpoint: it holds them under their source's name."""
    tied = set(model.all_tied_weights_keys)
    incompatible_keys.missing_keys[:] = [name for name in incompatible_keys.missing_keys if name not in tied]


def outlive_signals(dataloader):
    """Let a loader's workers outlive the signals that stop a run, and its iterators leave training's randomness alone:
    each draws a number for its workers, which would be one more after a resumption."""
    loader = getattr(dataloader, "base_dataloader", dataloader)  # in what Accelerate makes of it
    if getattr(loader.worker_init_fn, "func", None) is not ignore_stop_signals:  # loaders that persist come again
        loader.worker_init_fn = partial(ignore_stop_signals, then=loader.worker_init_fn)
        loader.generator = torch.Generator()
    return dataloader


def is_write_error(error: Exception) -> bool:
    """Whether a full disk, or another trouble with it, is behind `error`, which every library says in its own way."""
    by_torch = ("PytorchStreamWriter", "inline_container", "iostream error")  # RuntimeErrors, as so much else
    return isinstance(error, (OSError, SafetensorError)) or any(text in str(error) for text in by_torch)


def accumulators_name(process_index: int | str) -> str:
    return f"accumulators_{process_index}.safetensors"
