"""What every refusal of a script has to show."""

import re

import pytest


def snapshot(folder):
    """Everything below `folder`, with the time of its last change and its size."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def filled_in(changes, home):
    """`changes` with the folder where {home} stands for it."""
    return {
        name: value.replace("{home}", str(home)) if isinstance(value, str) else value
        for name, value in changes.items()
    }


def assert_refused(main, arguments, case, home, tmp_path, capsys):
    """`main` ends with one line that matches the case's text, makes no folder, and leaves `home` as it was.

    `arguments(home, output_dir, **changes)` makes the command line; `case` is (changes, text), where {home} stands for
    the folder.
    """
    changes, text = case
    changes = filled_in(changes, home)
    before, output_dir = snapshot(home), tmp_path / "out"
    with pytest.raises(SystemExit) as exit_info:
        main(arguments(home, output_dir, **changes))
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_info.value.code == 2
    assert message.startswith("error: ")
    assert re.search(text, message), f"{text!r} is not in {message!r}"
    assert snapshot(home) == before
    assert not output_dir.exists()
