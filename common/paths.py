"""Tell paths from names before anything is opened."""

import re
from pathlib import Path

TEXT_SUFFIXES = ("", ".txt", ".text", ".raw", ".tokens")
TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSION_SUFFIXES = (".gz", ".zst")
DATASET_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def looks_like_path(path: str) -> bool:
    """Return whether `path` must be a file's, so that the Hub need not be asked for a dataset of that name."""
    name = Path(path)
    has_suffix = name.suffix in (*TEXT_SUFFIXES[1:], *TABLE_SUFFIXES, *COMPRESSION_SUFFIXES)
    is_in_folder = len(name.parts) > 1 and Path(name.parts[0]).is_dir()
    return has_suffix or is_in_folder or not DATASET_NAME.fullmatch(path) or path.startswith(".")


def lies_in(path: str, folder: str) -> bool:
    """Return whether the path is the folder or inside it."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())
