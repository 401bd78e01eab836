"""Buckets against exhaustive search; streams that cover, repeat and resume; evaluation that counts every text once."""

from itertools import combinations

import numpy as np
import pytest

from ddllm.data.batches import POOL, Batch, BatchStream, evaluation_batches, length_buckets
from ddllm.data.tokens import TokenSplit

PAD = 7777


def make_split(count: int, longest: int = 40, classes: int = 2, seed: int = 0) -> TokenSplit:
    """The first token of each text is its row number."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count).astype(np.int32)
    width = int(lengths.max(initial=1))
    ids = np.where(np.arange(width) < lengths[:, None], rng.integers(1000, 2000, (count, width)), PAD).astype(np.int32)
    ids[:, 0] = np.arange(count)
    return TokenSplit(ids, lengths, rng.integers(0, classes, count).astype(np.int32))


def rows_of(batch: Batch) -> np.ndarray:
    return batch.ids[batch.weight > 0, 0]


def assert_faithful(batch: Batch, split: TokenSplit, buckets: tuple[int, ...]) -> None:
    """Each row holds its text's tokens, mask and label, in the narrowest bucket that holds the longest."""
    rows = rows_of(batch)
    assert batch.ids.shape == batch.mask.shape and batch.ids.shape[1] in buckets
    assert batch.ids.shape[1] == min(bucket for bucket in buckets if bucket >= split.lengths[rows].max())
    assert (batch.ids.dtype, batch.mask.dtype, batch.labels.dtype, batch.weight.dtype) == (np.int32, np.float32, np.int32, np.float32)
    for place, row in enumerate(rows):
        length = split.lengths[row]
        assert np.array_equal(batch.ids[place, :length], split.ids[row, :length])
        assert batch.mask[place].tolist() == [1.0] * length + [0.0] * (batch.mask.shape[1] - length)
        assert batch.labels[place] == split.labels[row]


