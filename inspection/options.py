"""The options of the command that writes a page. They load no model, so the help comes at once."""

import argparse
from collections.abc import Sequence


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description = "Show what a pretrained pair does with a text, as one HTML file that needs no network."
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", help="a pretraining checkpoint or a run: folder or Hub name")
    parser.add_argument("--text", required=True, help="a sentence, or a file with text")
    parser.add_argument("--output", required=True, help="the HTML file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier page there")
    return parser.parse_args(arguments)
