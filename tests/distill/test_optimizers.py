"""Optimizers by name: Optax's own numbers with the sign and rate of the inner loop, and a sentence for whatever cannot be meant."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.distill.optimizers import _factories, check_derivative, make_optimizer
from ddllm.errors import UserError

PARAMS = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32), "bias": jnp.ones(3)}
GRADIENTS = [jax.tree.map(lambda x, scale=scale: jnp.sin(scale * x), PARAMS) for scale in (3.0, 5.0)]


def directions(transform):
    state = transform.init(PARAMS)
    for gradient in GRADIENTS:
        direction, state = transform.update(gradient, state, PARAMS)
    return direction


@pytest.mark.parametrize(
    "text, expected, sign",
    [
        ("momentum", optax.trace(0.9), 1),
        ("nesterov", optax.trace(0.9, nesterov=True), 1),
        ("momentum(decay=0.5)", optax.trace(0.5), 1),
        ("adam", optax.scale_by_adam(eps_root=1e-12), 1),
        ("scale_by_lion(b1=0.9,b2=0.5)", optax.scale_by_lion(0.9, 0.5), 1),
        ("adamw(b1=0.8, weight_decay=1e-1)", optax.adamw(1.0, b1=0.8, eps_root=1e-12, weight_decay=0.1), -1),
        ("nadam(eps_root=1e-3)", optax.nadam(1.0, eps_root=1e-3), -1),
        ("sgd(momentum=0.9, nesterov=True)", optax.sgd(1.0, 0.9, True), -1),
        ("clip(max_delta=0.1)", optax.clip(0.1), 1),
    ],
)
def test_is_what_optax_does(text, expected, sign):
    found, reference = directions(make_optimizer(text)), directions(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, sign * y, rtol=1e-6), found, reference)


def test_plain_descent_needs_none():
    assert make_optimizer("sgd") is None


def test_momentum_follows_its_coefficients():
    transform = make_optimizer("learned_momentum")
    state = transform.init(PARAMS)
    for gradient, coefficient in zip(GRADIENTS, (0.7, 0.25), strict=True):
        direction, state = transform.update(gradient, state, PARAMS, momentum=jnp.asarray(coefficient))
    with pytest.raises(ValueError, match="needs coefficients"):
        transform.update(GRADIENTS[0], state, PARAMS)
    jax.tree.map(lambda d, a, b: np.testing.assert_allclose(d, 0.25 * a + b, rtol=1e-6), direction, *GRADIENTS)


def test_every_whole_optimizer_descends():
    names = [name for name in _factories() if not name.startswith("scale_by_")]
    assert len(names) > 30 and {"adamw", "lion", "lamb", "nadam"} <= set(names)
    descending = 0
    for name in names:
        try:
            transform = make_optimizer(name)
        except UserError:
            continue
        if transform is not None:
            direction, _ = transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)
            slope = sum(float(jnp.vdot(d, g)) for d, g in zip(jax.tree.leaves(direction), jax.tree.leaves(GRADIENTS[0]), strict=True))
            assert slope >= 0 or name == "keep_params_nonnegative", name
            descending += slope > 0
    assert descending > 25


@pytest.mark.parametrize(
    "text, message",
    [
        ("adm", r"did you mean adam\?"),
        ("scale_by_lyon", r"did you mean scale_by_lion\?.*one of sgd, momentum, nesterov, adam, learned_momentum, or"),
        ("adam(b3=0.9)", r"has no argument b3 \(did you mean b[12]\?\)"),
        ("adam(0.9)", "named arguments"),
        ("adam(b1=", "named arguments"),
        ("os.system('true')", "named arguments"),
        ("adam(b1=__import__('os').getpid())", "b1 is no plain number"),
        ("adamw(learning_rate=0.1)", "rates are learned"),
        ("clip", "clip needs max_delta, as in"),
        ("adam(b1='x')", "cannot serve as an inner optimizer"),
        ("lbfgs", "cannot serve as an inner optimizer: .*value"),
        ("learned_momentum(decay=1)", "takes no arguments"),
        ("apply_updates", "must be one of"),
        ("chain", "must be one of"),
    ],
)
def test_what_cannot_be_meant(text, message):
    with pytest.raises(UserError, match=f"^config.distill.inner_optimizer is .*{message}"):
        make_optimizer(text, "config.distill.inner_optimizer")


def test_derivatives_that_are_not_finite_are_found_out():
    for good in ("sgd", "adam", "lion"):
        check_derivative(good)
    for bad in ("adam(eps_root=0.0)", "radam"):
        with pytest.raises(UserError, match="whose derivative is not finite"):
            check_derivative(bad)
