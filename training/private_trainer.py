"""The private names of transformers' Trainer that this package uses. They all stand here, and nowhere else.

None has a public counterpart in the versions of `CHECKED_ON`. When a new version of the library renames one or changes
its parameters, tests/training/test_private_trainer.py fails and names it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import Trainer

CHECKED_ON = ("5.17.0", "5.24.0")  # versions of transformers: the lowest that setup.py allows, and the newest tried

# By name: its parameters, and why no public hook will do.
PRIVATE_NAMES = {
    "_save_checkpoint": (
        ["self", "model", "trial"],
        "`on_save` comes after the checkpoint was written under its final name and an older one was removed, and no "
        "hook sees an error in between.",
    ),
    "_get_output_dir": (
        ["self", "trial"],
        "decides where a checkpoint is written. `args.output_dir` would do, but it is saved with the checkpoint.",
    ),
    "_push_from_checkpoint": (
        ["self", "checkpoint_folder"],
        "`push_to_hub` saves the model again and waits for the upload; this one sends a checkpoint while training "
        "continues.",
    ),
    "_load_from_checkpoint": (
        ["self", "resume_from_checkpoint", "model"],
        "reads one file of weights, and no hook lets a model load a checkpoint that has several.",
    ),
    "_load_best_model": (
        ["self"],
        "does the same with the best checkpoint when training ends, and no hook lets a model do it itself.",
    ),
}


class PrivateTrainer(Trainer):
    """A Trainer with the hooks that the library lacks.

    Attributes:
        checkpoints_go_to: The folder in which the library writes its next checkpoint; None for the run's folder.
    """

    def __init__(self, *args, **kwargs):
        self.checkpoints_go_to: Path | None = None
        super().__init__(*args, **kwargs)

    def save_checkpoint(self, run: Path, write: Callable[[], None]) -> None:
        """Save a checkpoint of the run in the folder `run`; `write` is how the library writes one."""
        write()

    def send_checkpoint(self, checkpoint: Path) -> None:
        """Upload a checkpoint's model, as `args.hub_strategy` asks, while training continues."""
        super()._push_from_checkpoint(str(checkpoint))

    def load_weights(self, checkpoint: Path, load: Callable[[], None]) -> None:
        """Load a checkpoint's weights into the model; `load` is how the library does it."""
        load()

    def _save_checkpoint(self, model, trial):
        run = Path(super()._get_output_dir(trial))
        self.save_checkpoint(run, partial(super()._save_checkpoint, model, trial))

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self.checkpoints_go_to is None else str(self.checkpoints_go_to)

    def _push_from_checkpoint(self, checkpoint_folder):
        """Do nothing where the library sends what it has just written: that is not in its final folder yet."""

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load = partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        self.load_weights(Path(resume_from_checkpoint), load)

    def _load_best_model(self):
        self.load_weights(Path(self.state.best_model_checkpoint), super()._load_best_model)
