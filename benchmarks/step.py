"""Time and memory of the joint training step, beside the alternatives.

    python benchmarks/step.py                                       # every cell of the table; long on a CPU
    python benchmarks/step.py --lengths 128 --vocab_sizes 10000 --precisions fp32 --dropouts 0.1 --memory --profile
    pip install electra-pytorch txtai                               # two more peers, left out if they are missing

All contestants of a family (ELECTRA, ModernBERT) start from the same weights and get the same batch. Their losses must
agree before they are timed. They take turns, so that a noisy machine slows all of them alike. Times are medians, and a
ratio is the median over rounds. A step is forward, backward, clipping and AdamW. The peers tie the embeddings; ours
keeps its default, which for ModernBERT means a second table (`disentangled`). FLOPs are those of the matrix products,
attention's included; the peak is what a large matrix product reaches on the same device in the same run.
"""

import argparse
import contextlib
import gc
import importlib.util
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from span_electra import (
    SpanElectraConfig,
    SpanElectraForPreTraining,
    SpanEncoderConfig,
    SpanEncoderForPreTraining,
    span_objectives,
)
from span_electra.data_collator import DataCollatorForSpanMasking, largest_masked_share
from span_electra.tokenization.packing import assign_rows, join_sequences

sys.path.insert(0, str(Path(__file__).parent))
from contestants import (
    EARLY,
    MASK_RATIO,
    NAIVE,
    OURS,
    PEERS,
    TOKEN_OBJECTIVES,
    Naive,
    Ours,
    is_installed,
    stock_pair,
)
from data import made_up_tokenizer

ELECTRA_SMALL = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 128}
ELECTRA_BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "embedding_size": 768}
SIZES = {
    "tiny": {**ELECTRA_SMALL, "num_hidden_layers": 2},
    "small": {**ELECTRA_SMALL, "num_hidden_layers": 12},
    "base": {**ELECTRA_BASE, "num_hidden_layers": 12, "generator_hidden_size": 256},
}
# ModernBERT has the same shapes. Its generator is as wide as the discriminator, and has a third of the layers.
FAMILIES = ("electra", "modernbert")
ELECTRA_ALONE = ("embedding_size", "generator_hidden_size")
SPECIAL_IDS = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1}  # of `made_up_tokenizer`


@dataclass(frozen=True)
class Setting:
    """One cell of the table."""

    size: str
    length: int
    vocab_size: int
    batch: int
    precision: str
    dropout: float
    device: str
    attention: str = "sdpa"
    mask_ratio: float = MASK_RATIO
    width: int | None = None  # if not the size's own
    family: str = "electra"

    def model(self, **objectives) -> SpanElectraForPreTraining | SpanEncoderForPreTraining:
        """Our joint model with new weights."""
        shape = dict(SIZES[self.size])
        if self.width is not None:  # heads of 64, and ELECTRA's ratio of the feed-forward layer
            shape |= {"hidden_size": self.width, "num_attention_heads": self.width // 64}
            shape["intermediate_size"] = 4 * self.width
        shape |= {"vocab_size": self.vocab_size, "max_position_embeddings": max(512, self.length), "pad_token_id": 2}
        if self.family == "electra":
            dropout = {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}
            return SpanElectraForPreTraining(SpanElectraConfig(**shape, **dropout, **objectives))
        shape = {name: value for name, value in shape.items() if name not in ELECTRA_ALONE}
        shape |= dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout"), self.dropout)
        shape |= SPECIAL_IDS | {"model_type": self.family}
        return SpanEncoderForPreTraining(SpanEncoderConfig.from_settings(shape | objectives))

    def make_batch(self) -> dict[str, torch.Tensor]:
        """Full rows of random tokens, a third of which continue a word; every span becomes [MASK]."""
        collator = DataCollatorForSpanMasking(
            made_up_tokenizer(self.vocab_size), self.mask_ratio, mask_token_share=1, random_token_share=0
        )
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, self.vocab_size, (self.batch, self.length), generator=generator)
        ids[:, 0], ids[:, -1] = 0, 1
        batch = collator([{"input_ids": row.tolist()} for row in ids])
        return {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask", "labels")}

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)


# --- contestants -------------------------------------------------------------------------------------------------


def contestants(family: str = "electra", compiled: bool = False) -> list[str]:
    names = [name for name in PEERS if is_installed(name) and (family == "electra" or name != "txtai")]
    names += [TOKEN_OBJECTIVES, OURS]
    return names + [f"{name}, compiled" for name in (NAIVE, OURS) if compiled]


