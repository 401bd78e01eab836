"""Truncated gradients are those of a training whose steps before the window are constants, for every window that can be drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.distill.dataset import DistilledData, Recipe, learned_parts, raw_rate, spread_rates
from ddllm.distill.gradients import METHODS
from ddllm.distill.inner_loop import inner_loss, unroll
from ddllm.distill.truncation import Truncation

STEPS, BATCHES = 4, 2
RECIPE = Recipe("unrestricted", "learned_momentum", STEPS // BATCHES)


def make_problem(learned_from, zero: bool = False):
    """Learned parts; the library's outer loss of them; the same written out by hand, with constants before `begin` and an end after `end` steps."""
    learner, params = learned_from
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: jnp.asarray(x, jax.dtypes.canonicalize_dtype(float)), params)
    if zero:
        params["head"]["out"] = jax.tree.map(jnp.zeros_like, params["head"]["out"])
    data = DistilledData(
        embeddings=jnp.asarray(0.5 * rng.standard_normal((BATCHES, 2, 5, learner.encoder.hidden))),
        mask=jnp.ones((BATCHES, 2, 5)),
        labels=jnp.asarray(rng.standard_normal((BATCHES, 2, 3))),
        rates=jnp.asarray(raw_rate(0.3) + 0.1 * rng.standard_normal((STEPS, 2))),
        momentum=jnp.asarray(rng.standard_normal(STEPS)),
    )
    weights = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), params)

    def value(trained):
        return optax.tree.vdot(weights, jax.tree.map(jnp.sin, trained))

    def outer_loss(learned, method="direct", segments=1, **how):
        return value(unroll(learner, RECIPE, params, data.replace(**learned), METHODS[method](), segments, **how))

    def by_hand(learned, begin, end):
        loss, frozen = inner_loss(learner, "unrestricted"), jax.lax.stop_gradient(learned)

        def step(carry, t):
            trained, memory = carry
            parts = jax.tree.map(lambda x, y: jnp.where(t < begin, x, y), frozen, learned)
            batch = {name: parts[name][t % BATCHES] for name in ("embeddings", "labels")} | {"mask": data.mask[t % BATCHES]}
            memory = jax.tree.map(lambda m, g: jax.nn.sigmoid(parts["momentum"][t]) * m + g, memory, jax.grad(loss)(trained, batch))
            rates = spread_rates(jax.nn.softplus(parts["rates"][t]), trained)
            moved = jax.tree.map(lambda p, m, r: p - r * m, trained, memory, rates)
            return (jax.tree.map(lambda new, old: jnp.where(t < end, new, old), moved, trained), memory), None

        return value(jax.lax.scan(step, (params, jax.tree.map(jnp.zeros_like, params)), jnp.arange(STEPS))[0][0])

    return learned_parts(data, RECIPE), outer_loss, by_hand


def same(found, expected, tolerance=1e-10):
    size = float(optax.tree.norm(expected))
    assert size > 1e-6 and float(optax.tree.norm(optax.tree.sub(found, expected))) < tolerance * size


def test_last_steps(layerless):
    with jax.enable_x64(True):
        learned, outer_loss, by_hand = make_problem(layerless, zero=True)
        reference = jax.jit(jax.value_and_grad(by_hand))
        for window, method, segments in ((1, "direct", 1), (2, "mixed", 2)):
            how = {"first_fixed": ("body",), "truncation": Truncation(window)}
            program = jax.jit(jax.value_and_grad(lambda x, m=method, s=segments, how=how: outer_loss(x, m, s, **how)))
            found, expected = program(learned), reference(learned, STEPS - window, STEPS)
            same(found, expected)
            assert not found[1]["rates"][: STEPS - window].any() and found[1]["rates"][STEPS - window :].all()
        full = reference(learned, 0, STEPS)
        assert float(full[0]) == pytest.approx(float(expected[0]), rel=1e-12)
        assert float(optax.tree.norm(optax.tree.sub(full[1], expected[1]))) > 0.01 * float(optax.tree.norm(full[1]))


@pytest.mark.parametrize("method, segments", [("checkpointed", 1), ("mixed", 2)])
def test_random_windows_of_one_program(layerless, method, segments):
    with jax.enable_x64(True):
        zero = method == "mixed"
        learned, outer_loss, by_hand = make_problem(layerless, zero)
        truncation, fixed = Truncation(2, random=True), ("body",) if zero else ()
        program = jax.jit(
            jax.value_and_grad(lambda x, key: outer_loss(x, method, segments, first_fixed=fixed, key=key, truncation=truncation))
        )
        reference = jax.jit(jax.value_and_grad(by_hand))
        drawn = {}
        for seed in range(20):
            drawn.setdefault(int(truncation.begin(STEPS, jax.random.key(seed))), jax.random.key(seed))
        assert sorted(drawn) == [0, 1, 2], "not every window is drawn"
        for begin, key in drawn.items():
            found = program(learned, key)
            same(found, reference(learned, begin, begin + 2))
            reached = np.flatnonzero(np.asarray(found[1]["rates"]).any(axis=1))
            assert list(reached) == [begin, begin + 1]
        assert program._cache_size() == 1


def test_a_window_of_all_steps_is_the_full_gradient(layerless):
    learned, outer_loss, _ = make_problem(layerless)
    texts = {
        str(jax.make_jaxpr(jax.grad(lambda x, t=truncation: outer_loss(x, truncation=t)))(learned))
        for truncation in (None, Truncation(STEPS), Truncation(STEPS, random=True))
    }
    assert len(texts) == 1
    with pytest.raises(ValueError, match="random window needs a key"):
        outer_loss(learned, truncation=Truncation(2, random=True))


def test_nothing_is_kept_of_the_steps_before(wider):
    learned, outer_loss, _ = make_problem(wider)
    learned["rates"] = learned["rates"][:, :1]

    def temporaries(truncation):
        program = jax.jit(jax.grad(lambda x, key: outer_loss(x, truncation=truncation, key=key)))
        return program.lower(learned, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(Truncation(1, random=True)) < 0.6 * temporaries(None)
