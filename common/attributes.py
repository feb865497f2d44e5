"""Replace attributes temporarily."""

from contextlib import contextmanager


@contextmanager
def replaced_attribute(owner, name: str, value):
    """Set `owner.name` to `value` inside the block, and restore it afterwards."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
