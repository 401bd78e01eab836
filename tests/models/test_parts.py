"""Texts that go through a model in parts give what they give at once, on any split of the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ddllm.data.batches import Batch
from ddllm.models.parts import ON_CPU, choose_tokens, compute, count_parts, differentiate
from ddllm.models.scoring import batch_logits, real_loss
from ddllm.runtime.mesh import TEXTS, arrange


@pytest.fixture(scope="module")
def texts() -> Batch:
    rng = np.random.default_rng(0)
    mask = (np.arange(6) < rng.integers(2, 7, (16, 1))).astype(np.float32)
    return Batch(rng.integers(0, 50, (16, 6)).astype(np.int32), mask, rng.integers(0, 3, 16).astype(np.int32), np.ones(16, np.float32))


def test_parts_hold_as_many_tokens_as_may_be():
    assert count_parts(32, 48, 512) == 4
    assert count_parts(32, 16, 512) == 1
    assert count_parts(30, 48, 512) == 3
    assert count_parts(7, 48, 100) == 7  # no other divisor
    assert count_parts(4, 512, 100) == 4  # a text is not cut
    assert count_parts(32, 48, 0) == 1


def test_what_is_at_once_by_itself():
    assert choose_tokens(0, "cpu") == ON_CPU and choose_tokens(0, "gpu") == 0
    assert choose_tokens(7, "cpu") == choose_tokens(7, "tpu") == 7


@pytest.mark.parametrize("devices", [1, 4])
def test_gradients_and_logits_in_parts_are_those_of_all_texts(tiny, texts, devices):
    learner, params = tiny
    words = jnp.asarray(np.random.default_rng(1).standard_normal((50, learner.encoder.hidden)), jnp.float32)
    placed = jax.device_put(texts, NamedSharding(arrange(jax.devices()[:devices], 1, devices, 1), TEXTS))
    whole, parts = (
        jax.jit(lambda params, batch, count=count: differentiate(lambda p, b: real_loss(p, learner, words, b), params, batch, count))(params, batch)
        for count, batch in ((1, texts), (4, placed))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parts, whole)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole[1])) > 1e-3
    np.testing.assert_allclose(batch_logits(params, words, placed, learner, tokens=6), batch_logits(params, words, texts, learner), atol=1e-5)


def test_rows_keep_their_places(texts):
    rows = compute(lambda part: jnp.stack([part.labels] * 2, axis=1), texts, 6)
    np.testing.assert_array_equal(rows, np.stack([texts.labels] * 2, axis=1))
