"""Attributes that have another value for a while."""

from contextlib import contextmanager


@contextmanager
def replaced_attribute(owner, name: str, value):
    """`owner.name` is `value` inside, and what it was before outside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
