"""What a user gave and cannot be used, and how a command says so."""

import os
import sys


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what came, what is accepted and what to do."""


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """All of its lines, as one."""
    return " ".join(str(error).split()) or type(error).__name__


class InputNotFoundError(InputError, FileNotFoundError):
    """A path that does not exist."""


def print_error(error: Exception) -> None:
    """Say why a command ends; where a launcher started several processes, each says which one it is."""
    rank = os.environ.get("RANK", "0")
    print(f"error: {error}" if rank == "0" else f"error on process {rank}: {error}", file=sys.stderr)
