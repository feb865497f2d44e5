"""Replace attributes and settings temporarily."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def replaced_attribute(owner, name: str, value) -> Iterator[None]:
    """Set `owner.name` to `value` inside the block, and restore it afterwards."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def no_loading_report() -> Iterator[None]:
    """Hide Transformers' report of the weights that a checkpoint lacks, where that is intended."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
