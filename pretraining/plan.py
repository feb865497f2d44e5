"""What a run will cost: try a few of its steps and an evaluation, and say what all of them take (`--plan`).

What is measured is the run's own Trainer on its own batches. It stops early, and writes to a temporary folder only.
"""

import copy
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import find_executable_batch_size, release_memory
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from span_electra.common.errors import InputError
from span_electra.pretraining.arguments import DataArguments, PretrainingArguments
from span_electra.pretraining.mixture import Mixture
from span_electra.pretraining.rows import corpora_of, load_rows
from span_electra.pretraining.stream import POSITION, TextStream
from span_electra.pretraining.trainer import SpanElectraTrainer

STEPS_BEFORE, STEPS = 3, 10  # the first steps take longer, and are not measured
MOST_SECONDS = 60  # of a slow model fewer steps are measured
EVALUATED_BATCHES = 5
SAMPLED_ROWS = 10_000
COUNTED_ROWS = 4  # FLOPs for a token hardly depend on the number of rows

MOST_EPOCHS = 40
# The rule of thumb in docs/training.md: 2 * sqrt(tokens) pieces, but no more than 30,000.
FITTING, MOST_FITTING, FAR = 2, 30_000, 4

MakeTrainer = Callable[[PretrainingArguments], SpanElectraTrainer]


@dataclass
class Text:
    """The text to train on. Of a stream, only the length of a row is known."""

    row_length: float  # the mean, in tokens
    rows: int | None = None
    long_documents: float = 0.0  # the ratio of documents that do not fit a row

    @property
    def tokens(self) -> float | None:
        return None if self.rows is None else self.rows * self.row_length


@dataclass
class Costs:
    """What a run takes: how often it does something, and the seconds of each time."""

    steps: int
    rows_per_step: int
    measured_steps: int
    step_seconds: float
    evaluations: int
    evaluation_seconds: float
    saves: int
    save_seconds: float
    checkpoint_bytes: int
    peak_bytes: int

    @property
    def seconds(self) -> dict[str, float]:
        return {
            "training": self.steps * self.step_seconds,
            f"{self.evaluations} evaluations": self.evaluations * self.evaluation_seconds,
            f"{self.saves} checkpoints": self.saves * self.save_seconds,
        }


# --- the text -----------------------------------------------------------------------------------------------------


def survey(
    rows: datasets.Dataset | Mixture | TextStream, data: DataArguments, tokenizer: PreTrainedTokenizerBase
) -> Text:
    """Find out how much text there is to train on, and how many of its documents do not fit a row."""
    if isinstance(rows, TextStream):
        batch, _ = next(iter(rows))
        return Text(mean_length(row["input_ids"] for row in batch))
    # At random, because the corpora of a mixture alternate.
    sampled = np.random.default_rng(0).permutation(len(rows))[:SAMPLED_ROWS]
    text = Text(mean_length(row["input_ids"] for row in rows.__getitems__(sampled.tolist())), len(rows))
    # `rows` are some of these, without the numbers of their documents.
    corpora = [load_rows(paths, data, tokenizer, data.split) for paths in corpora_of(data)]
    numbers = [rows.data.column("document").to_numpy() for rows in corpora if "document" in rows.column_names]
    if numbers:  # which features of an earlier version lack
        counts = np.concatenate([np.unique(documents, return_counts=True)[1] for documents in numbers])
        text.long_documents = float((counts > 1).mean())
    return text


def mean_length(rows: Iterable[Sized]) -> float:
    return float(np.mean([len(row) for row in rows]))


# --- the costs ----------------------------------------------------------------------------------------------------


class StepTimer(TrainerCallback):
    """Measures the time of a step, and ends training when it has."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.before = min(STEPS_BEFORE, state.max_steps - 1)
        self.started = clock()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps = state.global_step - self.before
        is_slow = time.perf_counter() > self.started + MOST_SECONDS
        if self.steps <= 0:
            self.started = clock()
        elif self.steps == STEPS or is_slow or control.should_training_stop:
            self.seconds = (clock() - self.started) / self.steps
            control.should_training_stop = True


def clock() -> float:
    """The time, once the device has done what it was asked to."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def plan(
    make_trainer: MakeTrainer,
    arguments: PretrainingArguments,
    data: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    is_new_model: bool,
) -> str:
    """Return a table of what a run costs, and a warning for each number that does not fit the others.

    Args:
        make_trainer: Makes the run's Trainer.
        arguments, data: The run's options.
        is_new_model: Whether the vocabulary may still be chosen.

    Raises:
        InputError: A batch does not fit the memory; the message says which one does.
    """
    with TemporaryDirectory() as folder:
        trainer, timer = run_largest(make_trainer, stopped_early(arguments, folder))
        text = survey(trainer.train_dataset, data, tokenizer)
        costs = measure(trainer, timer, arguments, text)
        flops = flops_per_token(trainer)
    lines = [f"{name:<16}{value}" for name, value in table(trainer, text, costs, flops).items()]
    vocabulary = len(tokenizer) if is_new_model else None
    warnings = mismatches(text, costs, arguments.get_warmup_steps(costs.steps), vocabulary)
    return "\n".join([*lines, *(f"warning: {warning}" for warning in warnings)])


