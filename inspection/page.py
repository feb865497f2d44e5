"""Show what a pretrained pair does with a text, as one HTML file that needs no network.

    python -m span_electra.inspection.page my_model --text "The old house by the river." --output page.html

`--text` is a sentence or a file. The page shows which spans are masked, what the generator puts there, its other
guesses, and how likely the discriminator finds each token replaced. If the folder is a run's and keeps several
checkpoints, a slider on the page goes through them.
"""

import base64
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError, InputNotFoundError, as_input_error
from span_electra.common.paths import COMPRESSION_SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES
from span_electra.common.run_files import ARGUMENTS, HISTORY, checkpoints, step_of, without_config
from span_electra.configuration_span_electra import SpanElectraConfig
from span_electra.conversion.warm_start import load_whole
from span_electra.encoders.configuration_span_encoder import is_saved_pair
from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining
from span_electra.inspection.line_chart import HEIGHT, WIDTH, charts, readable
from span_electra.inspection.options import parse_arguments
from span_electra.inspection.samples import (
    MOST_PASSAGES,
    WORDS,
    judge,
    make_batch,
    make_collator,
    make_piece,
    passages,
    summary,
)
from span_electra.modeling_span_electra import SpanElectraForMaskedLM, SpanElectraForPreTraining
from span_electra.pretraining.history import last_evaluations, last_training, metric_rows
from span_electra.pretraining.model import PretrainingModel
from span_electra.tokenization.create_features import load_tokenizer
from span_electra.tokenization.packing import make_packer
from span_electra.tokenization.text import Block, Corpus
from span_electra.training.checkpoint_folders import damage

logger = logging.getLogger(__name__)

MARK = '<meta name="generator" content="SpanElectra">'  # by which a page is known to be ours
DATA = '<script type="application/json" id="samples">'
LONGEST_ROW = 128  # tokens, if no run says how long its rows were
MOST_STEPS = 12
MASKINGS = 8  # of a text that fills only one row


def inspect(checkpoint: str | Path, text: str, output: str | Path, overwrite: bool = False) -> Path:
    """Write a page about what `checkpoint` does with `text`.

    Args:
        checkpoint: folder or Hub name of a pair that run_pretraining.py trained, or the folder of a run that was
            stopped.
        text: a file, or the text itself.
        output: the file to write.
        overwrite: replace an earlier page there. Nothing else is ever replaced.

    Returns:
        The file that was written.

    Raises:
        InputError: there is no pair, no text, or `output` cannot be written.
    """
    output = Path(output)
    check_output(output, overwrite)
    if not text.strip():
        raise InputError("--text is empty; give a sentence, or a file that holds text.")
    stages = find_stages(checkpoint)
    newest = next(reversed(stages.values()))
    model, tokenizer = load_pair(newest), load_tokenizer(newest)
    run = run_folder(newest)
    settings = read_json(run / ARGUMENTS)
    batch, note = batch_of(text, tokenizer, longest_row(model, settings), settings)
    piece = make_piece(tokenizer)
    steps = []
    for label, folder in stages.items():
        judged = model if folder is newest else load_pair(folder)
        steps.append({"label": label, "passages": judge(judged, batch, piece)})
    if len(steps) > 1 and steps[-1]["passages"] == steps[-2]["passages"]:
        steps.pop()  # the final model is the last checkpoint
    samples = {"passages": passages(batch, piece), "steps": steps}
    name = os.path.basename(os.path.abspath(checkpoint)) if os.path.isdir(checkpoint) else str(checkpoint)
    output.write_text(render(name, samples, read_history(run, newest), note), encoding="utf-8")
    return output


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse to write where a file stands that is not an earlier page, or where no file can be."""
    if output.is_dir():
        raise InputError(f"--output {output}: is a folder; give a file, such as {output / 'page.html'}.")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {output.parent}; make it, or give another file.")
    if not output.exists():
        return
    if not overwrite:
        raise InputError(f"--output {output}: exists; give another file, or --overwrite to replace an earlier page.")
    if MARK not in output.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"--output {output}: exists and is not such a page, so --overwrite keeps it; give another.")


# --- the pair -----------------------------------------------------------------------------------------------------


def find_stages(checkpoint: str | Path) -> dict[str, str | Path]:
    """The models to show by their labels, oldest first: a run's checkpoints, and the model itself."""
    folder = Path(checkpoint)
    kept = [path for path in sorted(checkpoints(folder), key=step_of) if damage(path, digests=False) is None]
    stages: dict[str, str | Path] = {f"step {step_of(path):,}": path for path in kept[-MOST_STEPS:]}
    if not kept or (folder / "config.json").is_file():
        stages["final model" if kept else "this model"] = checkpoint
    return stages


