"""Crossed texts: the beginning of one and the end of another, of which a teacher says what they mean."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ddllm.checks import validate
from ddllm.config import default_config
from ddllm.data.batches import BatchStream
from ddllm.data.tokens import TokenSplit
from ddllm.distill.cross import CrossedStream, real_batches
from ddllm.errors import UserError

BEGIN, END = 1, 2


@pytest.fixture(scope="module")
def split():
    """Texts [BEGIN, 100 i + 10, 100 i + 11, …, END] of up to twelve tokens, so that a token tells its text and its place."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 13, 40).astype(np.int32)
    ids = np.zeros((40, 12), np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = [BEGIN, *(100 * row + 10 + np.arange(length - 2)), END]
    return TokenSplit(ids, lengths, (np.arange(40) % 3).astype(np.int32))


def stream_of(split, seed=5):
    return BatchStream(split, 8, seed, (6, 12))


def test_crossed_texts_begin_like_one_and_end_like_another(split):
    crossed, mixed, whole_ones = CrossedStream(stream_of(split), 1.0), 0, 0
    for step in range(20):
        batch, whole = crossed.batch(step), stream_of(split).batch(step)
        assert batch.ids.shape == whole.ids.shape and batch.ids.dtype == np.int32 and batch.mask.dtype == np.float32
        np.testing.assert_array_equal(batch.labels, whole.labels)
        rows = stream_of(split).rows(step)
        for own, ids, mask in zip(rows, batch.ids, batch.mask, strict=True):
            length = int(mask.sum())
            assert mask[:length].all() and not mask[length:].any() and not ids[length:].any()
            assert ids[0] == BEGIN and ids[length - 1] == END and END not in ids[1 : length - 1]
            texts, places = ids[1 : length - 1] // 100, ids[1 : length - 1] % 100 - 10
            # One change of text at most: first the own one from its first word on, then another of the batch up to its last.
            changes = int(np.sum(np.diff(texts) != 0))
            assert changes <= 1 and set(texts) <= set(rows) and (np.diff(places)[np.diff(texts) == 0] == 1).all()
            assert own in texts or not len(texts) or places[-1] == split.lengths[texts[-1]] - 3
            assert own not in texts or (texts[0] == own and places[0] == 0)
            mixed, whole_ones = mixed + (changes == 1), whole_ones + (changes == 0)
    assert mixed > whole_ones, "most texts are made of two"


def test_batches_depend_on_seed_and_number_alone(split):
    one, again, other = (CrossedStream(stream_of(split, seed), 0.5) for seed in (5, 5, 6))
    for step in (11, 0, 3):
        np.testing.assert_array_equal(one.batch(step).ids, again.batch(step).ids)
    again.batch(7)
    np.testing.assert_array_equal(one.batch(2).ids, again.batch(2).ids)
    assert not np.array_equal(one.batch(0).ids, other.batch(0).ids)
    changed = np.concatenate([(one.batch(step).ids != stream_of(split).batch(step).ids).any(axis=1) for step in range(40)])
    assert 0.3 < changed.mean() < 0.5, "half of the texts, of which some run into themselves"


def test_nothing_is_crossed_without_a_teacher_nor_in_pairs(split):
    config = default_config()
    config.distill.batch_size, config.distill.crossed, config.distill.teacher = 8, 0.5, "full"
    tokens = SimpleNamespace(train=split)
    prepared = SimpleNamespace(config=config, tokens=tokens, buckets=(6, 12))
    assert isinstance(real_batches(prepared), CrossedStream)
    prepared.tokens = SimpleNamespace(train=replace(split, types=np.zeros_like(split.ids)))
    assert isinstance(real_batches(prepared), BatchStream)
    prepared.tokens, config.distill.teacher = tokens, ""
    assert isinstance(real_batches(prepared), BatchStream)


@pytest.mark.parametrize(("changes", "told"), [({"crossed": 1.5}, "between 0 and 1"), ({"crossed": 0.5, "teacher_share": 0.5}, "crossed texts have no label")])
def test_what_cannot_be_crossed_is_refused(changes, told):
    config = default_config()
    config.distill.update({"teacher": "full", **changes})
    with pytest.raises(UserError, match=told):
        validate(config)
