"""The first token of each word, by where tokens begin and end."""

from span_electra.common.tagged_words import first_tokens


def test_a_words_first_token_may_begin_with_the_space_before_it():
    offsets = [(0, 0), (0, 2), (2, 6), (6, 8), (8, 9), (0, 0)]  # "one two": [CLS], on, e_tw of both, …
    assert first_tokens([(0, 0), (0, 3), (3, 6), (6, 7), (0, 0)], ["one", "two"], True) == {0: 1, 1: 2}
    assert first_tokens([(0, 3), (3, 4), (4, 7)], ["one", "two"], True) == {0: 0, 1: 2}  # a space alone
    assert first_tokens(offsets, ["one", "twoo"], True) == {0: 1, 1: 2}


def test_a_window_may_begin_within_a_word_but_no_document_does():
    offsets = [(0, 0), (1, 2), (2, 3), (4, 7), (0, 0)]
    assert first_tokens(offsets, ["one", "two"], False) == {1: 3}
    assert first_tokens(offsets, ["one", "two"], True) == {0: 1, 1: 3}  # the tokenizer drops the first character
    assert first_tokens([(0, 2), (4, 6), (7, 8)], ["in", " at", "x"], False) == {0: 0, 1: 1, 2: 2}
