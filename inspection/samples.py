"""What a pair does with a few passages: what the generator guesses, and how the discriminator judges every token.

Everything here is plain data (dictionaries, lists, text), which the page embeds as JSON.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.model import PretrainingModel
from span_electra.span_objectives import IGNORED, MaskedTokens

# Together these keep the page small, and an evaluation's share of it below a few seconds.
MOST_PASSAGES, MOST_TOKENS = 24, 3072
GUESSES = 5

# How a token was judged: the first two are right, the next two wrong.
ORIGINAL, FOUND, MISSED, ALARM, UNJUDGED = "original", "found", "missed", "alarm", "unjudged"
WORDS = {
    ORIGINAL: "original, taken for original",
    FOUND: "replaced, and found",
    MISSED: "replaced, but missed",
    ALARM: "original, but a false alarm",
    UNJUDGED: "not judged",
}

Piece = Callable[[int, int], str]


def make_piece(tokenizer: PreTrainedTokenizerBase) -> Piece:
    """Return a function of a token's left neighbour and the token (both ids) that gives the token's text.

    The text begins with a space if one stands before it.
    """
    special = set(tokenizer.all_special_ids)
    anchor, decode = tokenizer.mask_token_id, tokenizer.backend_tokenizer.decode
    known: dict[tuple[int, int], str] = {}

    def piece(previous: int, token: int) -> str:
        if (previous, token) not in known:
            before = decode([anchor, previous], skip_special_tokens=False)
            text = decode([anchor, previous, token], skip_special_tokens=False)[len(before) :]
            # Of white space, or part of a character, there would be nothing to see.
            shown = text.strip() or ("␣" if text else str(tokenizer.convert_ids_to_tokens(token)))
            known[previous, token] = f" {shown}" if text[:1].isspace() or special & {previous, token} else shown
        return known[previous, token]

    return piece


def make_batch(
    rows: Sequence[dict], collator: Callable[[list[dict]], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Mask `rows` and choose as many as fit on a page (perhaps none): rows that something is masked in, long before
    short ones, which are mostly headings."""
    batch = collator(list(rows))
    batch.pop("fixed_labels", None)
    tokens, has_masks = batch["attention_mask"].sum(dim=1), (batch["labels"] != IGNORED).any(dim=1)
    order = (tokens * 2 < tokens.max()).to(torch.uint8).argsort(stable=True)
    order = order[has_masks[order]][:MOST_PASSAGES]
    chosen = order[tokens[order].cumsum(dim=0) <= max(MOST_TOKENS, int(tokens.max()))].sort().values
    longest = int(tokens[chosen].max()) if len(chosen) else 0
    return {name: values[chosen][:, :longest] if values.ndim > 1 else values[chosen] for name, values in batch.items()}


def passages(batch: dict[str, torch.Tensor], piece: Piece) -> list[dict[str, Any]]:
    """The text of each row by tokens, where it is masked, and what the generator sees there."""
    labels = batch["labels"]
    originals = batch["input_ids"].where(labels == IGNORED, labels)
    found = []
    for ids, seen, masked, real in zip(
        originals.tolist(),
        batch["input_ids"].tolist(),
        (labels != IGNORED).tolist(),
        batch["attention_mask"].sum(dim=1).tolist(),
        strict=True,
    ):
        where = [i for i in range(real) if masked[i]]
        found.append(
            {
                "tokens": [piece(ids[i - 1] if i else ids[i], ids[i]) for i in range(real)],
                "masked": where,
                "seen": [piece(ids[i - 1], seen[i]) for i in where],
            }
        )
    return found


@torch.no_grad()
def judge(model: PretrainingModel, batch: dict[str, torch.Tensor], piece: Piece) -> list[dict[str, Any]]:
    """What the pair makes of each row of `batch`.

    Returns:
        For each row: `verdicts` and `odds` (that the token was replaced, in percent) of every token, and for every
        masked one `put` (what the generator put there), `chance` (the probability of that, in percent), and its best
        guesses with theirs, `from_position` and `from_boundaries` (None without SBGO). `odds` is None if the
        discriminator was not trained.
    """
    was_training = model.training
    model.eval()
    try:
        return _judge(model, {name: values.to(model.device) for name, values in batch.items()}, piece)
    finally:
        model.train(was_training)


