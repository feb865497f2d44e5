"""What pretraining does to an encoder that it starts from: how well its similarities agree with people, step by step.

    python benchmarks/going_on.py --encoder my_encoder --text text/*.txt --pairs stsb/dev.jsonl --output_dir going_on

Every variant in `VARIANTS` is trained on the same rows, by the default schedule of a run of `--steps`. At each step of
`--measure_at` these are measured:

- the Spearman correlation between the cosines of mean-pooled hidden states and the scores of `--pairs` (JSON lines of
  `sentence1`, `sentence2` and `label`);
- on rows held out of training, the AUC of the discriminator on a fixed corruption and on the generator's samples, and
  the generator's perplexity.

Each model is saved, so that it can be fine-tuned beside the encoder it began with. At the end a table is printed.
If the script stops, give the same command again: what is complete is kept.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch.nn import functional as F
from transformers import AutoTokenizer, get_linear_schedule_with_warmup, set_seed

from span_electra.conversion.warm_start import from_stock_encoder
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.encoders.modeling_span_encoder import SpanEncoderForPreTraining
from span_electra.pretraining.fixed_corruption import trade_places
from span_electra.pretraining.metrics import FIXED, PretrainingMetrics
from span_electra.pretraining.optimizer import slow_down_loaded
from span_electra.tokenization.create_features import cached_features

HELD_OUT_ROWS = 64
MEASURED = {
    "correlation": "correlation",
    "fixed_discriminator_auc": "AUC, fixed",
    "discriminator_auc": "AUC, sampled",
    "generator_perplexity": "perplexity",
}


@dataclass
class Variant:
    """One way to continue from an encoder.

    Args:
        ratio: learning rate of the loaded weights, as a ratio of that of the new ones.
        sharing: the embeddings that the two networks share.
        zero_heads: whether the last layers of the discriminator's heads start at zero.
    """

    ratio: float
    sharing: str
    zero_heads: bool = False


VARIANTS = {
    "one_rate": Variant(ratio=1, sharing="disentangled"),
    "disentangled_0.02": Variant(ratio=0.02, sharing="disentangled"),
    "separate_0.02": Variant(ratio=0.02, sharing="separate"),
    "separate_0.02_zero_heads": Variant(ratio=0.02, sharing="separate", zero_heads=True),
    "separate_0.1_zero_heads": Variant(ratio=0.1, sharing="separate", zero_heads=True),
}


def build(variant: Variant, encoder: str) -> SpanEncoderForPreTraining:
    model = from_stock_encoder(encoder, embedding_sharing=variant.sharing)
    if variant.zero_heads:
        for layer in (model.discriminator_predictions.dense_prediction, model.sbpo_prediction):
            torch.nn.init.zeros_(layer.weight)
    return model


def make_optimizer(model: SpanEncoderForPreTraining, rate: float, ratio: float) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, eps=1e-6, fused=True)
    slow_down_loaded(optimizer, model, ratio)
    return optimizer


@torch.no_grad()
def correlation(model: SpanEncoderForPreTraining, tokenizer, pairs: list[dict]) -> float:
    """The Spearman correlation between the cosines of mean-pooled hidden states and the pairs' labels."""
    sentences = sorted({pair[name] for pair in pairs for name in ("sentence1", "sentence2")}, key=len)
    vectors = {}
    for start in range(0, len(sentences), 64):
        batch = sentences[start : start + 64]
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=128, return_tensors="pt")
        mask = inputs["attention_mask"]
        hidden = model.discriminator(inputs["input_ids"], attention_mask=mask).last_hidden_state  # (B, T, H)
        pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1)  # cosines ignore a sum's length
        vectors |= zip(batch, F.normalize(pooled, dim=-1), strict=True)
    cosines = [float(vectors[pair["sentence1"]] @ vectors[pair["sentence2"]]) for pair in pairs]
    return float(spearmanr(cosines, [pair["label"] for pair in pairs]).statistic)