def build(name: str, setting: Setting) -> nn.Module:
    """A contestant, with the weights that all of them start from."""
    kind = name.removesuffix(", compiled")
    objectives = {"use_sbgo": False, "use_sbpo": False} if kind == TOKEN_OBJECTIVES else {}
    torch.manual_seed(0)
    source = setting.model()
    if kind in PEERS:
        halves = stock_pair(source)
        halves[1].set_attn_implementation("eager")  # the only one that txtai's wrapper accepts for itself
        model: nn.Module = PEERS[kind](*halves)
        for half in halves:
            half.set_attn_implementation("eager" if kind == EARLY else setting.attention)
    else:
        ours = setting.model(**objectives)
        ours.load_state_dict(source.state_dict(), strict=not objectives)
        ours.set_attn_implementation(setting.attention)
        if setting.device != "cpu":  # as in run_pretraining.py
            ours.largest_masked_share = largest_masked_share(setting.mask_ratio, setting.length)
        model = Ours(ours)
    model = model.to(setting.device).train()
    return torch.compile(model) if name.endswith("compiled") else model  # type: ignore[return-value]


def make_step(name: str, setting: Setting, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    model = build(name, setting)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True
    )  # the Trainer's default

    def step() -> None:
        with setting.autocast():
            loss = model(**batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextlib.contextmanager
def best_guess_sampled(labels: torch.Tensor):
    """Make every contestant replace the same tokens by the same ones: the generator's best guess."""
    changes: list[tuple[object, str, object]] = [
        (span_objectives, "sample_tokens", lambda logits, keys, temperature=1.0: logits.argmax(dim=-1)),
        (Naive, "sample", lambda self, logits: logits.argmax(dim=-1)),
        (torch, "multinomial", lambda probabilities, count: probabilities.argmax(dim=-1, keepdim=True)),
    ]
    if importlib.util.find_spec("electra_pytorch"):
        from electra_pytorch import electra_pytorch

        changes.append((electra_pytorch, "get_mask_subset_with_prob", lambda mask, share: labels != -100))
        changes.append((electra_pytorch, "gumbel_sample", lambda logits, temperature: logits.argmax(dim=-1)))
    kept = [getattr(owner, name) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(changes, kept, strict=True):
            setattr(owner, name, value)


@torch.no_grad()
def check_losses(setting: Setting) -> dict[str, float]:
    """MLM + 50 · RTD of every contestant in float32 without dropout; they must agree, or their times mean nothing."""
    setting = replace(setting, dropout=0.0, precision="fp32")
    if "flash" in setting.attention:
        setting = replace(setting, attention="sdpa")  # flash attention knows half precision alone
    batch = setting.make_batch()
    losses = {}
    with best_guess_sampled(batch["labels"]):
        for name in contestants(setting.family):
            model = build(name, setting)
            if isinstance(model, Ours):
                output = model.model(**batch)
                losses[name] = (output.mlm_loss + 50 * output.rtd_loss).item()
            else:
                losses[name] = model(**batch).item()
    for name, loss in losses.items():
        if abs(loss / losses[NAIVE] - 1) > 1e-5:
            raise SystemExit(
                f"{name}: a loss of {loss:.6f}, not {losses[NAIVE]:.6f} as the {NAIVE}: not the same work."
            )
    return losses


# --- measuring ---------------------------------------------------------------------------------------------------


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def time_in_turns(steps: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, the callables taking turns; one round to warm up, three where something is compiled."""
    for _ in range(3 if any("compiled" in name for name in steps) else 1):
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            wait(device)
            begin = time.perf_counter()
            step()
            wait(device)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def matrix_product(setting: Setting) -> tuple[Callable[[], object], float]:
    """A large matrix product, the yardstick of what the device can do, and its FLOPs."""
    size = 2048 if setting.device == "cpu" else 8192
    dtype = torch.float32 if setting.precision == "fp32" else torch.bfloat16
    a, b = torch.randn(2, size, size, device=setting.device, dtype=dtype)
    return lambda: a @ b, 2.0 * size**3


def count_flops(name: str, setting: Setting, batch: dict[str, torch.Tensor]) -> float:
    """FLOPs of the matrix products of forward and backward; eager attention, whose products the counter knows."""
    model = build(name.removesuffix(", compiled"), replace(setting, attention="eager"))
    with FlopCounterMode(display=False) as counter:
        model(**batch).backward()
    return float(counter.get_total_flops())


def peak_memory(name: str, setting: Setting) -> float:
    """Bytes of all tensors at the peak of a step: weights, the optimiser's state, activations, whatever is alive."""
    step = make_step(name, setting, setting.make_batch())
    step()
    if setting.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        step()
        return float(torch.cuda.max_memory_allocated())
    # Not the process's resident size, in which the C allocator keeps what tensors have given back.
    held = sum(tensor.untyped_storage().nbytes() for tensor in tensors_alive())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return held + max(itertools.accumulate(event.nbytes() for event in changes))


def tensors_alive() -> list[torch.Tensor]:
    """The tensors that the garbage collector knows, one for each storage."""
    found = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    return list({tensor.untyped_storage().data_ptr(): tensor for tensor in found}.values())


def in_new_process(function: Callable, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(setting: Setting, rounds: int, compiled: bool, memory: bool) -> list[dict]:
    """One cell of the table: a row for each contestant."""
    check_losses(setting)
    batch = setting.make_batch()
    names = contestants(setting.family, compiled)
    product, product_flops = matrix_product(setting)
    steps: dict[str, Callable[[], object]] = {name: make_step(name, setting, batch) for name in names}
    seconds = time_in_turns({**steps, "product": product}, setting.device, rounds)
    peak = product_flops / min(seconds["product"])
    steps.clear()
    gc.collect()
    rows = []
    for name in names:
        median = statistics.median(seconds[name])
        flops = count_flops(name, setting, batch)
        ratios = [ours / theirs for ours, theirs in zip(seconds[name], seconds[NAIVE], strict=True)]
        row = {**asdict(setting), "contestant": name, "seconds": median, "ratio": statistics.median(ratios)}
        row |= {"tokens_per_second": setting.batch * setting.length / median, "flops": flops}
        row |= {"peak_flops_per_second": peak, "share_of_peak": flops / median / peak}
        if memory:
            row["peak_bytes"] = in_new_process(peak_memory, name, setting)
        rows.append(row)
    objectives = [a / b for a, b in zip(seconds[OURS], seconds[TOKEN_OBJECTIVES], strict=True)]
    rows[names.index(OURS)]["over_token_objectives"] = statistics.median(objectives)
    return rows


def show(setting: Setting, rows: list[dict]) -> None:
    print(
        f"\n{setting.family}, {setting.size}, length {setting.length}, vocabulary {setting.vocab_size:,}, "
        f"batch {setting.batch}, {setting.precision}, dropout {setting.dropout}, {setting.attention}, "
        f"{setting.device}; peak {rows[0]['peak_flops_per_second'] / 1e12:.3f} TFLOP/s"
    )
    print(f"{'':32}{'seconds':>10}{'ratio':>8}{'tokens/s':>12}{'GFLOP':>10}{'of peak':>9}{'memory':>12}")
    naive_bytes = rows[0].get("peak_bytes")
    for row in rows:
        used = row.get("peak_bytes")
        memory = "" if used is None else f"{used / 2**20:,.0f} MiB {used / naive_bytes:5.2f}"
        print(
            f"{row['contestant']:32}{row['seconds']:10.4f}{row['ratio']:8.3f}{row['tokens_per_second']:12,.0f}"
            f"{row['flops'] / 1e9:10.1f}{row['share_of_peak']:9.1%}  {memory}"
        )
    extra = next(row["over_token_objectives"] for row in rows if "over_token_objectives" in row)
    print(f"all four objectives over MLM + RTD: {extra - 1:+.1%}", flush=True)


# --- rows of different lengths ------------------------------------------------------------------------------------


def measure_packing(setting: Setting, rounds: int) -> dict[str, float]:
    """Our step on rows of 3 to `length` tokens, evenly drawn: padded, and several to a row (`--pack_documents`)."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, setting.length + 1, 4 * setting.batch)
    rows = [np.r_[0, generator.integers(5, setting.vocab_size, n - 2), 1] for n in lengths]
    shared = join_sequences(pa.array(rows), assign_rows(lengths, setting.length)).to_pylist()
    collator = DataCollatorForSpanMasking(made_up_tokenizer(setting.vocab_size), pad_to_multiple_of=setting.length)
    steps, tokens = {}, {}
    for name, batch_rows in (("padded", rows), ("several to a row", shared)):
        batch = collator([{"input_ids": row} for row in batch_rows])
        tokens[name] = int(batch["attention_mask"].sum())
        steps[name] = make_step(OURS, setting, {key: value.to(setting.device) for key, value in batch.items()})
    seconds = time_in_turns(steps, setting.device, rounds)
    return {name: tokens[name] / statistics.median(seconds[name]) for name in steps}


# --- where the time goes -----------------------------------------------------------------------------------------

# Parts of operator names -> what the operator is to the reader. The first that fits counts.
KINDS = {
    "linear layers": ("addmm", "::mm", "linear", "gemm"),
    "objective": (
        *("log_softmax", "entropy", "nll", "index", "gather", "scatter", "sort", "cum", "argmax", "where"),
        *("bitwise", "shift", "xor", "::log_"),  # the samples' noise
    ),
    "attention": ("attention", "bmm", "softmax"),
    "dropout": ("bernoulli", "dropout"),
    "GELU": ("gelu",),
    "layer norm": ("layer_norm",),
    "optimiser, clipping": ("adam", "foreach", "norm"),
    "copies, sums": ("copy", "add", "sum", "fill", "zero", "cat"),
}


def profile_step(setting: Setting, steps: int = 3) -> dict[str, float]:
    """Share of our step's time by kind of operator."""
    batch = setting.make_batch()
    step = make_step(OURS, setting, batch)
    step()
    on_cpu = setting.device == "cpu"
    activities = [ProfilerActivity.CPU] if on_cpu else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        wait(setting.device)
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        if not on_cpu and event.device_type != DeviceType.CUDA:
            continue  # an operator, whose kernels are events of their own
        kind = next(
            (kind for kind, parts in KINDS.items() if any(part in event.key.lower() for part in parts)), "rest"
        )
        spent[kind] = spent.get(kind, 0.0) + (event.self_cpu_time_total if on_cpu else event.self_device_time_total)
    total = sum(spent.values())
    return dict(sorted(((kind, time / total) for kind, time in spent.items()), key=lambda item: -item[1]))


def check_no_synchronisation(setting: Setting) -> None:
    """Raise if our step makes the host wait for the GPU."""
    step = make_step(OURS, setting, setting.make_batch())
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def largest_batch(name: str, setting: Setting) -> int:
    """The largest power of two of rows whose step fits the GPU's memory."""
    rows = 8
    while True:
        try:
            larger = replace(setting, batch=2 * rows)
            make_step(name, larger, larger.make_batch())()
        except torch.OutOfMemoryError:
            return rows
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        rows *= 2


# --- command -----------------------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--vocab_sizes", type=int, nargs="+", default=[10_000, 30_522])
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.1, 0.0])
    parser.add_argument(
        "--attention", nargs="+", default=["sdpa"], help="sdpa, eager, flash_attention_2, flex_attention"
    )
    parser.add_argument("--batch", type=int, default=128 if on_gpu else 8)
    parser.add_argument("--rounds", type=int, default=20 if on_gpu else 7)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--compile", action="store_true", default=on_gpu, help="also time compiled steps")
    parser.add_argument("--memory", action="store_true", help="also measure memory, in processes of their own")
    parser.add_argument("--profile", action="store_true", help="also show where our step's time goes")
    parser.add_argument("--packing", action="store_true", help="also time our step on rows of all lengths")
    parser.add_argument("--largest_batch", action="store_true", help="also find the largest batch (GPU)")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    return parser.parse_args()


def measure_setting(setting: Setting, arguments: argparse.Namespace) -> list[dict]:
    """The figures of every contestant, and whatever else was asked for."""
    if arguments.device != "cpu":
        check_no_synchronisation(setting)
    rows = measure(setting, arguments.rounds, arguments.compile, arguments.memory)
    show(setting, rows)
    if arguments.profile:
        shares = profile_step(setting)
        print("our step: " + ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items()))
        rows[-1]["profile"] = shares
    if arguments.packing:
        speeds = measure_packing(setting, arguments.rounds)
        print("rows of all lengths: " + ", ".join(f"{name} {speed:,.0f} tokens/s" for name, speed in speeds.items()))
        rows[-1]["packing"] = speeds
    if arguments.largest_batch and arguments.device != "cpu":
        for row in rows:
            row["largest_batch"] = largest_batch(row["contestant"], setting)
            print(f"largest batch of {row['contestant']}: {row['largest_batch']}")
    return rows


def main() -> None:
    arguments = parse_arguments()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.device}")
    cells = itertools.product(
        arguments.families,
        arguments.attention,
        arguments.precisions,
        arguments.dropouts,
        arguments.vocab_sizes,
        arguments.lengths,
    )
    results = []
    for family, attention, precision, dropout, vocab_size, length in cells:
        if attention == "flex_attention" and dropout:
            print("flex_attention has no dropout: left out")
            continue
        setting = Setting(
            *(arguments.size, length, vocab_size, arguments.batch, precision, dropout, arguments.device, attention),
            family=family,
        )
        results += measure_setting(setting, arguments)
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
