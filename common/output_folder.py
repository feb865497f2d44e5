"""Write a folder completely or not at all, and never replace anything that we did not write."""

import fnmatch
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from span_electra.common.errors import InputError


def names_of_earlier_output(
    folder: Path, marker: str, patterns: Sequence[str] = ("*",), ignored: Sequence[str] = ()
) -> list[str]:
    """Return the names in a folder that is new, empty, or holds only what we wrote ourselves.

    Args:
        marker: The file that marks a folder as ours.
        patterns: The names of what we write, as globs.
        ignored: Names that may always be there. They are not returned.

    Raises:
        InputError: It is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a new or empty folder as --output_dir.")
    names = sorted({path.name for path in folder.iterdir()} - set(ignored)) if folder.is_dir() else []
    strangers = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if strangers or (names and marker not in names):
        examples = ", ".join((strangers or names)[:3])
        raise InputError(f"{folder}: already holds something else ({examples}); give a new or empty --output_dir.")
    return names


def check_output_dir(folder: Path, content: str, patterns: Sequence[str], marker: str, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced. `overwrite` allows to replace what we wrote ourselves.

    Args:
        content: What we write there, for the message.
        patterns, marker: As for `names_of_earlier_output`.
    """
    names = names_of_earlier_output(folder, marker, patterns)
    if folder.is_dir() and (os.path.ismount(folder) or folder.samefile(".")):
        kind = "a mount point" if os.path.ismount(folder) else "the current folder"
        raise InputError(f"{folder}: is {kind}, which cannot be replaced; give a folder inside it.")
    if names and not overwrite:
        raise InputError(
            f"{folder}: already holds {content}; give another --output_dir, or --overwrite to replace it."
        )


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`. It replaces `folder` if the block succeeds, and is removed if not.

    Raises:
        InputError: (before the block) No folder can be made there.
    """
    folder = folder.resolve()
    new_parents = [parent for parent in folder.parents if not os.path.exists(parent)]
    # A process id would not do: in a container, the next run gets the same one.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        _remove_empty(new_parents)
        raise InputError(
            f"{folder}: no folder can be made in {folder.parent} ({error.strerror}); give another --output_dir."
        ) from error
    try:
        yield temporary
        move_into_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(new_parents)
        raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def move_into_place(written: Path, place: Path) -> None:
    """Rename a finished folder in one step, then remove what had its name before."""
    previous = written.with_name(f"{written.name}.old")
    if place.exists() or place.is_symlink():
        os.replace(place, previous)
    try:
        os.replace(written, place)
    except OSError:
        if previous.exists() or previous.is_symlink():
            os.replace(previous, place)
        raise
    sync(place.parent)
    if previous.exists() or previous.is_symlink():
        remove(previous)


def move_files_into_place(written: Path, place: Path) -> None:
    """Move the finished files and folders of a folder into another, each whole and over an earlier one of its name."""
    for path in sorted(written.iterdir()):
        for part in (*path.rglob("*"), path):
            sync(part)
        if path.is_dir():
            move_into_place(path, place / path.name)
        else:
            path.replace(place / path.name)
    written.rmdir()
    sync(place)


def remove(path: Path) -> None:
    """Remove a file, a folder with its content, or a link but not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
