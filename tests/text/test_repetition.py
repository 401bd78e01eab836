"""Repetition on counts made by hand, and marks where prose has them."""

import pytest

from ddllm.text.repetition import distinct, repeated, split_words, tidy


def test_distinct_is_a_share_of_all_n_grams():
    texts = ["a b a b", "a b c"]  # ab ba ab, ab bc: three of five pairs are different ones
    assert distinct(texts, 1) == pytest.approx(3 / 7) and distinct(texts, 2) == pytest.approx(3 / 5)
    assert distinct(["a"], 2) == 1, "nothing is repeated where there is no pair"


def test_repeated_is_a_mean_over_texts():
    # The first text has abcd, bcda, cdab, dabc, abcd again: one of five; the second repeats nothing, the third is too short to count.
    assert repeated(["a b c d a b c d", "a b c d e", "a b c"]) == pytest.approx((1 / 5 + 0) / 2)
    assert repeated(["film film film film film"], 4) == pytest.approx(1 / 2) and repeated(["a b"]) == 0


def test_words_do_not_depend_on_spaces():
    assert split_words("It's well-made , really .") == split_words("it ' s well - made, really.") == ["it", "'", "s", "well", "-", "made", ",", "really", "."]


@pytest.mark.parametrize(
    ("written", "prose"),
    [
        ("it ' s a well - made film , ( and how ! ) .", "it's a well-made film, (and how!)."),
        ("they wo n't , and you do n ' t .", "they won't, and you don't."),
        ("fun - - and they ' ve earned $ 5", "fun -- and they've earned $5"),
        ("nothing to do here", "nothing to do here"),
    ],
)
def test_marks_stand_where_prose_has_them(written, prose):
    assert tidy(written) == prose == tidy(prose)
