"""The outer step: the same numbers in one program as in three, on one device as on eight; no parameters travel; averages and optimizers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from ddllm.data.batches import Batch
from ddllm.distill.dataset import Recipe, learned_parts
from ddllm.distill.gradients import Direct, Mixed
from ddllm.distill.initialise import assemble, noise_data
from ddllm.distill.inner_loop import train, unroll
from ddllm.distill.outer_step import OuterStep, initial_state
from ddllm.distill.truncation import Truncation
from ddllm.models.learner import Start
from ddllm.models.scoring import real_loss

RECIPE = Recipe("unrestricted", "sgd", passes=2)


def make_step(learned_from, devices: int, method=None, average: float = 0.0, optimizer=None, truncation=None, recipe=RECIPE):
    learner, params = learned_from
    words = np.random.default_rng(5).standard_normal((50, learner.encoder.hidden)).astype(np.float32)
    embeddings, mask = noise_data(words, (2, 3, 4), np.random.default_rng(6))
    data = assemble(embeddings, mask, classes=3, per_class=2, passes=2, kind="unrestricted", groups=learner.encoder.layers + 2, rate=0.2)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    start = Start(jax.tree.map(jnp.asarray, params["body"]), jnp.asarray(words))
    fixed = (learner, recipe, start, data, method or Mixed(), optimizer or optax.adam(1e-2), mesh)
    step = OuterStep(*fixed, average=average, truncation=truncation)
    return step, initial_state(learned_parts(data, RECIPE), step.optimizer, step.everywhere), data, start


def make_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    mask = (np.arange(6) < rng.integers(2, 7, (16, 1))).astype(np.float32)
    return Batch(rng.integers(0, 50, (16, 6)).astype(np.int32), mask, rng.integers(0, 3, 16).astype(np.int32), np.ones(16, np.float32))


def run(step, state, steps: int):
    for index in range(steps):
        state, figures = step(state, make_batch(index), jax.random.fold_in(jax.random.key(0), index))
    return state, figures


def test_is_the_gradient_of_one_whole_program(tiny):
    rate = 0.5
    step, state, data, start = make_step(tiny, 1, optimizer=optax.sgd(rate))
    learner, key, batch = tiny[0], jax.random.key(4), make_batch()

    def loss(learned):
        filled = data.replace(**learned)
        params = {"body": start.body, "head": learner.init_head(key)}
        return real_loss(unroll(learner, RECIPE, params, filled, Direct()), learner, start.words, batch)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.learned)
    moved, figures = step(state, batch, key)
    assert float(figures["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(figures["gradient_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    for part in gradient:
        np.testing.assert_allclose((state.learned[part] - moved.learned[part]) / rate, gradient[part], atol=2e-6)


def test_eight_devices_give_the_numbers_of_one(tiny):
    one, state = make_step(tiny, 1)[:2]
    eight, other = make_step(tiny, 8)[:2]
    (first, a), (second, b) = run(one, state, 4), run(eight, other, 4)
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-5)
    for part in first.learned:
        np.testing.assert_allclose(first.learned[part], second.learned[part], atol=1e-5)
        assert np.abs(np.asarray(first.learned[part]) - np.asarray(state.learned[part])).max() > 1e-3


def test_no_parameter_sized_array_travels(tiny):
    step, state = make_step(tiny, 8)[:2]
    trained, pullback = step.begin(state.learned, step.fixed, step.start, jax.random.key(0))
    _, _, cotangent = step.measure(trained, step.start.words, jax.device_put(make_batch(), step.batches))
    program = step.pull.lower(pullback, cotangent).compile().as_text()
    reduced = [line for line in program.splitlines() if "all-reduce(" in line]
    assert reduced, "the gradient of the distilled data has to be averaged"
    hidden, inner = tiny[0].encoder.hidden, tiny[0].encoder.feed_forward
    for line in reduced:
        assert f"[{hidden},{3 * hidden}]" not in line and f"[{hidden},{inner}]" not in line
    measured = step.measure.lower(trained, step.start.words, jax.device_put(make_batch(), step.batches)).compile().as_text()
    shapes = [line.split("all-reduce(")[0] for line in measured.splitlines() if "all-reduce(" in line]
    assert all("," not in shape.split("f32[")[1].split("]")[0] for shape in shapes if "f32[" in shape)


def test_average_follows_what_is_learned(tiny):
    plain, state = make_step(tiny, 1)[:2]
    last = run(plain, state, 3)[0]
    np.testing.assert_array_equal(last.average["embeddings"], last.learned["embeddings"])
    averaged, state = make_step(tiny, 1, average=0.9)[:2]
    last = run(averaged, state, 3)[0]
    assert np.abs(np.asarray(last.average["embeddings"]) - np.asarray(last.learned["embeddings"])).max() > 1e-4


def test_truncation_and_shuffling_follow_the_key_and_end_no_training_but_the_gradients(shallow):
    recipe = replace(RECIPE, order="shuffled")
    step, state, data, start = make_step(shallow, 8, truncation=Truncation(2, random=True), recipe=recipe)
    learned, begun = state.learned, {}
    for seed in range(8):
        key = jax.random.key(seed)
        begin = int(Truncation(2, random=True).begin(4, key))
        begun[begin] = float(optax.tree.norm(step.begin(learned, step.fixed, step.start, key)[0]))
        gradient = step.gradient(learned, make_batch(), key)[2]
        assert list(np.flatnonzero(np.asarray(gradient["rates"]).any(axis=1))) == [begin, begin + 1]
        whole = float(optax.tree.norm(step.train(learned, key)))
        expected = train(shallow[0], recipe, start, data.replace(**learned), key)
        assert whole == pytest.approx(float(optax.tree.norm(expected)), rel=1e-6)
        assert (begun[begin] == pytest.approx(whole, rel=1e-6)) == (begin == 2)
    assert set(begun) == {0, 1, 2}