def padded(lengths: np.ndarray, buckets: tuple[int, ...]) -> int:
    return int(np.array(buckets)[np.searchsorted(buckets, lengths)].sum())


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("maximum", [64, 50, 37])
def test_no_other_buckets_waste_less(most: int, maximum: int) -> None:
    lengths = np.minimum(np.random.default_rng(most).gamma(4, 5, 300).astype(int) + 3, maximum)
    buckets = length_buckets(lengths, maximum, 8, most)
    candidates = sorted({min(-(-length // 8) * 8, maximum) for length in lengths.tolist()})
    assert len(buckets) <= most and buckets[-1] == candidates[-1] and set(buckets) <= set(candidates)
    best = min(padded(lengths, (*chosen, candidates[-1])) for k in range(most) for chosen in combinations(candidates[:-1], k))
    assert padded(lengths, buckets) == best


@pytest.mark.parametrize(
    ("lengths", "maximum", "multiple", "most", "buckets"),
    [
        ([5], 512, 8, 4, (8,)),
        ([512] * 3, 512, 8, 4, (512,)),
        ([9, 9], 10, 8, 4, (10,)),
        ([8, 16, 24], 24, 8, 9, (8, 16, 24)),
        ([600], 512, 8, 4, (512,)),
        ([3, 5], 512, 1, 4, (3, 5)),
        ([1, 64, 64], 64, 64, 4, (64,)),
    ],
)
def test_buckets_at_the_edges(lengths: list[int], maximum: int, multiple: int, most: int, buckets: tuple[int, ...]) -> None:
    assert length_buckets(np.array(lengths), maximum, multiple, most) == buckets


@pytest.mark.parametrize("count", [1, 5, 8, 9, 64, 401])
@pytest.mark.parametrize("balanced", [False, True])
def test_stream_is_whole_and_faithful(count: int, balanced: bool) -> None:
    split = make_split(count, classes=1 if count == 1 else 3)
    buckets = length_buckets(split.lengths, 40)
    stream = BatchStream(split, 8, 3, buckets, balanced=balanced)
    assert stream.batches_per_epoch == -(-count // 8)
    for epoch in range(2):
        batches = [stream.batch(epoch * stream.batches_per_epoch + step) for step in range(stream.batches_per_epoch)]
        for batch in batches:
            assert batch.ids.shape[0] == 8 and batch.weight.tolist() == [1.0] * 8
            assert_faithful(batch, split, buckets)
        seen = np.bincount(np.concatenate([rows_of(batch) for batch in batches]), minlength=count)
        if not balanced:
            assert seen.min() >= 1 and seen.max() - seen.min() <= 1


def test_any_batch_is_a_function_of_seed_and_step() -> None:
    split = make_split(100)
    stream, other = (BatchStream(split, 8, 5, (40,)) for _ in range(2))
    forward = [stream.batch(step) for step in range(40)]
    for step in reversed(range(40)):
        for one, two in zip(forward[step], other.batch(step), strict=True):
            assert np.array_equal(one, two)
    resumed = BatchStream(split, 8, 5, (40,))
    assert np.array_equal(resumed.batch(27).ids, forward[27].ids)
    per_epoch = stream.batches_per_epoch
    assert not np.array_equal(forward[0].ids, forward[per_epoch].ids)
    assert not np.array_equal(BatchStream(split, 8, 6, (40,)).batch(0).ids, forward[0].ids)


def test_batches_hold_texts_of_like_length_in_random_order() -> None:
    split = make_split(POOL * 8 * 2)
    buckets = length_buckets(split.lengths, 40)
    stream = BatchStream(split, 8, 0, buckets)
    batches = [stream.batch(step) for step in range(stream.batches_per_epoch)]
    spread = np.mean([np.ptp(split.lengths[rows_of(batch)]) for batch in batches])
    assert spread < 3 < np.ptp(split.lengths) / 2
    widths = [batch.ids.shape[1] for batch in batches]
    assert len(set(widths)) == len(buckets) and widths != sorted(widths)
    assert sum(widths) * 8 < 1.1 * padded(split.lengths, buckets)


def test_balanced_batches() -> None:
    split = make_split(300, classes=2)
    split = TokenSplit(split.ids, split.lengths, (np.arange(300) % 10 == 0).astype(np.int32))
    stream = BatchStream(split, 8, 0, (40,), balanced=True)
    plain = BatchStream(split, 8, 0, (40,))
    assert all(stream.batch(step).labels.sum() == 4 for step in range(100))
    assert np.mean([plain.batch(step).labels.mean() for step in range(100)]) == pytest.approx(0.1, abs=0.02)
    uneven = BatchStream(split, 7, 0, (40,), balanced=True)
    assert {int(uneven.batch(step).labels.sum()) for step in range(20)} == {3, 4}


@pytest.mark.parametrize("size", [32, 77, 90])
def test_more_classes_than_a_batch_has_room_for_take_turns_through_the_epochs(size: int) -> None:
    split = make_split(77 * 5)
    split = TokenSplit(split.ids, split.lengths, np.arange(77 * 5, dtype=np.int32) % 77)
    stream = BatchStream(split, size, 0, (40,), balanced=True)
    drawn = np.zeros(77, int)
    for step in range(7 * stream.batches_per_epoch):
        drawn += np.bincount(stream.batch(step).labels, minlength=77)
    assert np.ptp(drawn) <= 1


def test_a_stream_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one text"):
        BatchStream(make_split(0), 8, 0, (40,))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_evaluation_counts_every_text_once(count: int) -> None:
    split = make_split(count)
    buckets = length_buckets(split.lengths, 40) if count else (40,)
    batches = list(evaluation_batches(split, 8, buckets))
    assert len(batches) == -(-count // 8)
    for batch in batches:
        assert batch.ids.shape[0] == 8 and (batch.mask[:, 0] == 1).all()
        assert_faithful(batch, split, buckets)
        filler = batch.weight == 0
        assert (batch.mask[filler].sum(axis=1) == 1).all() and (batch.labels[filler] == 0).all()
    assert sorted(np.concatenate([rows_of(batch) for batch in batches] or [[]]).tolist()) == list(range(count))


def test_texts_longer_than_any_bucket_get_one_of_their_own() -> None:
    split = make_split(50, longest=40)
    longest = int(split.lengths.max())
    for batch in evaluation_batches(split, 8, (16, 24)):
        assert_faithful(batch, split, (16, 24, longest))
    assert max(BatchStream(split, 8, 0, (16, 24)).batch(step).ids.shape[1] for step in range(7)) == longest


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 21, dtype=np.float32), np.eye(21, 3, dtype=np.float32)])
def test_types_and_other_labels_stand_beside_their_texts(labels: np.ndarray) -> None:
    split = make_split(21)
    types = (np.arange(split.ids.shape[1]) % 2 * (np.arange(split.ids.shape[1]) < split.lengths[:, None])).astype(np.int32)
    split = TokenSplit(split.ids, split.lengths, labels, types)
    batches = [*evaluation_batches(split, 8, (16, 40)), BatchStream(split, 8, 0, (40,), balanced=True).batch(0)]
    for batch in batches:
        assert batch.types.shape == batch.ids.shape and batch.labels.shape == (8, *labels.shape[1:]) and batch.labels.dtype == np.float32
        for place, row in enumerate(rows_of(batch)):
            used = split.lengths[row]
            assert batch.types[place, :used].tolist() == types[row, :used].tolist() and not batch.types[place, used:].any()
            np.testing.assert_array_equal(batch.labels[place], labels[row])
    assert next(iter(evaluation_batches(make_split(3), 8, (40,)))).types is None
