"""Write a folder whole or not at all, and never over something that is not ours."""

import fnmatch
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from span_electra.common.errors import InputError


def check_output_dir(folder: Path, content: str, patterns: tuple[str, ...], marker: str, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced: `overwrite` only ever replaces what we wrote ourselves.

    Args:
        content: what we write there, for the message.
        patterns: the names of the files that we write, as globs.
        marker: a file without which a folder is not ours.
    """
    if not os.path.exists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file. Give a new or empty folder as --output_dir.")
    if os.path.ismount(folder) or folder.samefile("."):
        kind = "a mount point" if os.path.ismount(folder) else "the current folder"
        raise InputError(f"{folder}: is {kind}, whose place no folder can take. Give one inside it.")
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    strangers = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if strangers or marker not in names:
        examples = ", ".join((strangers or names)[:3])
        raise InputError(f"{folder}: already holds something else ({examples}). Give a new or empty --output_dir.")
    if not overwrite:
        raise InputError(
            f"{folder}: already holds {content}. Give another --output_dir, or --overwrite to replace it."
        )


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling of `folder` that takes its place if the block ends well, and is removed if not.

    Raises:
        InputError: (before the block) if no folder can be made there.
    """
    folder = folder.resolve()
    new_parents = [parent for parent in folder.parents if not os.path.exists(parent)]
    # Not the process's number: a container gives the same one again, to the run after one that was killed.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        _remove_empty(new_parents)
        raise InputError(
            f"{folder}: no folder can be made in {folder.parent} ({error.strerror}). Give another --output_dir."
        ) from error
    try:
        yield temporary
        _take_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(new_parents)
        raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _take_place(temporary: Path, folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(temporary, folder)
        return
    previous = temporary.with_suffix(".old")
    os.replace(folder, previous)
    try:
        os.replace(temporary, folder)
    except OSError:
        os.replace(previous, folder)
        raise
    shutil.rmtree(previous)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, which leaves what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


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
