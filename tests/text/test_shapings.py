"""Shapings: the straight-through gradient, the pull towards tokens, and mixtures that harden."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.data.batches import BatchStream
from ddllm.distill.dataset import learned_parts
from ddllm.distill.gradients import Mixed
from ddllm.distill.outer_step import OuterStep, initial_state
from ddllm.models.scoring import real_loss
from ddllm.text.allowed import index_of
from ddllm.text.distilled_text import FREE, frame_of
from ddllm.text.learn import plan_texts
from ddllm.text.mixture import MIXTURE, Mixture
from ddllm.text.straight import StraightThrough


def test_straight_through_takes_the_gradient_at_the_rows(prepared):
    prepared, data, recipe = plan_texts(prepared)
    rng = np.random.default_rng(0)
    data = jax.tree.map(jnp.asarray, data.replace(embeddings=data.embeddings + 0.5 * rng.standard_normal(data.embeddings.shape)))
    frame = frame_of(prepared, data.mask)
    batch = BatchStream(prepared.tokens.train, 8, 0, prepared.buckets).batch(0)
    words, key = prepared.start.words, jax.random.key(3)

    def outer_step(data, **more):
        return OuterStep(prepared.learner, recipe, prepared.start, data, Mixed(), optax.sgd(1.0), prepared.mesh, **more)

    shaping = StraightThrough(index_of(prepared), frame, pull=0.0)
    step = outer_step(data, shaping=shaping, outer_steps=4)
    state = initial_state(learned_parts(data, recipe), step.optimizer, step.everywhere)
    moved, figures = step(state, batch, key)
    taken = np.asarray(state.learned["embeddings"] - moved.learned["embeddings"])
    rows = words[shaping.ids(data.embeddings)]
    assert float(jnp.abs(rows - data.embeddings).max()) > 0.1, "the embeddings were rows already"
    plain = outer_step(data)
    loss, _, gradient = plain.gradient(learned_parts(data.replace(embeddings=rows), recipe), batch, key)
    free = (frame == FREE)[..., None]
    assert float(figures["loss"]) == float(loss)
    np.testing.assert_allclose(taken, np.where(free, gradient["embeddings"], 0), atol=1e-6)
    assert np.abs(taken).max() > 1e-4 and not np.abs(taken * ~free).any()

    def outer_loss(embeddings):
        return float(real_loss(plain.train({"embeddings": embeddings}, key), prepared.learner, words, batch)[0])

    direction = np.where(free, taken, 0) / np.linalg.norm(taken)
    slope = (outer_loss(rows + 0.02 * direction) - outer_loss(rows - 0.02 * direction)) / 0.04
    assert slope == pytest.approx(np.linalg.norm(taken), rel=0.03)
    # The pull goes its share of the way, and a row is where it wants to be.
    pulling = replace(shaping, pull=0.5)
    settled = pulling.settle({"embeddings": data.embeddings}, words, jnp.asarray(0.5))["embeddings"]
    np.testing.assert_allclose(settled, 0.75 * data.embeddings + 0.25 * rows, atol=1e-5)
    np.testing.assert_allclose(pulling.settle({"embeddings": rows}, words, jnp.asarray(1.0))["embeddings"], rows, atol=1e-6)


def test_a_mixture_hardens_into_its_likeliest_token():
    rng = np.random.default_rng(1)
    words, candidates = jnp.asarray(rng.standard_normal((20, 5)), jnp.float32), rng.integers(4, 20, (1, 2, 3, 4))
    frame = np.full((1, 2, 3), FREE)
    frame[..., 0] = 2
    shaping = Mixture(candidates, frame, hot=1.0, cold=1e-3, gumbel=False)
    learned = {MIXTURE: jnp.asarray(rng.standard_normal((1, 2, 3, 4)), jnp.float32), "rates": jnp.zeros((1, 1))}
    early, late = (shaping.use(learned, words, jnp.asarray(progress), jax.random.key(0)) for progress in (0.0, 1.0))
    final = shaping.final(learned, words)
    assert set(late) == {"embeddings", "rates"} == set(final)
    np.testing.assert_allclose(late["embeddings"], final["embeddings"], atol=1e-5)
    assert float(jnp.abs(early["embeddings"] - final["embeddings"]).max()) > 0.1
    np.testing.assert_array_equal(early["embeddings"][..., 0, :], words[jnp.full((1, 2), 2)])
