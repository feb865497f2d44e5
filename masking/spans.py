"""Choose the words of a batch to mask: spans of random lengths that meet each row's budget and do not touch.

The B rows of a batch are concatenated: N tokens and W words. Every step is an array operation over all of them, and
the only loops are over rounds. Random numbers have addresses: each is a function of its row's key, its purpose and a
counter.
"""

import numpy as np

from span_electra.masking.randomness import CUT, LENGTHS, ORDER, PARTS, REMAINDER, mix64, random_bits

ATTEMPTS = 32  # with these, 1 of 15,000 rows of 3 to 14 words masks fewer tokens than possible; with 16, 11 rows


def span_length_tables(p: float, max_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two tables that map 16 random bits to a number of words.

    The first gives the length of a span. The second gives how much of its first span a row holds, if the row starts at
    a random position in an endless sequence of spans with one word between neighbours.
    """
    length = np.arange(max_words + 1)
    probability = np.where(length > 0, p * (1 - p) ** (length - 1.0), 0)
    at_least = probability[::-1].cumsum()[::-1]  # renewal theory: r words remain as often as lengths reach r
    quantile = (np.arange(2**16) + 0.5) / 2**16
    cumulated = [(weights / weights.sum()).cumsum() for weights in (probability, at_least)]
    lengths, parts_inside = (np.searchsorted(c, quantile).astype(np.int32) for c in cumulated)
    return lengths, parts_inside


def span_lengths(bits: np.ndarray, table: np.ndarray) -> np.ndarray:
    return table.take((bits >> 48).view(np.int64))


def runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and (exclusive) ends of the runs of true flags. The first and last flag must be false."""
    edges = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    return edges[::2], edges[1::2]


def sequence_budgets(
    ordinary_tokens: np.ndarray, first_sequences: np.ndarray, mask_ratio: float, keys: np.ndarray
) -> np.ndarray:
    """Return how many tokens to mask in each sequence, (S,).

    This is `mask_ratio` of the sequence's `ordinary_tokens`, (S,), rounded up or down at random, so that the sum over
    a row is also off by less than one (systematic sampling). A row masks at least one token. `first_sequences` and
    `keys` belong to the rows, (B,).
    """
    row_totals = np.add.reduceat(ordinary_tokens, first_sequences)
    row_shares = np.maximum(mask_ratio * row_totals, 1)
    counts = np.diff(first_sequences, append=ordinary_tokens.size)
    before = np.cumsum(row_totals) - row_totals
    within_row = np.cumsum(ordinary_tokens) - before.repeat(counts)  # up to the end of each sequence
    chance = (random_bits(keys, PARTS, np.zeros(keys.size)) >> 48) * 2.0**-16  # in [0, 1)
    exact_ends = within_row * row_shares.repeat(counts) / np.maximum(row_totals, 1).repeat(counts)
    ends = np.floor(exact_ends + chance.repeat(counts)).astype(np.int64)
    budgets = np.diff(ends, prepend=0)
    budgets[first_sequences] = ends[first_sequences]
    return budgets


def sample_span_mask(word_tokens, maskable, row_words, budgets, keys, length_tables) -> np.ndarray:
    """Choose the words to mask.

    Args:
        word_tokens: Tokens of every word, shape (words of all rows).
        maskable: Whether a word may be masked; false for the first and the last word of a row. Same shape.
        row_words: Words of every row, shape (rows).
        budgets: Tokens to mask in every row.
        keys: Random key of every row, from `row_keys`.
        length_tables: From `span_length_tables`.

    Returns:
        Whether a word is masked, shape (words of all rows). The runs of masked words are the spans.
    """
    masked, missing = fill_budgets(word_tokens, maskable, row_words, budgets, keys, length_tables)
    if missing.any():
        first_words = np.cumsum(row_words) - row_words
        smallest = np.minimum.reduceat(np.where(maskable, word_tokens, word_tokens.sum()), first_words)
        missing[smallest > budgets] = 0  # no attempt can mask anything in these rows
    for attempt in range(1, ATTEMPTS):
        # In a row of few words, these spans may leave no room, and others may.
        rows = np.flatnonzero(missing)
        if not rows.size:
            break
        words = np.repeat(missing > 0, row_words)
        new_keys = mix64(keys[rows] + np.uint64(attempt))
        again, still_missing = fill_budgets(
            word_tokens[words], maskable[words], row_words[rows], budgets[rows], new_keys, length_tables
        )
        better = still_missing < missing[rows]
        masked[words] = np.where(np.repeat(better, row_words[rows]), again, masked[words])
        missing[rows] = np.minimum(still_missing, missing[rows])
    return masked


def fill_budgets(word_tokens, maskable, row_words, budgets, keys, length_tables):
    """Try `sample_span_mask` once. Also return how many tokens each row lacks to meet its budget."""
    first_words = np.cumsum(row_words) - row_words  # (B,)
    word_rows = np.repeat(np.arange(row_words.size), row_words)  # (W,)
    starts, ends = candidate_spans(maskable, first_words, row_words, keys, length_tables)
    rows = word_rows[starts]

    # A random order within each row: the row is in the upper bits of the sort key.
    bits = random_bits(keys[rows], ORDER, starts - first_words[rows])
    order = np.argsort((rows << 44).view(np.uint64) | (bits >> 20))
    starts, ends = starts[order], ends[order]  # `rows` is sorted already

    word_offsets = np.concatenate([[0], np.cumsum(word_tokens)])  # (W + 1,)
    tokens = word_offsets[ends] - word_offsets[starts]
    before = np.cumsum(tokens) - tokens  # tokens of the candidates before this one, first over all rows
    row_begins = np.searchsorted(rows, np.arange(row_words.size))
    room = budgets[rows] - before + np.append(before, 0)[row_begins][rows]
    accepted = room > 0
    starts, ends, rows, room = starts[accepted], ends[accepted], rows[accepted], room[accepted]
    # The last span keeps as many words as fit, from a random position on.
    crossing = np.flatnonzero(tokens[accepted] > room)
    surplus = (tokens[accepted] - room)[crossing]
    bits = random_bits(keys[rows[crossing]], CUT, np.zeros(crossing.size))
    skipped = ((bits >> 32) * (surplus + 1).astype(np.uint64) >> 32).view(np.int64)
    starts[crossing] = np.searchsorted(word_offsets, word_offsets[starts[crossing]] + skipped)
    fitting = np.searchsorted(word_offsets, word_offsets[starts[crossing]] + room[crossing], side="right") - 1
    ends[crossing] = np.minimum(fitting, ends[crossing])

    change = np.zeros(maskable.size, dtype=np.int8)
    change[starts] = 1
    change[ends] -= 1
    masked = np.cumsum(change, dtype=np.int8).view(bool)
    tokens = word_offsets[ends] - word_offsets[starts]
    missing = budgets - np.bincount(rows, tokens, row_words.size).astype(np.int64)
    add_single_words(masked, missing, word_tokens, maskable, word_rows, first_words, keys)
    return masked, missing


def candidate_spans(maskable, first_words, row_words, keys, length_tables):
    """Cover every row with spans of random lengths, one word apart, and cut them at words that must not be masked.

    A row starts at a random position in the sequence of spans, so that all words are covered with equal probability.
    """
    lengths, parts_inside = length_tables
    most = row_words.max() // 2 + 1  # a span and its gap take two words at least
    bits = random_bits(keys[:, None], LENGTHS, np.arange(most))  # (B, most)
    steps = span_lengths(bits, lengths) + 1
    steps[:, 0] = span_lengths(bits[:, 0], parts_inside)
    gaps = np.cumsum(steps, axis=1, dtype=np.int64)
    free = maskable.copy()
    free[(gaps + first_words[:, None])[gaps < row_words[:, None]]] = False
    return runs(free)


def add_single_words(masked, missing, word_tokens, maskable, word_rows, first_words, keys):
    """Mask single words that touch no span, until no budget has room for one. Changes `masked` and `missing`.

    A word that uses up the row's budget is preferred, and chance decides among equals.
    """
    while missing.any():
        fits = maskable & (word_tokens <= missing[word_rows]) & ~masked
        fits[1:] &= ~masked[:-1]
        fits[:-1] &= ~masked[1:]
        words = np.flatnonzero(fits)
        if not words.size:
            return
        rows = word_rows[words]
        score = random_bits(keys[rows], REMAINDER, words - first_words[rows]) >> 1
        score |= (word_tokens[words] == missing[rows]).astype(np.uint64) << 63
        row_begins = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.maximum.reduceat(score, row_begins)
        chosen = words[score == np.repeat(best, np.diff(row_begins, append=rows.size))]
        masked[chosen] = True
        missing[word_rows[chosen]] -= word_tokens[chosen]
