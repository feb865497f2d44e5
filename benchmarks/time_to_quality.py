"""How soon does it learn? Seconds and tokens until a fixed corruption is told apart, and until masks are filled well.

    python benchmarks/time_to_quality.py --features my_features --tokenizer my_tokenizer --output_dir runs/quality
    python benchmarks/time_to_quality.py ... --shapes 2x128 4x192 6x256 --seconds 1800   # which shape gets furthest
    pip install electra-pytorch                                                          # one more peer

Contestants train on the same rows in the same order and take turns, a slice of updates each, so that a noisy machine
slows all of them alike. Their clocks count masking and training, and stop while they are scored. All are scored on the
same held-out rows with the same masks. The discriminator's score is its AUC on a text whose masked tokens trade
places, which does not depend on a generator; the generator's is its perplexity. Ours masks spans and has its own
defaults. Its peers mask single tokens, by the library's collator or (electra-pytorch) in their own code, and weigh RTD
by ELECTRA's 50.

After every slice the state is saved and the JSON file and the picture are written: repeat the command to resume.
"""

import argparse
import itertools
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling, ElectraForMaskedLM

sys.path.insert(0, str(Path(__file__).parent))
from contestants import NAIVE, OURS, ElectraPyTorch, MaskedLM, Naive, Ours, is_installed, stock_pair

from span_electra import SpanElectraConfig
from span_electra.common.command_line import run_command
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.arguments import DataArguments, ModelArguments
from span_electra.pretraining.fixed_corruption import trade_places
from span_electra.pretraining.model import build_model
from span_electra.tokenization.create_features import load_features, load_tokenizer

CONFIGS = {"ELECTRA": "tiny", "ModernBERT": "modernbert_tiny"}
TARGETS = {"auc": 0.65, "perplexity": 600.0}
WARMUP = 300  # updates, after which the rate is constant: nobody knows how many there will be
SCORED_AT_ONCE = 64


# --- contestants -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entrant:
    """A contestant: what builds its model, and who masks its rows."""

    build: Callable[[], nn.Module]
    masking: str = "spans"  # or "library", or "itself"


def entrants(tokenizer, configs: dict[str, str], shapes: list[str]) -> dict[str, Entrant]:
    """The contestants by name: ModernBERT pairs of several shapes, or ours with all its peers."""

    def joint(config: str, overrides: dict | None = None):
        arguments = ModelArguments(config=config, config_overrides=json.dumps(overrides or {}))
        return build_model(arguments, DataArguments(), tokenizer)  # as run_pretraining.py does

    def ours(config: str, overrides: dict | None = None) -> nn.Module:
        return Ours(joint(config, overrides))

    def naive(config: str) -> nn.Module:
        return Naive(*stock_pair(joint(config)))

    def electra_pytorch(config: str) -> nn.Module:
        mask, pad = tokenizer.mask_token_id, tokenizer.pad_token_id
        return ElectraPyTorch(*stock_pair(joint(config)), mask, pad, {*tokenizer.all_special_ids} - {mask, pad})

    def masked_lm(config: str) -> nn.Module:
        settings = joint(config).config
        if isinstance(settings, SpanElectraConfig):
            return MaskedLM(ElectraForMaskedLM(settings.discriminator_config()))
        return MaskedLM(AutoModelForMaskedLM.from_config(settings.discriminator))

    if shapes:
        config = configs["ModernBERT"]
        return {shape: Entrant(partial(ours, config, layers_and_width(shape))) for shape in shapes}
    found = {}
    for family, config in configs.items():
        found[f"{OURS}, {family}"] = Entrant(partial(ours, config))
        found[f"{NAIVE}, {family}"] = Entrant(partial(naive, config), "library")
        if is_installed("electra-pytorch"):
            found[f"electra-pytorch, {family}"] = Entrant(partial(electra_pytorch, config), "itself")
        found[f"masked LM, {family}"] = Entrant(partial(masked_lm, config), "library")
    return found


def layers_and_width(shape: str) -> dict:
    """Overrides for `4x192`: four layers, 192 wide, with `modernbert_tiny`'s ratios."""
    layers, width = map(int, shape.split("x"))
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 32}
    return sizes | {"intermediate_size": 2 * width}


