"""Perturbations while learning: drawn by key, gradients go through them, and validation does not see them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.checks import validate
from ddllm.config import default_config
from ddllm.distill.dataset import actual_rates, raw_rate, raw_rates
from ddllm.distill.inner_loop import train
from ddllm.distill.perturb import STEPS, change_steps, draw_steps, drop_positions, perturb, scale_rates
from ddllm.errors import UserError

ALL = ("rates", "positions", "order")


def test_raw_rates_come_back():
    rates = jnp.asarray([1e-12, 1e-4, 0.3, 50.0])
    np.testing.assert_allclose(jax.nn.softplus(raw_rates(rates)), rates, rtol=1e-5)
    np.testing.assert_allclose(raw_rates(rates[1:3]), [raw_rate(1e-4), raw_rate(0.3)], rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda raw: raw_rates(jax.nn.softplus(raw)))(-200.0))


def test_what_is_drawn(layerless, make_step):
    data, recipe = make_step(layerless)[2:]
    data = data.replace(mask=np.ones((2, 3, 400), np.float32))
    factors, masks = [], []
    for seed in range(40):
        drawn, changed = perturb(data, recipe, ALL, jax.random.key(seed))
        ratio = actual_rates(drawn) / actual_rates(data)
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
        factors.append(float(ratio[0, 0]))
        masks.append(np.asarray(drawn.mask))
        assert changed.order == "shuffled" and recipe.order == "fixed" and drawn.labels is data.labels
    assert 0.5 <= min(factors) < 0.6 and 1.7 < max(factors) <= 2 and abs(np.mean(np.log2(factors))) < 0.3
    assert 0.89 < np.mean(masks) < 0.91 and np.all(np.stack(masks)[..., 0] == 1) and (masks[0] != masks[1]).any()
    same, unchanged = perturb(data, recipe, (), jax.random.key(0))
    assert same is data and unchanged is recipe
    masked = drop_positions(data.replace(mask=np.zeros((1, 1, 9), np.float32)), jax.random.key(0))
    assert not masked.mask.any(), "what is padding stays padding"


def test_the_gradient_is_that_of_the_perturbed_training_and_follows_the_key(layerless, make_step, make_batch):
    step, state, data, recipe = make_step(layerless, optimizer=optax.sgd(1.0), robust=ALL)
    plain = make_step(layerless)[0]
    keys, batch = [jax.random.key(seed) for seed in (1, 1, 2)], make_batch()
    one, again, other = (step.gradient(state.learned, batch, key)[2] for key in keys)
    for part in one:
        np.testing.assert_array_equal(one[part], again[part])
        assert np.abs(np.asarray(one[part] - other[part])).max() > 1e-5 and np.isfinite(one[part]).all()
    # As written out for this key: the same trained parameters, and another result than without perturbation.
    key = keys[0]
    trained = step.begin(state.learned, step.fixed, step.start, *step.rounds(key))[0]
    drawn, changed = perturb(data.replace(**state.learned), recipe, ALL, key)
    expected = jax.jit(train, static_argnums=(0, 1))(layerless[0], changed, step.start, drawn, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-5), trained, expected)
    unperturbed = step.train(state.learned, key)
    jax.tree.map(np.testing.assert_array_equal, unperturbed, plain.train(state.learned, key))
    assert optax.tree.norm(jax.tree.map(jnp.subtract, unperturbed, expected)) > 1e-3


def test_perturbations_grow(layerless, make_step, make_batch):
    kinds = ("rates", "positions", *STEPS)
    step, state, data, recipe = make_step(layerless, optimizer=optax.sgd(1.0), robust=kinds, outer_steps=50)
    plain, batch, seeds = make_step(layerless, optimizer=optax.sgd(1.0))[0], make_batch(), [jax.random.key(seed) for seed in range(40)]

    def moved(step, number, key):
        return step(state._replace(step=jnp.asarray(number, jnp.int32)), batch, key)[0].learned

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved(step, 0, seeds[0]), moved(plain, 0, seeds[0]))
    full = [moved(step, number, seeds[0]) for number in (10, 49)]
    jax.tree.map(np.testing.assert_array_equal, full[0], full[1])
    assert optax.tree.norm(jax.tree.map(jnp.subtract, full[0], moved(plain, 10, seeds[0]))) > 1e-3
    shares = [np.mean([draw_steps(kinds, key, strength) == "" for key in seeds]) for strength in (0.0, 0.5, 1.0)]
    assert shares[0] == 1 > shares[1] > shares[2] > 0.1
    factors = [[actual_rates(perturb(data, recipe, ("rates",), key, strength)[0])[0, 0] / actual_rates(data)[0, 0] for key in seeds] for strength in (0.5, 1.0)]
    np.testing.assert_allclose(2 * np.log2(factors[0]), np.log2(factors[1]), atol=1e-3)
    masked = drop_positions(data.replace(mask=np.ones((1, 1, 4000), np.float32)), seeds[0], 0.05).mask.mean()
    assert 0.94 < masked < 0.96


def test_outer_steps_meet_other_numbers_of_inner_steps_too(layerless, make_step, make_batch):
    step, state, data, recipe = make_step(layerless, optimizer=optax.sgd(1.0), robust=("positions", *STEPS))
    drawn = {draw_steps(("positions", *STEPS), jax.random.key(seed)): jax.random.key(seed) for seed in range(30)}
    assert set(drawn) == set(step.begins) == {"", *STEPS} and draw_steps(("positions",), jax.random.key(0)) == ""
    batch, gradients = make_batch(), {}
    for kind, key in drawn.items():
        learned = data.replace(**state.learned)
        changed, constants = change_steps(learned, recipe, kind)
        assert changed.steps == data.steps * {"": 1, "passes": 2, "examples": data.mask.shape[1]}[kind] and changed.labels.shape[-1] == data.labels.shape[-1]
        np.testing.assert_allclose(actual_rates(changed).sum(), actual_rates(data).sum() * (2 if kind == "passes" else 1), rtol=1e-5)
        trained = step.begins[kind](state.learned, step.fixed, step.start, *step.rounds(key))[0]
        expected = jax.jit(train, static_argnums=(0, 1))(layerless[0], constants, step.start, perturb(changed, constants, ("positions",), key)[0], key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-5), trained, expected)
        gradients[kind] = step.gradient(state.learned, batch, key)[2]
        # The loss that an outer step reports is that of the training which it has drawn.
        assert all(np.isfinite(part).all() and np.abs(part).max() > 0 for part in jax.tree.leaves(gradients[kind]))
    assert len({float(optax.tree.norm(gradient)) for gradient in gradients.values()}) == 3


def test_rates_are_learned_through_their_factor(layerless, make_step):
    data = make_step(layerless)[2]

    def total(raw):
        return jnp.sum(actual_rates(scale_rates(data.replace(rates=raw), 1.5)))

    gradient = jax.grad(total)(jnp.asarray(data.rates))
    np.testing.assert_allclose(gradient, 1.5 * jax.nn.sigmoid(data.rates), rtol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"robust": ("rate",)}, "did you mean rates"),
        ({"robust": ("order",)}, "needs config.distill.order=fixed"),
        ({"robust": ("examples",), "batches": 2, "examples_per_class": 2, "order": "shuffled"}, "'examples', which needs"),
        ({"robust": ("order",), "batches": 2, "examples_per_class": 2, "order": "shuffled"}, "they are shuffled and 2"),
    ],
)
def test_what_cannot_be_meant(changes, message):
    config = default_config()
    config.distill.update(changes)
    with pytest.raises(UserError, match=message):
        validate(config)
