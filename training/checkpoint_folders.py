"""Seal checkpoints with a manifest, find the newest intact one, and remove the oldest."""

import json
import logging
import math
import shutil
import time
from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj
from transformers.trainer import TRAINING_ARGS_NAME

from span_electra.common.errors import InputError
from span_electra.common.output_folder import move_into_place, remove, sync
from span_electra.common.run_files import checkpoints, step_of

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"  # lists every file of a checkpoint with its size and digest
ASIDE = ".unfinished"  # the folder in a run's for what is being written or removed


def seal(folder: Path, after: float = 0.0, **facts) -> None:
    """Flush every file in `folder` to the disk, then write a manifest of them that also holds `facts`.

    Args:
        after: The previous checkpoint's time in seconds since 1970. The new one is later, even if the clock went back.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.name != MANIFEST):
        if path.is_file() and path.name != TRAINING_ARGS_NAME:  # never read or published
            files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        sync(path)
    manifest = {"files": files, "written": max(time.time(), math.nextafter(after, math.inf)), **facts}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def damage(folder: Path, digests: bool = True) -> str | None:
    """Return what is wrong with a checkpoint, or None if it is intact. Nothing is unpickled.

    Without `digests`, only names and sizes are compared."""
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
    """Return the facts that `seal` stored."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {name: value for name, value in manifest.items() if name not in ("files", "written")}


def time_written(folder: Path) -> float:
    """Return when a checkpoint was sealed, in seconds since 1970.

    The time is 0 for an older manifest without one, and infinity for an unreadable manifest, so that the checkpoint is
    tried first and reported as damaged."""
    try:
        return float(json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("written", 0))
    except (OSError, ValueError, AttributeError, TypeError):
        return math.inf


def find_checkpoint(folder: Path, resume: str) -> Path:
    """Return the checkpoint that `resume` names: a path, or "true" for the newest intact one in `folder`."""
    if resume.lower() != "true":
        if problem := damage(Path(resume)):
            raise InputError(
                f"--resume_from_checkpoint {resume}: not a usable checkpoint, {problem}; give another checkpoint-N "
                "folder of a run, or true for the newest intact one in --output_dir."
            )
        return Path(resume)
    passed_over: list[str] = []
    # By time, not by number: a run that resumed from an earlier checkpoint has left later ones behind.
    for checkpoint in sorted(checkpoints(folder), key=lambda path: (time_written(path), step_of(path)), reverse=True):
        if not (problem := damage(checkpoint)):
            for damaged in passed_over:
                logger.warning(f"Skipped the damaged checkpoint {damaged}.")
            return checkpoint
        passed_over.append(f"{checkpoint.name}: {problem}")
    found = f"there is none in {folder}"
    if passed_over:
        found = f"those in {folder} are damaged ({'; '.join(passed_over)})"
    raise InputError(
        f"--resume_from_checkpoint true: no usable checkpoint, {found}; to start a new run, leave it out and give "
        "another --output_dir, or --overwrite_output_dir."
    )


def rotate(run: Path, limit: int | None, kept: set[str]) -> None:
    """Remove a run's oldest checkpoints, damaged ones first, until `limit` are left. Keep those named in `kept`."""
    if not limit or limit < 0:
        return
    found = sorted(
        checkpoints(run), key=lambda path: (damage(path, digests=False) is None, time_written(path), step_of(path))
    )
    excess = max(0, len(found) - max(limit, len(kept)))
    for checkpoint in [path for path in found if path.name not in kept][:excess]:
        (run / ASIDE).mkdir(exist_ok=True)
        aside = checkpoint.rename(run / ASIDE / checkpoint.name)  # a kill leaves no half-removed checkpoint
        remove(aside)
        (run / ASIDE).rmdir()


def copy_code_and_folders(checkpoint: Path, run: Path) -> None:
    """Copy the modelling code and the folders of a checkpoint to its run's folder. Each folder is replaced whole."""
    for path in checkpoint.iterdir():
        if path.is_dir():
            move_into_place(Path(shutil.copytree(path, run / ASIDE / path.name)), run / path.name)
            (run / ASIDE).rmdir()
        elif path.suffix == ".py":
            shutil.copy(path, run)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return sha_fileobj(file).hex()
