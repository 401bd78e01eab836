"""Memory is predicted from the programs that then run, and too much of it is refused before it crashes."""

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from ddllm.config import default_config
from ddllm.data.batches import Batch
from ddllm.distill import plan
from ddllm.distill.dataset import Recipe, learned_parts
from ddllm.distill.gradients import METHODS
from ddllm.distill.initialise import assemble, noise_data
from ddllm.distill.memory import predict_memory
from ddllm.distill.outer_step import OuterStep
from ddllm.errors import UserError
from ddllm.models.learner import Start

RECIPE = Recipe("unrestricted", "sgd", passes=4)


def make_step(learned_from, gradient: str, devices: int = 1, segments: int = 1):
    learner, params = learned_from
    words = np.random.default_rng(5).standard_normal((50, learner.encoder.hidden)).astype(np.float32)
    embeddings, mask = noise_data(words, (1, 3, 4), np.random.default_rng(6))
    data = assemble(embeddings, mask, classes=3, per_class=1, passes=4, kind="unrestricted", groups=4, rate=0.2)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    start = Start(jax.tree.map(jnp.asarray, params["body"]), jnp.asarray(words))
    return OuterStep(learner, RECIPE, start, data, METHODS[gradient](), optax.adam(1e-2), mesh, segments), data


@pytest.mark.parametrize("devices", [1, 2])
def test_what_was_compiled_for_the_account_is_what_runs(tiny, caplog, devices):
    step, data = make_step(tiny, "mixed", devices)
    learned = learned_parts(data, RECIPE)
    assert predict_memory(step, learned, 4, 6) > 0
    batch = Batch(np.ones((4, 6), np.int32), np.ones((4, 6), np.float32), np.zeros(4, np.int32), np.ones(4, np.float32))
    learned = jax.device_put(jax.tree.map(jnp.asarray, learned), step.everywhere)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        step.gradient(learned, batch, jax.random.key(1))
    compiled = [record.getMessage() for record in caplog.records if "XLA compilation" in record.getMessage()]
    assert not [line for line in compiled if any(f"jit({name})" in line for name in ("begin", "measure", "pull"))]


def test_more_is_needed_where_more_is_kept(wider):
    needs = {name: predict_memory(*_pair(make_step(wider, name)), 4, 6) for name in METHODS}
    assert needs["mixed"] < needs["direct"] and needs["checkpointed"] < needs["direct"]


def _pair(made):
    return made[0], learned_parts(made[1], RECIPE)


def test_too_much_is_refused_with_what_would_need_less(tiny, monkeypatch, capsys):
    step, data = make_step(tiny, "direct")

    config = default_config()
    config.distill.update({"gradient": "direct", "batch_size": 4, "passes": 4})
    prepared = SimpleNamespace(config=config, mesh=step.everywhere.mesh, buckets=(4, 6))
    monkeypatch.setattr(plan, "make_outer_step", lambda prepared, data, *other: make_step(tiny, other[0], 1, other[1])[0])
    monkeypatch.setattr(plan, "free_memory", lambda device: 10)
    with pytest.raises(UserError, match="but only 0.0 GB are free: .*config.distill.gradient=mixed with config.distill.segments=2"):
        plan.check_memory(prepared, step, data)
    monkeypatch.setattr(plan, "free_memory", lambda device: 10**12)
    plan.check_memory(prepared, step, data)
    assert "an outer step needs" in capsys.readouterr().err
