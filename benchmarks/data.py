"""Tokens per second of the data path. `python benchmarks/data.py` prints a table; one thread, medians.

Every collator gets the same rows in every round, so that a noisy machine slows all of them alike.
"""

import statistics
import time

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from span_electra.data_collator import DataCollatorForSpanMasking


def made_up_tokenizer(vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer a third of whose pieces continue a word, as in English text with 10,000 pieces."""
    special = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
    pieces = special + [("##" if i % 3 == 0 else "") + f"w{i}" for i in range(vocabulary_size - len(special))]
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **names)


def mask_in_a_plain_loop(rows: list[np.ndarray], continues: np.ndarray, mask_id: int, random) -> dict:
    """Span masking as one writes it first: word by word, row by row. Rows are of one length."""
    batch_ids, batch_labels = [], []
    for row in rows:
        words: list[list[int]] = []
        for i in range(1, len(row) - 1):
            if words and continues[row[i]]:
                words[-1].append(i)
            else:
                words.append([i])
        budget, ids, labels = round(0.15 * (len(row) - 2)), row.tolist(), [-100] * len(row)
        while budget > 0:
            length, start = min(random.geometric(0.2), 10), random.integers(len(words))
            for word in words[start : start + length]:
                for i in word:
                    if budget > 0 and labels[i] == -100:
                        ids[i], labels[i], budget = mask_id, int(row[i]), budget - 1
        batch_ids.append(ids)
        batch_labels.append(labels)
    return {"input_ids": torch.tensor(batch_ids), "labels": torch.tensor(batch_labels)}


def bench_collation(rows: int = 64, length: int = 512, vocabulary_size: int = 10_000, rounds: int = 30) -> dict:
    """Return the tokens per second on one thread of each collator, on rows that are NumPy arrays."""
    torch.set_num_threads(1)
    tokenizer = made_up_tokenizer(vocabulary_size)
    random = np.random.default_rng(0)
    continues = np.arange(vocabulary_size) % 3 == 2  # id 5 is piece w0
    collators = {
        "spans of whole words (ours)": DataCollatorForSpanMasking(tokenizer),
        "library, masked LM": DataCollatorForLanguageModeling(tokenizer),
        "library, whole words": DataCollatorForLanguageModeling(
            tokenizer, whole_word_mask=True, mask_replace_prob=1, random_replace_prob=0
        ),
        "plain loop": lambda features: mask_in_a_plain_loop(
            [feature["input_ids"] for feature in features], continues, tokenizer.mask_token_id, random
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in collators}
    for _ in range(rounds):
        ids = random.integers(5, vocabulary_size, (rows, length))
        ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        for name, collator in collators.items():
            features = [{"input_ids": row} for row in ids]
            if name == "library, whole words":
                # It reads words off the tokenizer's offsets, where a continuing piece begins at the last one's end.
                for feature in features:
                    begins = 2 * np.arange(length) - continues[feature["input_ids"]]
                    ends = 2 * np.arange(length) + 1
                    feature["offset_mapping"] = list(zip(begins.tolist(), ends.tolist(), strict=True))
            begin = time.perf_counter()
            collator(features)
            seconds[name].append(time.perf_counter() - begin)
    return {name: rows * length / statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    print("Collation, 64 × 512, NumPy rows, one thread")
    for name, speed in bench_collation().items():
        print(f"{name:30} {speed / 1e6:8.2f} M tokens/s")
