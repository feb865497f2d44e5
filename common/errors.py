"""Errors in the user's input, and how a command reports them."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

# Transformers raises these when a configuration, a tokenizer or weights cannot be used.
UNUSABLE = (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)


class InputError(ValueError):
    """The user's input cannot be used. The message says what came, what is accepted and what to do."""


class InputNotFoundError(InputError, FileNotFoundError):
    """A path that does not exist."""


@contextmanager
def as_input_error(subject: str, fix: str = "") -> Iterator[None]:
    """Raise an InputError about `subject` if loading it, or building from it, fails. It ends with the `fix`."""
    try:
        yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{subject}: its weights are a pickle that holds more than tensors, so it was not read. Give safetensors."
        ) from error
    except UNUSABLE as error:
        # The second line of the library's configuration errors has the reason.
        reason = one_line(error) if isinstance(error, StrictDataclassError) else first_line(error)
        raise InputError(f"{subject}: cannot be used ({reason}).{fix and ' ' + fix}") from error


@contextmanager
def paths_as_input_errors() -> Iterator[None]:
    """Raise an InputError if a file or folder cannot be read or made, because it follows from the user's input."""
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError) or error.filename is None:  # a time-out has no file, for one
            raise
        raise unusable_path(error) from error


def unusable_path(error: OSError) -> InputError:
    """An error of the file system in words."""
    if error.filename is None:
        return InputError(f"{first_line(error)}.")
    return InputError(f"{error.filename}: cannot be used ({error.strerror}). Give another file or folder.")


def first_line(error: BaseException) -> str:
    """The first line of the error's message, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")


def one_line(error: BaseException) -> str:
    """The error's message on one line, without the full stop."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def print_error(error: Exception) -> None:
    """Print why a command ends. With several processes, each says which one it is."""
    rank = os.environ.get("RANK", "0")
    print(f"error: {error}" if rank == "0" else f"error on process {rank}: {error}", file=sys.stderr)
