"""One small outer step, on any split of the devices."""

from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from ddllm.data.batches import Batch
from ddllm.distill.dataset import DistilledData, Recipe, learned_parts
from ddllm.distill.gradients import METHODS
from ddllm.distill.initialise import assemble, noise_data
from ddllm.distill.outer_step import OuterState, OuterStep, initial_state
from ddllm.distill.word_scores import add_rate
from ddllm.models.learner import Start
from ddllm.runtime.mesh import arrange

RECIPE = Recipe("unrestricted", "sgd", passes=2)


class Made(NamedTuple):
    """An outer step, the state before it, and what both come from."""

    step: OuterStep
    state: OuterState
    data: DistilledData
    recipe: Recipe


@pytest.fixture(scope="session")
def make_step():
    """make(learned_from, sizes of the mesh's axes, gradient method, moves of words, options of OuterStep) -> Made: four inner steps."""

    def make(learned_from, sizes=(1, 1, 1), gradient="mixed", optimizer=None, recipe=RECIPE, offload=False, tokens_at_once=0, moves=0, **options) -> Made:
        learner, params = learned_from
        words = np.random.default_rng(5).standard_normal((50, learner.encoder.hidden)).astype(np.float32)
        embeddings, mask = noise_data(words, (2, 3, 4), np.random.default_rng(6))
        data = assemble(
            embeddings, mask, classes=3, per_class=2, passes=2, kind="unrestricted", groups=learner.encoder.layers + 2, rate=0.2
        )
        if moves:
            rng = np.random.default_rng(7)
            scores, shares = rng.standard_normal((moves, len(words))), rng.standard_normal((*mask.shape, moves))
            data = data.replace(word_scores=scores.astype(np.float32), word_shares=shares.astype(np.float32), rates=add_rate(data.rates, -2.0))
        mesh = arrange(jax.devices()[: int(np.prod(sizes))], *sizes)
        start = Start(params["body"], jax.numpy.asarray(words))
        method = METHODS[gradient](offload, tokens_at_once)
        step = OuterStep(learner, recipe, start, data, method, optimizer or optax.adam(1e-2), mesh, **options)
        return Made(step, initial_state(learned_parts(data, recipe), step.optimizer, step.everywhere), data, recipe)

    return make


@pytest.fixture(scope="session")
def make_batch():
    """make(seed) -> 16 real texts of up to 6 positions."""

    def make(seed: int = 0) -> Batch:
        rng = np.random.default_rng(seed)
        mask = (np.arange(6) < rng.integers(2, 7, (16, 1))).astype(np.float32)
        return Batch(rng.integers(0, 50, (16, 6)).astype(np.int32), mask, rng.integers(0, 3, 16).astype(np.int32), np.ones(16, np.float32))

    return make
