"""The options of the command that exports a checkpoint. They load no model, so the help comes at once."""

import argparse
from collections.abc import Sequence


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description = (
        "Write the two halves of a checkpoint as stock ELECTRA folders, for use where custom code cannot run."
    )
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", help="a pretraining checkpoint: folder or Hub name")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export there")
    return parser.parse_args(arguments)