@torch.no_grad()
def measure(model: SpanEncoderForPreTraining, tokenizer, pairs: list[dict], batches: list[dict]) -> dict[str, float]:
    model.eval()
    metrics = PretrainingMetrics(model.config.vocab_size)
    for batch in batches:
        labels, mask = batch["labels"], batch["attention_mask"]
        metrics.update(model(**batch), labels, mask)
        original = batch["input_ids"].where(labels == -100, labels)
        corrupted = trade_places(original, labels)
        logits = model(input_ids=corrupted, attention_mask=mask).logits
        metrics.add_logits(FIXED, logits, corrupted != original, mask)
    values = metrics.compute() | {"correlation": correlation(model, tokenizer, pairs)}
    model.train()
    return {name: values[name] for name in MEASURED}


def batches_of(rows: list[dict], collator: DataCollatorForSpanMasking, size: int) -> Iterator[dict]:
    """Batches without an end, in another order in every epoch."""
    epoch = 0
    while True:
        collator.set_epoch(epoch)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).tolist()
        for start in range(0, len(rows) - size + 1, size):
            yield collator([rows[i] for i in order[start : start + size]])
        epoch += 1


def train(name: str, options: argparse.Namespace, tokenizer, rows: list[dict], pairs: list[dict]) -> Iterator:
    """Train a variant and save it; yield a step's number and what was measured there."""
    variant = VARIANTS[name]
    set_seed(options.seed)
    collator = DataCollatorForSpanMasking(tokenizer, seed=0)
    held_out = [collator(rows[start : start + 32]) for start in range(0, HELD_OUT_ROWS, 32)]
    model = build(variant, options.encoder)
    optimizer = make_optimizer(model, options.learning_rate, variant.ratio)
    schedule = get_linear_schedule_with_warmup(optimizer, options.steps // 10, options.steps)
    last = max(options.measure_at)
    for step, batch in enumerate(batches_of(rows[HELD_OUT_ROWS:], collator, options.batch)):
        if step in options.measure_at:
            yield step, measure(model, tokenizer, pairs, held_out)
        if step == last:
            model.save_pretrained(options.output_dir / name)
            tokenizer.save_pretrained(options.output_dir / name)
            break
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def table(results: dict[str, dict[str, dict]]) -> str:
    """A Markdown table with a line for each step of each variant."""
    lines = ["| variant | step | " + " | ".join(MEASURED.values()) + " |", "|---" * (2 + len(MEASURED)) + "|"]
    for name, steps in results.items():
        for step, values in steps.items():
            cells = [f"{values[key]:,.0f}" if key.endswith("perplexity") else f"{values[key]:.3f}" for key in MEASURED]
            lines.append(f"| {name} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="a stock encoder's folder or Hub name")
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="of what is new")
    parser.add_argument("--steps", type=int, default=1000, help="the length of the schedule")
    parser.add_argument("--measure_at", type=int, nargs="+", default=[0, 25, 50, 100, 200, 400, 700, 1000])
    parser.add_argument("--max_seq_length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--every_nth_pair", type=int, default=1, help="measure on a part of the pairs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    features = options.output_dir / "features"
    rows = cached_features(
        options.text, tokenizer, cache_dir=features, max_seq_length=options.max_seq_length
    ).to_list()
    pairs = [json.loads(line) for line in options.pairs.read_text(encoding="utf-8").splitlines()]
    results = {}
    for name in options.variants:
        path = options.output_dir / f"{name}.json"
        results[name] = json.loads(path.read_text()) if path.is_file() else {}
        if str(max(options.measure_at)) in results[name]:
            continue
        steps = {}
        for step, values in train(name, options, tokenizer, rows, pairs[:: options.every_nth_pair]):
            steps[str(step)] = values
            print(name, step, {key: round(value, 3) for key, value in values.items()}, flush=True)
        results[name] = steps
        path.write_text(json.dumps(steps, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
