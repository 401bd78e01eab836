"""Held-out rows, duplicates and limits: proportions, disjointness, and the same rows for the same seed."""

import numpy as np
import pytest

from ddllm.data.splits import Split, count_rows, draw_part, hold_out, remove_texts, share_out
from ddllm.errors import UserError


def make_split(counts: list[int]) -> Split:
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return Split([f"text {row}" for row in range(len(labels))], labels)


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [
        ([50, 50], 10, [5, 5]),
        ([90, 10], 10, [9, 1]),
        ([99, 1], 10, [9, 1]),
        ([1000, 1, 1, 1], 4, [1, 1, 1, 1]),
        ([5, 0, 5], 4, [2, 0, 2]),
        ([2, 2], 9, [2, 2]),
        ([5, 5, 5], 2, [1, 1, 0]),
    ],
)
def test_shares(counts: list[int], total: int, shares: list[int]) -> None:
    assert share_out(np.array(counts), total).tolist() == shares


@pytest.mark.parametrize(("counts", "total"), [([31, 7, 62], t) for t in (1, 2, 3, 4, 17, 50, 99)])
def test_shares_add_up_and_fit(counts: list[int], total: int) -> None:
    shares = share_out(np.array(counts), total)
    assert shares.sum() == total and (shares <= counts).all() and (shares >= (total >= 3)).all()
    assert (np.abs(shares - np.array(counts) * total / 100) <= 1).all()


def test_held_out_rows_are_stratified_and_repeat_with_the_seed() -> None:
    split = make_split([60, 30])
    rest, held = hold_out(split, 30, [0, 1])
    assert len(rest) == 60 and np.bincount(held.labels).tolist() == [20, 10]
    assert sorted(rest.texts + held.texts) == sorted(split.texts)
    assert all(split.labels[split.texts.index(text)] == label for text, label in zip(held.texts, held.labels, strict=True))
    assert hold_out(split, 30, [0, 1])[1].texts == held.texts
    assert hold_out(split, 30, [1, 1])[1].texts != held.texts


def test_equal_texts_are_held_out_together() -> None:
    texts = [f"text {row // 3}" + " " * (row % 3) for row in range(90)]
    rest, held = hold_out(Split(texts, np.tile(np.array([0, 1], np.int32), 45)), 30, [0, 1])
    assert 20 <= len(held) <= 30 and len(rest) + len(held) == 90
    assert not {text.strip() for text in rest.texts} & {text.strip() for text in held.texts}


def test_a_class_is_never_held_out_whole() -> None:
    rest, held = hold_out(make_split([50, 1]), 20, [0, 1])
    assert 1 in rest.labels and 1 not in held.labels


def test_limits_are_stratified_and_keep_the_order() -> None:
    split = make_split([60, 30])
    part = draw_part(split, 12, [0, 3])
    assert np.bincount(part.labels).tolist() == [8, 4]
    assert part.texts == [text for text in split.texts if text in part.texts]
    assert draw_part(split, 12, [0, 3]).texts == part.texts != draw_part(split, 12, [1, 3]).texts
    assert draw_part(split, 0, [0, 3]) is split and draw_part(split, 90, [0, 3]) is split


def test_removed_texts_differ_in_white_space_only() -> None:
    split = Split(["a b", "a  b", "a\tb", "A b", "c"], np.arange(5, dtype=np.int32))
    left, removed = remove_texts(split, [Split(["a\nb"], np.zeros(1, np.int32)), Split([], np.zeros(0, np.int32))])
    assert (left.texts, left.labels.tolist(), removed) == (["A b", "c"], [3, 4], 3)


@pytest.mark.parametrize(("size", "rows"), [(0.1, 10), (0.25, 25), (2, 2), (50.0, 50)])
def test_sizes(size: float, rows: int) -> None:
    assert count_rows(size, 100, 100, "validation_size") == rows


@pytest.mark.parametrize("size", [0, 1, 0.001, 100, 1000, 0.9])
def test_sizes_that_leave_nothing(size: float) -> None:
    with pytest.raises(UserError, match="config.data.validation_size is"):
        count_rows(size, 100, 80, "validation_size")


def test_pairs_are_the_same_where_both_texts_are() -> None:
    split = Split(["a", "a", "b", "a b"], np.arange(4, dtype=np.int32), ["x", "y z", "x", "x"])
    left, removed = remove_texts(split, [Split(["a", "a"], np.zeros(2, np.int32), ["b x", "y  z"])])
    assert (left.texts, left.pairs, removed) == (["a", "b", "a b"], ["x", "x", "x"], 1)
    doubled = split.take(np.tile(np.arange(4), 10))
    rest, held = hold_out(Split(doubled.texts, np.zeros(40, np.int32), doubled.pairs), 12, [0, 1])
    assert not set(rest.keys()) & set(held.keys()) and len(held) == 10


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 90, dtype=np.float32), np.eye(90, 3, dtype=np.float32)])
def test_labels_that_are_no_classes_are_drawn_as_they_come(labels: np.ndarray) -> None:
    split = Split([f"text {row}" for row in range(90)], labels)
    part = draw_part(split, 12, [0, 3])
    rest, held = hold_out(split, 30, [0, 1])
    assert (len(part), len(rest), len(held)) == (12, 60, 30) and part.labels.shape[1:] == labels.shape[1:]
