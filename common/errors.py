"""Errors in what a user gave, and how a command reports them."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

# What reading a configuration, a tokenizer or weights, and building a model from them, raises for what is in them.
UNUSABLE = (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what came, what is accepted and what to do."""


class InputNotFoundError(InputError, FileNotFoundError):
    """A path that does not exist."""


@contextmanager
def as_input_error(subject: str, fix: str = "") -> Iterator[None]:
    """Raise an InputError that begins with `subject`, and ends with how to `fix` it, where something is loaded, or
    built from what was, and cannot be."""
    try:
        yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{subject}: its weights are a pickle that holds more than tensors, and was not read; give safetensors."
        ) from error
    except UNUSABLE as error:
        # The library's checks of a configuration tell in their second line what they object to.
        reason = one_line(error) if isinstance(error, StrictDataclassError) else first_line(error)
        raise InputError(f"{subject}: cannot be used ({reason}).{fix and ' ' + fix}") from error


@contextmanager
def paths_as_input_errors() -> Iterator[None]:
    """Raise an InputError where a file or folder cannot be read or made: something that the user gave leads there."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise unusable_path(error) from error


def unusable_path(error: OSError) -> InputError:
    """What to tell the user about an error of the file system."""
    if error.filename is None:
        return InputError(f"{first_line(error)}.")
    return InputError(f"{error.filename}: cannot be used ({error.strerror}). Give another file or folder.")


def first_line(error: BaseException) -> str:
    """Its first line, without the full stop at the end."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")


def one_line(error: BaseException) -> str:
    """All of its lines as one, without the full stop at the end."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def print_error(error: Exception) -> None:
    """Say why a command ends; where a launcher started several processes, each says which one it is."""
    rank = os.environ.get("RANK", "0")
    print(f"error: {error}" if rank == "0" else f"error on process {rank}: {error}", file=sys.stderr)