class Padding:
    """Pads rows and masks none, for a model that masks by itself."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.tokenizer.pad(rows, return_tensors="pt")
        return {**batch, "labels": torch.full_like(batch["input_ids"], -100)}


def make_collator(masking: str, tokenizer, seed: int) -> Callable[[list[dict]], dict]:
    if masking == "spans":
        return DataCollatorForSpanMasking(tokenizer, seed=seed)
    return DataCollatorForLanguageModeling(tokenizer) if masking == "library" else Padding(tokenizer)


# --- training and scoring ----------------------------------------------------------------------------------------


class Racer:
    """A contestant with one seed: its model, how far it is, and what it scored on the way."""

    def __init__(self, name: str, entrant: Entrant, seed: int, tokenizer, options: argparse.Namespace):
        self.name, self.seed, self.options = name, seed, options
        torch.manual_seed(seed)
        self.model = entrant.build().train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, eps=1e-6, weight_decay=0.01, fused=True
        )
        self.collator = make_collator(entrant.masking, tokenizer, seed)
        self.progress = {"updates": 0, "tokens": 0, "seconds": 0.0, "points": []}
        self.state_file = options.output_dir / "states" / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}-seed{seed}.pt"
        if self.state_file.exists():
            state = torch.load(self.state_file)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = state["progress"]

    @property
    def is_done(self) -> bool:
        """Whether it has reached all targets that apply to it, or its tokens or seconds are used up."""
        limit = self.options.seconds
        if limit is not None:
            return self.progress["seconds"] >= limit
        targets = {"perplexity"} | ({"auc"} if self.model.detect is not None else set())
        return reached(self.progress["points"]).keys() >= targets or self.progress["tokens"] >= self.options.max_tokens

    def advance(self, rows, scored: list[dict]) -> None:
        """Train one slice, score, save."""
        for _ in range(self.options.slice_updates):
            began = time.perf_counter()
            self.progress["tokens"] += self.update(rows)
            self.progress["seconds"] += time.perf_counter() - began
            self.progress["updates"] += 1
        point = {name: self.progress[name] for name in ("updates", "tokens", "seconds")}
        self.progress["points"].append(point | score(self.model, scored))
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": self.progress}
        aside = self.state_file.with_suffix(".aside")
        torch.save(state, aside)
        aside.rename(self.state_file)

    def update(self, rows) -> int:
        """Train on the next batch; return its tokens. Rows and chance follow from the seed and the number of updates,
        so that a resumed run is the same."""
        size, number = self.options.batch, self.progress["updates"]
        epoch, batch_number = divmod(number, len(rows) // size)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(rows))
        if isinstance(self.collator, DataCollatorForSpanMasking):
            self.collator.set_epoch(epoch)
        torch.manual_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        chosen = order[batch_number * size : (batch_number + 1) * size]
        batch = self.collator([{"input_ids": rows[int(i)]["input_ids"]} for i in chosen])
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * min(1, (number + 1) / WARMUP)
        self.model(**batch).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return int(batch["attention_mask"].sum())


def scored_batches(rows, tokenizer) -> list[dict]:
    """Held-out rows with masks that never change."""
    collator = DataCollatorForSpanMasking(tokenizer, seed=0)
    ids = [{"input_ids": row["input_ids"]} for row in rows]
    return [collator(ids[start : start + SCORED_AT_ONCE]) for start in range(0, len(ids), SCORED_AT_ONCE)]


@torch.no_grad()
def score(model: nn.Module, batches: list[dict]) -> dict[str, float]:
    """The generator's perplexity on masked tokens, and the discriminator's AUC where these trade places."""
    model.eval()
    losses, counts, logits, truths = [], [], [], []
    for batch in batches:
        masks = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        counts.append(int((batch["labels"] != -100).sum()))
        losses.append(float(model.masked_loss(**masks)) * counts[-1])
        if model.detect is not None:
            corrupted, is_real = trade_places(batch["input_ids"], batch["labels"]), batch["attention_mask"].bool()
            logits.append(model.detect(corrupted, batch["attention_mask"])[is_real])
            truths.append(((batch["labels"] != -100) & (corrupted != batch["labels"]))[is_real])
    model.train()
    scores = {"perplexity": math.exp(sum(losses) / sum(counts))}
    if logits:
        scores["auc"] = float(roc_auc_score(torch.cat(truths).numpy(), torch.cat(logits).float().numpy()))
    return scores


# --- report ------------------------------------------------------------------------------------------------------


def reached(points: list[dict]) -> dict[str, dict]:
    """For each target that was reached, the first point at which it was."""
    tests = {
        "auc": lambda point: "auc" in point and point["auc"] >= TARGETS["auc"],
        "perplexity": lambda point: point["perplexity"] <= TARGETS["perplexity"],
    }
    first = {name: next((point for point in points if test(point)), None) for name, test in tests.items()}
    return {name: point for name, point in first.items() if point is not None}


def report(racers: list[Racer]) -> dict:
    """Points of every contestant and seed, and the median tokens and seconds to each target that all seeds reached."""
    content: dict = {"targets": TARGETS, "threads": torch.get_num_threads(), "contestants": {}}
    for name in dict.fromkeys(racer.name for racer in racers):
        runs = [racer for racer in racers if racer.name == name]
        firsts = [reached(racer.progress["points"]) for racer in runs]
        targets = {
            target: {key: statistics.median(first[target][key] for first in firsts) for key in ("tokens", "seconds")}
            for target in TARGETS
            if all(target in first for first in firsts)
        }
        points = {racer.seed: racer.progress["points"] for racer in runs}
        content["contestants"][name] = {"reached": targets, "points": points}
    return content


def table(content: dict) -> str:
    """Seconds and tokens to each target, or the last scores if it was not reached, in Markdown."""
    lines = ["| contestant | AUC " + f"{TARGETS['auc']} | perplexity {TARGETS['perplexity']:.0f} |", "|---|---|---|"]
    for name, entry in content["contestants"].items():
        cells = []
        for target in TARGETS:
            last = [points[-1].get(target) for points in entry["points"].values() if points]
            if found := entry["reached"].get(target):
                cells.append(f"{found['seconds']:,.0f} s, {found['tokens'] / 1e6:.2f} M tokens")
            else:
                cells.append("" if not last or None in last else f"not yet: {statistics.median(last):.4g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(content: dict, path: Path) -> None:
    """Both scores over each contestant's own seconds."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = dict(zip(TARGETS, figure.subplots(1, 2), strict=True))
    for index, (name, entry) in enumerate(content["contestants"].items()):
        for seed, (target, axes) in itertools.product(entry["points"], panels.items()):
            points = [(point["seconds"], point[target]) for point in entry["points"][seed] if target in point]
            if points:
                axes.plot(*zip(*points, strict=True), color=f"C{index}", label=name, linewidth=1)
    for target, axes in panels.items():
        axes.axhline(TARGETS[target], color="gray", linestyle=":")
        axes.set(xlabel="seconds of training", title=target)
        axes.grid(alpha=0.3)
    panels["perplexity"].set_yscale("log")
    lines = dict(zip(*panels["perplexity"].get_legend_handles_labels()[::-1], strict=True))  # a label for all seeds
    panels["perplexity"].legend(lines.values(), lines.keys(), fontsize=7)
    figure.savefig(path, dpi=120)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="a folder that create_features wrote")
    parser.add_argument("--tokenizer", required=True, help="the tokenizer that it was made with")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/time_to_quality"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", help="only the contestants whose name holds one of these words")
    parser.add_argument("--shapes", nargs="+", default=[], help="compare shapes of ModernBERT: 2x128 4x192 6x256")
    parser.add_argument("--seconds", type=float, help="of training, for each; default: until the targets are reached")
    parser.add_argument("--max_tokens", type=float, default=20e6, help="give up a target after so many")
    parser.add_argument("--slice_updates", type=int, default=25, help="updates of a turn")
    parser.add_argument("--batch", type=int, default=32, help="rows of an update")
    parser.add_argument("--held_out", type=int, default=512, help="rows to score, the last ones")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help=f"after {WARMUP} updates of warm-up")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the same command resumes")
    parser.add_argument("--threads", type=int, help="default: torch's")
    for family, config in CONFIGS.items():
        parser.add_argument(f"--{family.lower()}_config", default=config)
    options = parser.parse_args()
    if options.shapes and options.seconds is None:
        parser.error("--shapes: give --seconds, for shapes are compared at equal time.")
    return options


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    (options.output_dir / "states").mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(options.tokenizer)
    rows = load_features(options.features, tokenizer).with_format("numpy")
    count = len(rows) - options.held_out
    scored = scored_batches(rows.select(range(count, len(rows))), tokenizer)
    configs = {family: getattr(options, f"{family.lower()}_config") for family in CONFIGS}
    chosen = {
        name: entrant
        for name, entrant in entrants(tokenizer, configs, options.shapes).items()
        if not options.only or any(word in name for word in options.only)
    }
    racers = [
        Racer(name, entrant, seed, tokenizer, options) for seed in options.seeds for name, entrant in chosen.items()
    ]
    train = rows.select(range(count))
    while (running := [racer for racer in racers if not racer.is_done]) and time.monotonic() < deadline:
        for racer in running:
            racer.advance(train, scored)
        content = report(racers)
        (options.output_dir / "time_to_quality.json").write_text(json.dumps(content, indent=1) + "\n")
        picture(content, options.output_dir / "time_to_quality.png")
    print(table(report(racers)))
    if running:
        print("\nNot finished: the same command resumes.")


if __name__ == "__main__":
    run_command(main)
