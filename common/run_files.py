"""The names of the files that a run leaves in its folder, and how they are found."""

import math
import re
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

ARGUMENTS = "arguments.json"  # written first: by it a folder is known to be a run's

HISTORY, CURVES, CARD, SAMPLES = "history.json", "curves.png", "README.md", "samples.html"
CHECKPOINT_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")  # and no other: copies put aside are their owner's


def without_nan(content):
    """`content` with null for every number that JSON has no way to write."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


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
