"""The names of the files in a run's folder, and how to find them."""

import math
import re
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

ARGUMENTS = "arguments.json"  # written first: it marks a folder as a run's
HISTORY, CURVES, CARD, SAMPLES = "history.json", "curves.png", "README.md", "samples.html"
CHECKPOINT_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")  # not checkpoint-9-mine, which is your copy


def without_nan(content):
    """Return `content` with None for every number that JSON cannot write."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def without_config(folder: str | Path) -> str:
    """Explain that a folder holds no model, and name the newest checkpoint in it."""
    newest = max(checkpoints(Path(folder)), key=step_of, default=None)
    hint = f"; a run that was stopped has its models in its checkpoints: give {newest}" if newest else ""
    return f"has no config.json{hint}."


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints of the run in `folder`, damaged ones too."""
    return [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if CHECKPOINT_NAME.fullmatch(path.name)]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