def stopped_early(arguments: PretrainingArguments, folder: str) -> PretrainingArguments:
    """The arguments of a run that writes, reports and uploads nothing; it is evaluated once it has stopped."""
    arguments = copy.copy(arguments)
    arguments.output_dir, arguments.report_to, arguments.disable_tqdm = folder, [], True
    arguments.eval_strategy = arguments.save_strategy = "no"
    arguments.load_best_model_at_end = arguments.eval_on_start = arguments.push_to_hub = False
    return arguments


def run_largest(make_trainer: MakeTrainer, arguments: PretrainingArguments) -> tuple[SpanElectraTrainer, StepTimer]:
    """Train the first steps. If a batch does not fit the memory, find one that does."""
    rows = [arguments.per_device_train_batch_size]

    def run(batch_size: int) -> tuple[SpanElectraTrainer, StepTimer]:
        release_memory()  # of the larger batch
        arguments.per_device_train_batch_size = batch_size
        trainer, timer = make_trainer(arguments), StepTimer()
        if isinstance(trainer.train_dataset, TextStream):
            trainer.train_dataset.batch_size = batch_size
        trainer.model.zero_grad()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(timer)
        trainer.train()
        return trainer, timer

    def halve() -> int:
        rows.append(rows[-1] // 2)
        return rows[-1]

    if arguments.world_size > 1:  # the others would wait for the one that runs out of memory
        return run(*rows)
    try:
        done = find_executable_batch_size(run, rows[0], halve)()
    except RuntimeError as error:
        if rows[-1] > 0:
            raise
        raise InputError(
            "--plan: not even one row fits the memory. Lower --max_seq_length, or take a smaller model."
        ) from error
    if len(rows) > 1:
        accumulated = arguments.gradient_accumulation_steps * rows[0] // rows[-1]
        raise InputError(
            f"--per_device_train_batch_size {rows[0]}: does not fit the memory; halved again and again, {rows[-1]} "
            f"does. Give --per_device_train_batch_size {rows[-1]} --gradient_accumulation_steps {accumulated} for as "
            "many rows in a step."
        )
    return done


def measure(trainer: SpanElectraTrainer, timer: StepTimer, arguments: PretrainingArguments, text: Text) -> Costs:
    """What all steps, evaluations and checkpoints take, from those that were tried.

    Args:
        arguments: Those of the whole run.
    """
    state, rows_per_step = trainer.state, trainer.get_total_train_batch_size(arguments)
    epochs = math.ceil(state.max_steps * rows_per_step / text.rows) if text.rows else 0
    evaluations = occasions(arguments.eval_strategy, state.eval_steps, state.max_steps, epochs)
    saves = occasions(arguments.save_strategy, state.save_steps, state.max_steps, epochs)
    is_evaluated = trainer.eval_dataset is not None
    checkpoint_bytes, save_seconds = save(trainer)
    return Costs(
        steps=state.max_steps,
        rows_per_step=rows_per_step,
        measured_steps=timer.steps,
        step_seconds=timer.seconds,
        evaluations=max(1, evaluations) + arguments.eval_on_start if is_evaluated else 0,
        evaluation_seconds=seconds_of_evaluation(trainer) if is_evaluated else 0.0,
        saves=evaluations if arguments.save_strategy == "best" else saves,
        save_seconds=save_seconds,
        checkpoint_bytes=checkpoint_bytes,
        peak_bytes=peak_bytes(arguments.device),
    )


def occasions(strategy: str, every: float, steps: int, epochs: int) -> int:
    """How often a run evaluates or saves; at the last step it always does."""
    return {"no": 0, "epoch": epochs}.get(strategy, math.ceil(steps / max(1, every)))


def seconds_of_evaluation(trainer: SpanElectraTrainer) -> float:
    """The time of an evaluation, with all that belongs to one, from the time of a few batches."""
    rows: Any = trainer.eval_dataset
    size = trainer.args.eval_batch_size * trainer.args.world_size

    def timed(batches: int) -> float:
        started = clock()
        trainer.evaluate(rows.select(range(min(len(rows), batches * size))))
        return clock() - started

    batches = math.ceil(len(rows) / size)
    tried = min(batches, EVALUATED_BATCHES)
    timed(1)  # the first takes longer
    first, seconds = timed(1), timed(tried)
    return seconds if tried == batches else first + max(0.0, seconds - first) * (batches - 1) / (tried - 1)


def save(trainer: SpanElectraTrainer) -> tuple[int, float]:
    """The size of a checkpoint in bytes and the time to write it, from a model that is saved."""
    started, folder = clock(), Path(trainer.args.output_dir, "model")
    trainer.save_model(str(folder))
    seconds = clock() - started
    model = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    states = [*trainer.optimizer.state.values(), trainer.resumable_tensors]
    tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    checkpoint = model + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return checkpoint, seconds * checkpoint / max(1, model)  # only the first process writes


def peak_bytes(device: torch.device) -> int:
    """The most memory that has been in use: the GPU's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def flops_per_token(trainer: SpanElectraTrainer) -> float | None:
    """FLOPs of training's matrix products for each token that is not padding; None for a sharded model."""
    if trainer.is_fsdp_enabled:
        return None
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop(POSITION, None)
    batch = {name: values[:COUNTED_ROWS].to(trainer.args.device) for name, values in batch.items()}
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).train()
    model.set_attn_implementation("eager")  # of fused attention, not every product is counted
    with trainer.accelerator.autocast(), FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    return counter.get_total_flops() / int(batch["attention_mask"].sum())