def load_pair(checkpoint: str | Path) -> PretrainingModel:
    """Load generator and discriminator, of the ELECTRA pair or of any other family."""
    name = str(checkpoint)
    with as_input_error(name):
        if is_saved_pair(name):
            return SpanEncoderForPreTraining.from_pretrained(name, dtype=torch.float32)
        settings, _ = SpanElectraConfig.get_config_dict(name)
        if not settings:
            raise InputError(f"{name}: {without_config(name)}")
        saved_as = (settings.get("architectures") or [settings.get("model_type")])[0]
        if saved_as != SpanElectraForPreTraining.__name__:
            lacks = "discriminator" if saved_as == SpanElectraForMaskedLM.__name__ else "generator"
            raise InputError(
                f"{name}: was saved as {saved_as}, which has no {lacks}. Give a checkpoint that run_pretraining.py "
                f"wrote ({SpanElectraForPreTraining.__name__}, or a folder with `generator/` and `pretraining/`)."
            )
        model = load_whole(SpanElectraForPreTraining, name, dtype=torch.float32)[0]
    return model.eval()


def run_folder(checkpoint: str | Path) -> Path:
    """The folder of the run that a checkpoint is from: itself, or the one around it."""
    folder = Path(checkpoint)
    return folder if (folder / ARGUMENTS).is_file() or not checkpoints(folder.parent) else folder.parent


def read_json(path: Path) -> dict[str, Any]:
    """What a run wrote about itself; empty if it did not."""
    with as_input_error(str(path)):
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_history(run: Path, newest: str | Path) -> list[dict]:
    """The run's log history, from its report, or from the newest checkpoint of a run that has none yet."""
    state = Path(newest) / TRAINER_STATE_NAME
    if (run / HISTORY).is_file() or not state.is_file():
        return read_json(run / HISTORY).get("history", [])
    return TrainerState.load_from_json(str(state)).log_history


# --- the text -----------------------------------------------------------------------------------------------------


def longest_row(model: PretrainingModel, settings: dict[str, Any]) -> int:
    return min(settings.get("max_seq_length") or LONGEST_ROW, model.config.max_position_embeddings or LONGEST_ROW)


def batch_of(
    text: str, tokenizer: PreTrainedTokenizerBase, longest: int, settings: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], str]:
    """The text cut into rows and masked, and a sentence that says how it was cut."""
    packer = make_packer(tokenizer, longest, short_probability=0)
    if os.path.exists(text):
        blocks = Corpus([text], settings.get("documents") or "blank_line").blocks()
    else:
        if Path(text).suffix in (*TEXT_SUFFIXES[1:], *TABLE_SUFFIXES, *COMPRESSION_SUFFIXES):
            raise InputNotFoundError(f"--text {text}: no such file. Give a file that exists, or a sentence.")
        blocks = iter([Block(text, [len(text.split("\n"))], 1)])
    every = (row for number, block in enumerate(blocks) for row in pack(packer, block, number))
    rows: list[dict] = [{"input_ids": row} for row in islice(every, 4 * MOST_PASSAGES)]
    note = f"The model reads {longest} tokens at a time, so the text was cut into passages of at most that many."
    if is_alone := len(rows) == 1:
        rows = [rows[0] | {"epoch": epoch} for epoch in range(MASKINGS)]
        note = "The text is short, so it is shown several times, each time masked in another way."
    batch = make_batch(rows, make_collator(tokenizer, settings))
    if not len(batch["labels"]):
        raise InputError(f"--text {text}: has no token that could be masked; give text in the tokenizer's language.")
    if not is_alone and (next(every, None) is not None or len(batch["labels"]) < len(rows)):
        note += f" The page shows {len(batch['labels'])} of them."
    return batch, note


def pack(packer, block: Block, number: int) -> list[list[int]]:
    return packer.pack(block.text, block.document_lines, number).to_pylist()


# --- the page -----------------------------------------------------------------------------------------------------


def render(name: str, samples: dict[str, Any], history: list[dict], note: str = "", subject: str = "a text") -> str:
    """The page as HTML.

    Args:
        name: what the model is called.
        samples: `passages`, as `samples.passages` gives them, and `steps`, each with a `label` and what
            `samples.judge` gives for the same passages.
        history: the run's log history; empty if there is none.
        note, subject: a sentence, and a few words, on where the passages are from.
    """
    for step in samples["steps"]:
        step["summary"] = summary(samples["passages"], step["passages"])
    evaluations = last_evaluations(history)
    figures = {f"Evaluation of {part}" if part else "Last evaluation": found for part, found in evaluations.items()}
    if not figures and (training := last_training(history)):
        figures = {"Training, last log": training}
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return template().render(
        name=name,
        note=note,
        subject=subject,
        samples=samples,
        words=WORDS,
        now=samples["steps"][-1],
        charts=charts(history),
        size={"width": WIDTH, "height": HEIGHT},
        figures={
            title: [
                (readable(metric), value, baseline.removeprefix("baseline "))
                for metric, value, baseline in metric_rows(metrics)
            ]
            for title, metrics in figures.items()
        },
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@lru_cache
def template():
    loader = PackageLoader("span_electra.inspection", package_path="")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def embedded_samples(page: str) -> dict[str, Any]:
    """The samples in a page that `render` made."""
    _, _, rest = page.partition(DATA)
    return json.loads(rest.partition("</script>")[0])


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    run_command(lambda: print(inspect(options.checkpoint, options.text, options.output, options.overwrite)))


if __name__ == "__main__":
    main()
