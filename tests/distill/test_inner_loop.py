"""The inner loop does what its formula says, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from ddllm.distill.dataset import DistilledData, Recipe, group_names, raw_rate, spread_rates
from ddllm.distill.inner_loop import inner_loss, unroll


def make_data(hidden: int, batches: int, steps: int, groups: int = 1) -> DistilledData:
    rng = np.random.default_rng(0)
    return DistilledData(
        embeddings=jnp.asarray(rng.standard_normal((batches, 2, 4, hidden)), jnp.float32),
        mask=jnp.ones((batches, 2, 4)),
        labels=jnp.asarray(np.eye(3, dtype=np.float32)[rng.integers(0, 3, (batches, 2))]),
        rates=jnp.asarray(raw_rate(0.05) + rng.standard_normal((steps, groups)), jnp.float32),
    )


def by_hand(learner, params, data, order):
    loss = inner_loss(learner, "hard")
    for step, index in enumerate(order):
        batch = {"embeddings": data.embeddings[index], "mask": data.mask[index], "labels": data.labels[index]}
        rates = spread_rates(jax.nn.softplus(data.rates[step]), params)
        params = jax.tree.map(lambda p, g, r: p - r * g, params, jax.grad(loss)(params, batch), rates)
    return params


@pytest.mark.parametrize("groups", [1, 4])
def test_is_gradient_descent_in_stored_order(tiny, groups):
    learner, params = tiny
    data = make_data(learner.encoder.hidden, batches=2, steps=4, groups=groups)
    found = unroll(learner, Recipe("hard", passes=2), params, data)
    expected = by_hand(learner, params, data, [0, 1, 0, 1])
    other = by_hand(learner, params, data, [1, 0, 1, 0])
    close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), found, expected)
    assert all(jax.tree.leaves(close))
    assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), found, other)))


def test_any_optax_transformation_serves(tiny):
    learner, params = tiny
    data = make_data(learner.encoder.hidden, batches=1, steps=3)
    signs = unroll(learner, Recipe("hard", passes=3), params, data, optimizer=optax.scale_by_sign())
    rates = jax.nn.softplus(data.rates[:, 0])
    moved = np.abs(np.asarray(signs["head"]["out"]["kernel"] - params["head"]["out"]["kernel"]))
    assert moved.max() <= float(rates.sum()) * 1.001
    plain = unroll(learner, Recipe("hard", passes=3), params, data)
    assert not np.allclose(plain["head"]["out"]["kernel"], signs["head"]["out"]["kernel"])


def test_rates_must_fit_the_steps(tiny):
    learner, params = tiny
    with pytest.raises(ValueError, match="3 rows of rates for 4 inner steps"):
        unroll(learner, Recipe("hard", passes=4), params, make_data(learner.encoder.hidden, 1, 3))


def test_rates_are_spread_by_layer(tiny):
    learner, params = tiny
    spread = spread_rates(jnp.arange(4.0), params)
    assert float(spread["body"]["embeddings"]["position"]) == 0
    assert float(spread["body"]["layers"]["00"]["attention"]["qkv"]["kernel"]) == 1
    assert float(spread["body"]["layers"]["01"]["feed_forward"]["up"]["bias"]) == 2
    assert float(spread["head"]["out"]["bias"]) == 3
    with pytest.raises(ValueError, match="3 rates for 2 layers: 1, 4 or [0-9]+ are needed"):
        spread_rates(jnp.arange(3.0), params)


@pytest.mark.parametrize("kind", ["step", "layer", "tensor"])
def test_groups_have_names_in_the_order_of_their_rates(tiny, kind):
    _, params = tiny
    names = group_names(params, kind)
    spread = flatten_dict(spread_rates(jnp.arange(float(len(names))), params), sep=".")
    found = {names[int(rate)]: set() for rate in spread.values()}
    for path, rate in spread.items():
        found[names[int(rate)]].add(path)
    assert sorted(found) == sorted(names)
    for name, paths in found.items():
        assert name == "all" or all(name in path.split(".") or name == path for path in paths)
