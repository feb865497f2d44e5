"""What every refusal of a script has to show."""

import re

import pytest


def snapshot(folder):
    """Everything below `folder`, with the time of its last change and its size."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def assert_refused(main, arguments, text, home, output_dir, capsys):
    """`main` ends with one line that matches `text`, makes no `output_dir`, and leaves `home` as it was."""
    before = snapshot(home)
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_info.value.code == 2
    assert message.startswith("error: ")
    assert re.search(text, message), f"{text!r} is not in {message!r}"
    assert snapshot(home) == before
    assert not output_dir.exists()
