"""The curriculum: inner steps join one by one, those that are absent leave no trace, and at its end the outer step is the ordinary one."""

import jax
import numpy as np
import pytest

from ddllm.distill.curriculum import grown_steps, joined_steps, shorten
from ddllm.distill.dataset import Recipe
from ddllm.distill.inner_loop import unroll
from ddllm.distill.perturb import scale_rates
from ddllm.distill.truncation import Truncation

KEY = jax.random.key(0)


def test_every_number_of_steps_is_equally_long():
    assert [int(grown_steps(step, 12, 4)) for step in range(14)] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 2
    assert int(grown_steps(5, 10, 1)) == 1
    # All at once where there are fewer outer steps than inner ones.
    assert [int(grown_steps(step, 1, 5)) for step in (0, 1)] == [1, 5]


def test_absent_steps_change_nothing_and_get_no_gradient(tiny, make_step, make_batch):
    step, state, data, recipe = make_step(tiny)
    learner, batch = tiny[0], make_batch()
    short = shorten(state.learned, 6, 16)  # two of four: the first pass
    params = {"body": step.start.body, "head": learner.init_head(KEY)}
    once = data.replace(rates=data.rates[:2])
    trained = step.train(short, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained, unroll(learner, Recipe("unrestricted"), params, once))
    gradient = step.gradient(short, batch, KEY)[2]
    assert np.abs(gradient["rates"][:2]).max() > 1e-4 and np.abs(gradient["rates"][2:]).max() < 1e-20
    first = step.gradient(shorten(state.learned, 0, 16), batch, KEY)[2]["embeddings"]
    assert np.abs(first[0]).max() > 1e-5 and np.abs(first[1]).max() < 1e-20


def test_an_outer_step_follows_the_curriculum_until_its_end(tiny, make_step, make_batch):
    step, state, *_ = make_step(tiny, curriculum=2)
    plain, same, *_ = make_step(tiny)
    before = np.asarray(state.learned["rates"])
    state, figures = step(state, make_batch(), KEY)
    np.testing.assert_array_equal(np.asarray(state.learned["rates"])[1:], before[1:])
    assert float(figures["loss"]) != pytest.approx(float(plain(same, make_batch(), KEY)[1]["loss"]), rel=1e-6)
    for index in (2, 3):
        state = state._replace(step=jax.numpy.asarray(index))
        assert float(step(state, make_batch(), KEY)[1]["loss"]) == pytest.approx(
            float(plain(state, make_batch(), KEY)[1]["loss"]), rel=1e-6
        )


@pytest.mark.parametrize("random", [False, True])
def test_a_window_lies_among_the_steps_that_have_joined(layerless, make_step, make_batch, random):
    truncation = Truncation(2, random, growing=True)
    step, state, data, _ = make_step(layerless, truncation=truncation)
    batch, windows = make_batch(), {}
    for outer, joined in ((0, 1), (6, 2), (11, 3), (16, 4)):
        short = shorten(state.learned, outer, 16)
        for factor in (0.5, 2.0):
            assert int(joined_steps(jax.nn.softplus(scale_rates(data.replace(**short), factor).rates))) == joined
        for seed in range(8 if random else 1):
            gradient = step.gradient(short, batch, jax.random.key(seed))[2]["rates"]
            windows.setdefault(joined, set()).add(tuple(np.flatnonzero(np.abs(gradient).max(axis=1) > 1e-20).tolist()))
    last = {1: {(0,)}, 2: {(0, 1)}, 3: {(1, 2)}, 4: {(2, 3)}}
    assert windows == ({1: last[1], 2: last[2], 3: last[2] | last[3], 4: last[2] | last[3] | last[4]} if random else last)
