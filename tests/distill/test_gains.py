"""Gains: what they multiply, and where they change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ddllm.distill.dataset import DistilledData, Recipe, raw_rate
from ddllm.distill.gains import count_gains, first_gains, same_in_all_steps, spread_gains, step_gains
from ddllm.distill.inner_loop import inner_loss, unroll


def test_each_kernel_of_the_body_has_its_own_and_nothing_else_any(tiny):
    _, params = tiny
    kernels = {name: leaf.shape for name, leaf in flatten_dict(params["body"], sep=".").items() if name.endswith("kernel")}
    count = count_gains(params["body"])
    assert count == sum(sum(shape) for shape in kernels.values()) and first_gains(params["body"]).shape == (1, count)
    gains = np.random.default_rng(0).standard_normal(count)
    factors = flatten_dict(spread_gains(jnp.asarray(gains), params), sep=".")
    assert set(factors) == set(flatten_dict(params, sep="."))
    at = 0
    for name, factor in factors.items():  # flax keeps the tree's order, which is sorted
        if name.removeprefix("body.") in kernels and name.startswith("body."):
            inputs, outputs = kernels[name.removeprefix("body.")]
            expected = np.outer(gains[at : at + inputs], gains[at + inputs : at + inputs + outputs])
            np.testing.assert_allclose(factor, expected, rtol=1e-5)
            at += inputs + outputs
        else:
            assert factor == 1.0, name
    with pytest.raises(ValueError, match=f"{count - 1} gains for a body that needs {count}"):
        spread_gains(jnp.asarray(gains[1:]), params)


@pytest.mark.parametrize("steps_with_gains", [1, 2])
def test_a_step_is_the_gradient_times_rates_and_gains(tiny, steps_with_gains):
    learner, params = tiny
    rng = np.random.default_rng(1)
    gains = 1 + rng.standard_normal((steps_with_gains, count_gains(params["body"]))).astype(np.float32)
    data = DistilledData(
        embeddings=jnp.asarray(rng.standard_normal((1, 2, 4, learner.encoder.hidden)), jnp.float32),
        mask=jnp.ones((1, 2, 4)),
        labels=jnp.asarray(np.eye(3, dtype=np.float32)[[[0, 2]]]),
        rates=jnp.full((2, 1), raw_rate(0.05)),
        gains=gains,
    )
    found, expected, loss = unroll(learner, Recipe("hard", passes=2), params, data), params, inner_loss(learner, "hard")
    for step in range(2):
        gradient = jax.grad(loss)(expected, {"embeddings": data.embeddings[0], "mask": data.mask[0], "labels": data.labels[0]})
        factors = spread_gains(jnp.asarray(gains[min(step, steps_with_gains - 1)]), params)
        expected = jax.tree.map(lambda p, g, f: p - 0.05 * f * g, expected, gradient, factors)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), found, expected)))
    plain = unroll(learner, Recipe("hard", passes=2), params, data.replace(gains=None))
    ones = unroll(learner, Recipe("hard", passes=2), params, data.replace(gains=first_gains(params["body"])))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), plain, ones)))
    assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), plain, found)))
    assert data.floats == data.replace(gains=None).floats + gains.size
    assert same_in_all_steps(gains) == (steps_with_gains == 1) and step_gains(gains, 2).shape == (2, gains.shape[1])
