"""Folders that replace earlier ones: whole, or not at all."""

import os

import pytest

from span_electra.common.output_folder import move_files_into_place


@pytest.fixture
def folders(tmp_path):
    """A finished folder, and one with an earlier version of the same."""
    for name in ("written", "place"):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
        (tmp_path / name / "part" / f"of_{name}").write_text(name)
    return tmp_path / "written", tmp_path / "place"


def test_files_and_folders_replace_earlier_ones_whole(folders):
    written, place = folders
    move_files_into_place(written, place)
    assert (place / "config.json").read_text() == "written"
    assert [path.name for path in (place / "part").iterdir()] == ["of_written"]
    assert not written.exists() and sorted(path.name for path in place.iterdir()) == ["config.json", "part"]


def test_a_folder_that_cannot_be_moved_leaves_the_earlier_one(folders, monkeypatch):
    written, place = folders
    replace = os.replace

    def failing(source, target):
        if source == written / "part":
            raise OSError("no space")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no space"):
        move_files_into_place(written, place)
    assert [path.name for path in (place / "part").iterdir()] == ["of_place"]
