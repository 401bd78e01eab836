"""All methods give one gradient: compared with each other and with central finite differences in float64."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.distill.dataset import DistilledData, Recipe, learned_parts, raw_rate
from ddllm.distill.gains import count_gains
from ddllm.distill.gradients import METHODS
from ddllm.distill.inner_loop import unroll
from ddllm.distill.offload import LEAST

KINDS = ("direct", "checkpointed", "mixed")


def make_problem(
    tiny,
    steps: int,
    labels: str = "unrestricted",
    optimizer: str = "sgd",
    groups: int = 4,
    batches: int = 1,
    zero: bool = False,
    order: str = "fixed",
    auxiliary: str = "none",
    gains: int = 0,
):
    """Distilled data, parameters, and an outer loss of the learned parts, all in the float type that is on."""
    learner, params = tiny
    rng = np.random.default_rng(3)
    dtype = jax.dtypes.canonicalize_dtype(float)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    classes = [0, 2] if order == "fixed" else [0, 1, 2]
    mask = np.ones((batches, len(classes), 5))
    mask[:, 1, 4:] = 0
    data = DistilledData(
        embeddings=jnp.asarray(0.5 * rng.standard_normal((*mask.shape, learner.encoder.hidden)), dtype),
        mask=jnp.asarray(mask, dtype),
        labels=jnp.asarray(np.eye(3)[np.array([classes] * batches)] + 0.1 * rng.standard_normal((*mask.shape[:2], 3)), dtype),
        rates=jnp.asarray(raw_rate(0.3) + 0.1 * rng.standard_normal((steps, groups)), dtype),
    )
    recipe = Recipe(labels, optimizer, steps // batches, order)
    real = jnp.asarray(rng.standard_normal((6, 7, learner.encoder.hidden)), dtype)
    targets = jnp.asarray(np.eye(3)[rng.integers(0, 3, 6)], dtype)
    if order != "fixed":  # examples that stand for pairs of texts
        data = data.replace(types=jnp.asarray(np.broadcast_to(np.arange(5) >= 2, mask.shape), dtype))
    if optimizer == "learned_momentum":
        data = data.replace(momentum=jnp.asarray(rng.standard_normal(steps), dtype))
    if order == "learned":
        data = data.replace(order=jnp.asarray(rng.standard_normal((steps, batches)), dtype))
    if auxiliary != "none":
        keys = (5,) if auxiliary == "cls" else (5, 5)
        attention = rng.standard_normal((*mask.shape[:2], learner.encoder.layers, learner.encoder.heads, *keys))
        features = rng.standard_normal((*mask.shape[:2], learner.encoder.hidden))
        directions = 0.3 * rng.standard_normal((*mask.shape[:2], learner.encoder.layers, learner.encoder.hidden))
        data = data.replace(attention=jnp.asarray(attention, dtype), features=jnp.asarray(features, dtype))
        data = data.replace(directions=jnp.asarray(directions, dtype))
        recipe = replace(recipe, attention_weight=3.0, feature_weight=0.3)
    if gains:
        data = data.replace(gains=jnp.asarray(1 + rng.standard_normal((gains, count_gains(params["body"]))), dtype))
    if zero:
        params["head"]["out"] = jax.tree.map(jnp.zeros_like, params["head"]["out"])

    def outer_loss(learned, method=None, segments=1, **how):
        trained = unroll(learner, recipe, params, data.replace(**learned), method, segments, **how)
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


def assert_slopes(value_and_gradient, learned, tolerance=2e-4, step=1e-5):
    """A gradient agrees with central differences in one random direction for each part."""
    gradient = value_and_gradient(learned)[1]
    for part in learned:
        direction = np.random.default_rng(0).standard_normal(learned[part].shape)
        ahead, _ = value_and_gradient({**learned, part: learned[part] + step * direction})
        behind, _ = value_and_gradient({**learned, part: learned[part] - step * direction})
        expected = float(ahead - behind) / (2 * step)
        assert abs(expected) > 1e-6, f"nothing to compare for {part}"
        assert np.sum(gradient[part] * direction) == pytest.approx(expected, rel=tolerance, abs=1e-8), part
    return gradient


@pytest.mark.parametrize(
    "optimizer, kind",
    [
        ("momentum", "mixed"),
        ("nesterov", "mixed"),
        ("adam", "mixed"),
        ("adamw(weight_decay=0.5)", "mixed"),
        ("learned_momentum", "mixed"),
        ("learned_momentum", "checkpointed"),
    ],
)
def test_other_inner_optimizers(layerless, optimizer, kind):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(layerless, 3, optimizer=optimizer, groups=2)
        if optimizer.startswith("adam"):
            learned["rates"] = learned["rates"] - 3
        expected = assert_slopes(jax.jit(jax.value_and_grad(outer_loss)), learned)
        found = jax.jit(jax.grad(lambda x: outer_loss(x, METHODS[kind]())))(learned)
        assert relative(found, expected) < 1e-9
        assert set(learned) == {"embeddings", "labels", "rates", *(["momentum"] if "learned" in optimizer else [])}


@pytest.mark.parametrize("order, kinds", [("shuffled", ["mixed"]), ("learned", ["mixed", "checkpointed"])])
def test_other_orders(layerless, order, kinds):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(layerless, 4, groups=2, batches=2, order=order)
        key = jax.random.key(6)
        expected = assert_slopes(jax.jit(jax.value_and_grad(lambda x: outer_loss(x, key=key))), learned)
        for kind in kinds:
            found = jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind](), 2, key=key)))(learned)
            assert relative(found, expected) < 1e-10, kind
        assert ("order" in learned) == (order == "learned")


@pytest.mark.parametrize(
    "size, auxiliary, order, kinds, segments",
    [("tiny", "cls", "fixed", ["mixed"], 1), ("shallow", "all", "learned", ["mixed", "checkpointed"], 2)],
)
def test_auxiliary_labels(request, size, auxiliary, order, kinds, segments):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(request.getfixturevalue(size), 4, batches=2, groups=1, order=order, auxiliary=auxiliary)
        learned["rates"] = learned["rates"] - 1
        gradient = assert_slopes(jax.jit(jax.value_and_grad(outer_loss)), learned)
        assert not gradient["attention"][:, 1, ..., 4].any(), "a padded key has a gradient"
        for kind in kinds:
            found = jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind](), segments)))(learned)
            assert relative(found, gradient) < 1e-10, kind


@pytest.mark.parametrize("gains, optimizer, segments", [(1, "sgd", 1), (4, "sgd", 2), (1, "momentum", 1)])
def test_gains(shallow, gains, optimizer, segments):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(shallow, 4, optimizer=optimizer, groups=1, gains=gains)
        learned["rates"] = learned["rates"] - 1
        expected = assert_slopes(jax.jit(jax.value_and_grad(outer_loss)), learned)
        assert expected["gains"].shape == learned["gains"].shape and np.all(np.any(expected["gains"] != 0, axis=1))
        for kind in ("checkpointed", "mixed"):
            found = jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind](), segments)))(learned)
            assert relative(found, expected) < 1e-10, kind


@pytest.mark.parametrize(
    "kind, size, how, segments, tokens",  # of examples of five positions, two in a step, or six where the order is learned
    [
        ("direct", "tiny", {"labels": "soft"}, 1, 5),
        ("checkpointed", "shallow", {"groups": 1, "auxiliary": "all", "order": "learned", "batches": 2}, 2, 14),
        ("mixed", "shallow", {"groups": 1, "auxiliary": "cls", "gains": 1}, 1, 5),
        ("mixed", "layerless", {"groups": 2, "optimizer": "momentum"}, 1, 5),
        ("mixed", "layerless", {"groups": 2, "order": "learned", "batches": 2}, 1, 14),
    ],
)
def test_examples_go_through_the_model_in_parts(request, kind, size, how, segments, tokens):
    with jax.enable_x64(True):
        learned, outer_loss = make_problem(request.getfixturevalue(size), 4, **how)
        expected = jax.jit(jax.value_and_grad(lambda x: outer_loss(x, METHODS[kind](), segments)))(learned)
        found = jax.jit(jax.value_and_grad(lambda x: outer_loss(x, METHODS[kind](tokens_at_once=tokens), segments)))(learned)
        assert relative(found, expected) < 1e-10


def test_parts_need_less_memory(shallow):
    def temporaries(tokens: int) -> int:
        learned, outer_loss = make_problem(shallow, 8, groups=1, batches=8, order="learned")  # 24 examples of five positions in every step
        program = jax.jit(jax.grad(lambda x: outer_loss(x, METHODS["mixed"](tokens_at_once=tokens))))
        analysis = program.lower(learned).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporaries(20) < 0.7 * temporaries(0)


def test_methods_agree_in_float32(tiny):
    learned, outer_loss = make_problem(tiny, 4)
    expected = jax.jit(jax.grad(outer_loss))(learned)
    for kind in KINDS:
        assert relative(jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind]())))(learned), expected) < 1e-5, kind


def test_methods_are_really_different(tiny):
    learned, outer_loss = make_problem(tiny, 4)
    programs = {str(jax.make_jaxpr(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind]())))(learned)) for kind in KINDS}
    assert len(programs) == len(KINDS)


@pytest.mark.parametrize(
    "kind, segments, optimizer",
    [("mixed", 1, "sgd"), ("mixed", 1, "momentum"), ("checkpointed", 1, "momentum"), ("mixed", 2, "sgd"), ("checkpointed", 2, "sgd")],
)
def test_what_is_kept_may_wait_in_host_memory(wider, kind, segments, optimizer):
    learned, outer_loss = make_problem(wider, 4, optimizer=optimizer)
    here, away = (jax.grad(lambda x, away=away: outer_loss(x, METHODS[kind](away), segments)) for away in (False, True))
    assert relative(jax.jit(away)(learned), jax.jit(here)(learned)) < 1e-6
    kept = jax.jit(lambda x: jax.vjp(lambda x: outer_loss(x, METHODS[kind](True), segments), x)[1])(learned)
    kernel = (wider[0].encoder.hidden, wider[0].encoder.feed_forward)
    kernels = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape[-2:] == kernel and leaf.ndim > 2]
    assert {leaf.shape[:-2] for leaf in kernels} == {(segments if segments > 1 else 4,)}
    assert {leaf.sharding.memory_kind for leaf in kernels} == {"pinned_host"}
    if (kind, optimizer) != ("mixed", "momentum"):  # which keeps all that a step computes there, whatever its size
        small = [leaf for leaf in jax.tree.leaves(kept) if leaf.size < LEAST]
        assert small and {leaf.sharding.memory_kind for leaf in small} == {"device"}


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


def test_rounded_products_change_the_gradient_a_little_and_all_methods_alike(tiny):
    learner, params = tiny
    rounded = replace(learner, encoder=replace(learner.encoder, products="bfloat16")), params
    exact = jax.jit(jax.grad(make_problem(tiny, 2)[1]))
    learned, outer_loss = make_problem(rounded, 2)
    expected = exact(learned)
    found = {kind: jax.jit(jax.grad(lambda x, kind=kind: outer_loss(x, METHODS[kind]())))(learned) for kind in KINDS}
    for kind in KINDS:
        assert 1e-4 < relative(found[kind], expected) < 0.05, kind
    # Another order of roundings, so no closer than they are.
    assert relative(found["mixed"], found["direct"]) < 0.05


@pytest.mark.parametrize("products, precisions", [("float32", {"HIGHEST"}), ("tensorfloat32", {"HIGH", "HIGHEST"})])
@pytest.mark.parametrize("kind", KINDS)
def test_no_product_is_left_to_what_a_device_thinks_exact_enough(tiny, kind, products, precisions):
    learner, params = tiny
    learned, outer_loss = make_problem((replace(learner, encoder=replace(learner.encoder, products=products)), params), 2)
    program = str(jax.make_jaxpr(jax.grad(lambda x: outer_loss(x, METHODS[kind]())))(learned))
    said = re.findall(r"precision=\(Precision\.(\w+), Precision\.(\w+)\)", program)
    assert len(said) == program.count("dot_general[") > 50
    assert {one for operands in said for one in operands} == precisions