# --- what is shown ------------------------------------------------------------------------------------------------


def table(trainer: SpanElectraTrainer, text: Text, costs: Costs, flops: float | None) -> dict[str, str]:
    model: Any = trainer.model
    seconds = costs.seconds
    tokens_per_step = costs.rows_per_step * text.row_length
    memory = "of the GPU" if trainer.args.device.type == "cuda" else "of this process"
    rows = {
        "discriminator": f"{model.base_model.num_parameters():,} parameters",
        "generator": f"{model.generator.num_parameters():,} parameters",
        "both": f"{model.num_parameters():,} parameters, shared ones counted once",
        "FLOPs": "not counted for a sharded model" if flops is None else f"{flops / 1e6:,.1f} million for a token",
        "text": "a stream, of unknown length",
        "run": f"{costs.steps:,} steps of {costs.rows_per_step:,} rows: {costs.steps * tokens_per_step / 1e6:,.1f} "
        "million tokens",
        "speed": f"{tokens_per_step / costs.step_seconds:,.0f} tokens a second ({costs.step_seconds:.3f} s a step, "
        f"mean of {costs.measured_steps})",
        "memory": f"{costs.peak_bytes / 2**20:,.0f} MiB {memory} at its peak",
        "checkpoint": f"{costs.checkpoint_bytes / 2**20:,.1f} MiB",
        "time": f"{duration(sum(seconds.values()))} in all: "
        + ", ".join(f"{duration(value)} {name}" for name, value in seconds.items()),
    }
    if text.rows is not None:
        epochs = costs.steps * costs.rows_per_step / text.rows
        rows["text"] = (
            f"{text.tokens / 1e6:,.1f} million tokens in {text.rows:,} rows of {text.row_length:.1f}; "
            f"{text.long_documents:.0%} of the documents are longer than a row"
        )
        rows["run"] += f", {epochs:,.1f} epochs"
    return rows


def duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def mismatches(text: Text, costs: Costs, warmup_steps: int, vocabulary: int | None) -> list[str]:
    """Say which numbers do not fit together. `vocabulary` is its size, or None if it cannot be chosen any more."""
    found = []
    if warmup_steps >= costs.steps:
        found.append(
            f"warm-up takes {warmup_steps:,} steps, and the run has {costs.steps:,}: the learning rate never reaches "
            "its peak. Give --warmup_steps 0.1, or more --max_steps."
        )
    if text.rows is None:
        return found
    epochs = costs.steps * costs.rows_per_step / text.rows
    if epochs > MOST_EPOCHS:
        found.append(
            f"the steps are {epochs:,.0f} epochs of a small text ({text.tokens:,.0f} tokens), and more than "
            f"{MOST_EPOCHS} teach little. Give more text, or --num_train_epochs {MOST_EPOCHS} without --max_steps."
        )
    fitting = min(MOST_FITTING, FITTING * math.sqrt(text.tokens))
    if vocabulary is not None and not fitting / FAR <= vocabulary <= fitting * FAR:
        found.append(
            f"the vocabulary has {vocabulary:,} tokens, and about {round(fitting, -2):,.0f} fit a text of "
            f"{text.tokens:,.0f}. Train another tokenizer with that --vocab_size."
        )
    return found
