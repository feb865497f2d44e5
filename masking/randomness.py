"""Random numbers with addresses: each is a function of its row's key, its purpose and a counter."""

import numpy as np

MASKING_VERSION = 3  # raise it when the same seed masks rows differently

# What a random number is for. Each purpose has an address space of its own.
LENGTHS, ORDER, REMAINDER, REPLACEMENT, RANDOM_TOKENS, SAMPLING, PARTS, CUT = range(1, 9)


def mix64(x: np.ndarray) -> np.ndarray:
    """Apply SplitMix64's output function (Steele et al., 2014), a bijection on uint64 that looks random."""
    shifted = x >> 30  # in place from here on: fresh arrays cost more than the arithmetic
    x = np.bitwise_xor(x, shifted, out=shifted)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> 27
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> 31
    return x


def random_bits(keys: np.ndarray, purpose: int, counters: np.ndarray) -> np.ndarray:
    """Return 64 random bits for each counter."""
    counters = counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # the golden ratio, as SplitMix64 steps
    return mix64(mix64(keys + np.uint64(purpose)) + counters)


def row_keys(input_ids: np.ndarray, row_tokens: np.ndarray, seed: int, epoch) -> np.ndarray:
    """Return one key per row, (B,), which determines all its random numbers.

    `epoch` is one number for all rows, or one for each, (B,). A row's address is its content rather than its position
    in the dataset: the content survives resharding, shuffling, streaming and resuming, and the collator sees nothing
    else. Equal rows get equal masks.
    """
    origin = mix64(np.array([seed % 2**64], dtype=np.uint64))
    origins = mix64(origin + np.asarray(epoch, dtype=np.uint64))  # (1,) or (B,)
    # A sum of ids times random odd weights (multilinear hashing): one multiplication per token.
    weights = mix64(np.arange(1, row_tokens.max() + 1, dtype=np.uint64)) | np.uint64(1)
    weights = np.concatenate([weights[:n] for n in row_tokens])
    content = np.add.reduceat((input_ids + 1).view(np.uint64) * weights, np.cumsum(row_tokens) - row_tokens)
    return mix64(mix64(content) + origins)
