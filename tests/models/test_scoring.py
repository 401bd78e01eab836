"""Accuracy counts every text once, whatever the batches, the padding and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.data.batches import evaluation_batches
from ddllm.data.tokens import TokenSplit
from ddllm.models.scoring import Scorer, real_loss
from ddllm.runtime.mesh import arrange


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 21).astype(np.int32)
    ids = rng.integers(0, 50, (21, 8)).astype(np.int32) * (np.arange(8) < lengths[:, None])
    return TokenSplit(ids.astype(np.int32), lengths, rng.integers(0, 3, 21).astype(np.int32))


@pytest.fixture
def words(tiny):
    return jnp.asarray(np.random.default_rng(1).standard_normal((50, tiny[0].encoder.hidden)), jnp.float32)


def one_by_one(tiny, words, split):
    learner, params = tiny
    logits = jax.jit(learner.logits)
    right = 0
    for ids, length, label in zip(split.ids, split.lengths, split.labels, strict=True):
        mask = (np.arange(8) < length).astype(np.float32)
        right += int(np.argmax(logits(params, words[ids][None], mask[None])) == label)
    return right / len(split)


@pytest.mark.parametrize("sizes", [None, (1, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_accuracy_is_that_of_single_texts(tiny, words, split, sizes):
    devices = int(np.prod(sizes or 1))
    mesh = sizes and arrange(jax.devices()[:devices], *sizes)
    scorer = Scorer(tiny[0], words, split, 6, (4, 8), mesh=mesh)
    expected = one_by_one(tiny, words, split)
    assert 0 < expected < 1
    assert scorer.texts == 21 and scorer.figure(tiny[1]) == pytest.approx(expected)
    assert {len(batch.ids.sharding.device_set) for batch in scorer.batches} == {devices}


def test_numbers_that_are_not_finite_are_never_right(tiny, words, split):
    scorer = Scorer(tiny[0], words, split, 6, (8,))
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tiny[1])
    assert (split.labels == 0).any() and scorer.scores(broken) == dict.fromkeys(tiny[0].task.figures, 0.0) and scorer.figure(broken) == 0


def test_other_words_may_be_given(tiny, words, split):
    scorer = Scorer(tiny[0], jnp.zeros_like(words), split, 6, (8,))
    assert scorer.figure(tiny[1], words) == pytest.approx(one_by_one(tiny, words, split))


def test_a_fixed_part(tiny, words, split):
    first, second, other = (Scorer(tiny[0], words, split, 4, (8,), limit=10, seed=seed) for seed in (0, 0, 1))
    drawn = [np.concatenate([batch.ids[batch.weight > 0] for batch in scorer.batches]) for scorer in (first, second, other)]
    assert first.texts == 10 and np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_rows_that_fill_a_batch_up_do_not_count(tiny, words, split):
    whole = next(iter(evaluation_batches(split, 21, (8,))))
    filled = next(iter(evaluation_batches(split, 32, (8,))))
    for a, b in zip(*(real_loss(tiny[1], tiny[0], words, batch) for batch in (whole, filled)), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)
