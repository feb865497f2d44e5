"""Errors in your input, and how commands report them."""

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
    """Your input cannot be used. The message says what came, what is accepted and what to do."""


class InputNotFoundError(InputError, FileNotFoundError):
    """A path that does not exist."""


@contextmanager
def as_input_error(subject: str, fix: str = "") -> Iterator[None]:
    """Raise an InputError about `subject`, which ends with the `fix`, if loading it or building from it fails."""
    try:
        yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{subject}: its weights are a pickle that holds more than tensors, so it is not loaded. Give safetensors."
        ) from error
    except UNUSABLE as error:
        # In the library's configuration errors, the second line has the reason.
        reason = one_line(error) if isinstance(error, StrictDataclassError) else first_line(error)
        raise InputError(f"{subject}: cannot be used ({reason}).{fix and ' ' + fix}") from error


@contextmanager
def paths_as_input_errors() -> Iterator[None]:
    """Raise an InputError if a file or folder cannot be read or made."""
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError) or error.filename is None:  # such as a time-out
            raise
        raise unusable_path(error) from error


def unusable_path(error: OSError) -> InputError:
    """Turn a file system error into an InputError."""
    if error.filename is None:
        return InputError(f"{first_line(error)}.")
    return InputError(f"{error.filename}: cannot be used ({error.strerror}). Give another file or folder.")


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")


def one_line(error: BaseException) -> str:
    """Return the error's message on one line, without its full stop."""
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__


def print_error(error: Exception) -> None:
    """Print why a command ends. With several processes, name the one that failed."""
    rank = os.environ.get("RANK", "0")
    print(f"error: {error}" if rank == "0" else f"error on process {rank}: {error}", file=sys.stderr)
