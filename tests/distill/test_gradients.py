"""All methods give one gradient: compared with each other and with central finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.distill.dataset import DistilledData, Recipe, learned_parts, raw_rate
from ddllm.distill.gradients import METHODS
from ddllm.distill.inner_loop import unroll

KINDS = ("direct", "checkpointed", "mixed")


def make_problem(
    tiny, steps: int, labels: str = "unrestricted", optimizer: str = "sgd", groups: int = 4, batches: int = 1, zero: bool = False
):
    """Distilled data, parameters, and an outer loss of the learned parts, all in the float type that is on."""
    learner, params = tiny
    rng = np.random.default_rng(3)
    dtype = jax.dtypes.canonicalize_dtype(float)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    mask = np.ones((batches, 2, 5))
    mask[:, 1, 4:] = 0
    data = DistilledData(
        embeddings=jnp.asarray(0.5 * rng.standard_normal((batches, 2, 5, learner.encoder.hidden)), dtype),
        mask=jnp.asarray(mask, dtype),
        labels=jnp.asarray(np.eye(3)[np.array([[0, 2]] * batches)] + 0.1 * rng.standard_normal((batches, 2, 3)), dtype),
        rates=jnp.asarray(raw_rate(0.3) + 0.1 * rng.standard_normal((steps, groups)), dtype),
    )
    recipe = Recipe(labels, optimizer, passes=steps // batches)
    real = jnp.asarray(rng.standard_normal((6, 7, learner.encoder.hidden)), dtype)
    targets = jnp.asarray(np.eye(3)[rng.integers(0, 3, 6)], dtype)

    if zero:
        params["head"]["out"] = jax.tree.map(jnp.zeros_like, params["head"]["out"])

    def outer_loss(learned, method=None, segments=1, first_fixed=()):
        trained = unroll(learner, recipe, params, data.replace(**learned), method, segments, first_fixed=first_fixed)
        logits = learner.logits(trained, real, jnp.ones((6, 7), dtype))
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))

    return learned_parts(data, recipe), outer_loss


def relative(a, b) -> float:
    """Norm of the difference over the norm, over whole trees."""
    difference = jax.tree.map(lambda x, y: np.sum(np.square(x - y)), a, b)
    size = jax.tree.map(lambda y: np.sum(np.square(y)), b)
    return float(np.sqrt(sum(jax.tree.leaves(difference)) / sum(jax.tree.leaves(size))))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_finite_differences(tiny, kind, steps):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(tiny, steps)
        value = jax.jit(outer_loss)
        gradient = jax.jit(jax.grad(lambda x: outer_loss(x, METHODS[kind]())))(learned)
        for part in ("embeddings", "labels", "rates"):
            assert np.linalg.norm(gradient[part]) > 1e-6, f"nothing to compare for {part}"
            for seed in range(3):
                direction = np.random.default_rng(seed).standard_normal(learned[part].shape)
                step = 1e-4
                ahead = value({**learned, part: learned[part] + step * direction})
                behind = value({**learned, part: learned[part] - step * direction})
                expected = (ahead - behind) / (2 * step)
                found = np.sum(gradient[part] * direction)
                assert abs(found - expected) < 1e-6 * np.linalg.norm(gradient[part]) * np.linalg.norm(direction) + 1e-10


@pytest.mark.parametrize(
    "labels, steps, batches, segments, groups",
    [("unrestricted", 1, 1, 1, 1), ("soft", 4, 1, 2, 4), ("hard", 4, 2, 4, 1), ("unrestricted", 4, 2, 1, 4)],
)
def test_methods_agree_in_float64(tiny, labels, steps, batches, segments, groups):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(tiny, steps, labels, groups=groups, batches=batches)
        expected = jax.jit(jax.grad(outer_loss))(learned)
        for kind in KINDS:
            found = jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind](), segments)))(learned)
            assert relative(found, expected) < 1e-10, kind


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
def test_other_inner_optimizers(tiny, optimizer):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(tiny, 3, optimizer=optimizer)
        if optimizer == "adam":
            learned["rates"] = learned["rates"] - 3
        plain, _ = make_problem(tiny, 3)
        expected = jax.jit(jax.grad(outer_loss))(learned)
        found = jax.jit(jax.grad(lambda x: outer_loss(x, METHODS["mixed"]())))(learned)
        assert relative(found, expected) < 1e-9
        direction = np.random.default_rng(0).standard_normal(learned["embeddings"].shape)
        value, step = jax.jit(outer_loss), 1e-5
        ahead = value({**learned, "embeddings": learned["embeddings"] + step * direction})
        behind = value({**learned, "embeddings": learned["embeddings"] - step * direction})
        expected_slope = float(ahead - behind) / (2 * step)
        assert np.sum(found["embeddings"] * direction) == pytest.approx(expected_slope, rel=2e-4, abs=1e-7)
        assert jax.tree.structure(plain) == jax.tree.structure(learned)


def test_methods_agree_in_float32(tiny):
    learned, outer_loss = make_problem(tiny, 4)
    expected = jax.jit(jax.grad(outer_loss))(learned)
    for kind in KINDS:
        assert relative(jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind]())))(learned), expected) < 1e-5, kind


def test_methods_are_really_different(tiny):
    learned, outer_loss = make_problem(tiny, 4)
    programs = {str(jax.make_jaxpr(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind]())))(learned)) for kind in KINDS}
    assert len(programs) == len(KINDS)


def test_memory_of_checkpointed_and_mixed_is_smaller(wider):
    def temporaries(kind: str, segments: int = 1) -> int:
        learned, outer_loss = make_problem(wider, 8)
        program = jax.jit(jax.grad(lambda x: outer_loss(x, METHODS[kind](), segments)))
        analysis = program.lower(learned).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    direct, checkpointed, mixed = (temporaries(kind) for kind in KINDS)
    assert checkpointed < 0.7 * direct
    assert mixed < 0.7 * direct


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps, optimizer", [(1, "sgd"), (3, "sgd"), (3, "momentum")])
def test_a_zero_head_keeps_the_body_at_first(tiny, kind, steps, optimizer):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(tiny, steps, optimizer=optimizer, zero=True)
        expected = jax.jit(jax.value_and_grad(outer_loss))(learned)
        found = jax.jit(jax.value_and_grad(lambda x: outer_loss(x, METHODS[kind](), first_fixed=("body",))))(learned)
        assert relative(found, expected) < 1e-10
        assert np.linalg.norm(found[1]["embeddings"]) > 1e-6