def _judge(model: PretrainingModel, batch: dict[str, torch.Tensor], piece: Piece) -> list[dict[str, Any]]:
    ids, labels, real = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
    positions = batch.get("position_ids")
    masks, masked = model.attention_mask_of(real, positions), MaskedTokens.of(labels)
    inputs = {"token_type_ids": None, "position_ids": positions, "return_dict": True}
    hidden = model.encode_masked(ids, attention_mask=masks["generator"], **inputs)
    scores, boundary_scores = model.score_vocabulary(hidden, masked)  # (N, V)
    put = model.sample(scores, masked, batch["sampling_keys"], labels.shape)  # (N,)
    corrupted = masked.write(put, into=ids)
    is_replaced = (labels != IGNORED) & (corrupted != labels)
    logits = None
    if model.config.objective != "generator":
        encoded = model.encode_corrupted(corrupted, attention_mask=masks["discriminator"], **inputs)
        logits = model.score_replaced(encoded.last_hidden_state).float()  # (B, T)

    originals = ids.where(labels == IGNORED, labels).flatten()
    places = masked.positions.tolist()
    previous = originals[masked.positions - 1].tolist()  # a masked token is never the first of its row
    chance = scores.float().softmax(dim=-1).gather(1, put[:, None]).squeeze(1)
    columns: dict[str, list] = {
        "put": [piece(before, token) for before, token in zip(previous, put.tolist(), strict=True)],
        "chance": percent(chance),
        "from_position": best_guesses(scores, previous, piece),
        "from_boundaries": [None] * len(places),
    }
    if boundary_scores is not None:
        columns["from_boundaries"] = best_guesses(boundary_scores, previous, piece)
    results = []
    for row, tokens in enumerate(real.sum(dim=1).tolist()):
        mine = [n for n, place in enumerate(places) if place // labels.shape[1] == row]
        replaced = is_replaced[row, :tokens].tolist()
        flagged = None if logits is None else (logits[row, :tokens] > 0).tolist()
        results.append(
            {
                "verdicts": [verdict(*both) for both in zip(replaced, flagged or [None] * tokens, strict=True)],
                "odds": None if logits is None else percent(logits[row, :tokens].sigmoid()),
                **{name: [values[n] for n in mine] for name, values in columns.items()},
            }
        )
    return results


def best_guesses(scores: torch.Tensor, previous: list[int], piece: Piece) -> list[list[tuple[str, int]]]:
    """The likeliest tokens with their probabilities in percent, from scores of the vocabulary (N, V)."""
    values, tokens = scores.float().softmax(dim=-1).topk(min(GUESSES, scores.shape[1]))
    return [
        [(piece(before, token), share) for token, share in zip(row, percent(shares), strict=True)]
        for before, row, shares in zip(previous, tokens.tolist(), values, strict=True)
    ]


def percent(probabilities: torch.Tensor) -> list[int]:
    return (probabilities * 100).round().int().tolist()


def verdict(is_replaced: bool, is_flagged: bool | None) -> str:
    if is_flagged is None:
        return UNJUDGED
    if is_replaced:
        return FOUND if is_flagged else MISSED
    return ALARM if is_flagged else ORIGINAL


def summary(shown: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Counts over all passages: what was counted, and how often it was."""
    masked = sum(len(passage["masked"]) for passage in shown)
    originals = [[passage["tokens"][i] for i in passage["masked"]] for passage in shown]
    rows = [("masked tokens", f"{masked:,}")]
    for name, source in (("from their position", "from_position"), ("from the boundaries", "from_boundaries")):
        if results[0][source][0] is None:
            continue
        right = sum(
            guesses[0][0] == original
            for passage, texts in zip(results, originals, strict=True)
            for guesses, original in zip(passage[source], texts, strict=True)
        )
        rows.append((f"guessed right {name}", share(right, masked)))
    counts = {kind: sum(passage["verdicts"].count(kind) for passage in results) for kind in (FOUND, MISSED, ALARM)}
    if results[0]["odds"] is not None:
        judged = sum(len(passage["tokens"]) for passage in shown)
        replaced = counts[FOUND] + counts[MISSED]
        rows.append(("replaced tokens found", share(counts[FOUND], replaced)))
        rows.append(("false alarms among the others", share(counts[ALARM], judged - replaced)))
    return rows


def share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.0f}\u00a0%)" if whole else "")


def make_collator(tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> DataCollatorForSpanMasking:
    """The masks of a run's evaluations, from the options of the run, as far as they are known."""
    names = ("mask_ratio", "max_span_words", "whole_words", "pack_documents")
    return DataCollatorForSpanMasking(tokenizer, **{name: settings[name] for name in names if name in settings})
