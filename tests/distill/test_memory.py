"""Memory is predicted from the programs that then run, and too much of it is refused before it crashes."""

import logging
from functools import cache
from types import SimpleNamespace

import jax
import pytest

from ddllm.config import default_config
from ddllm.distill import plan
from ddllm.distill.gradients import METHODS
from ddllm.distill.memory import predict_memory
from ddllm.errors import UserError


@pytest.fixture(scope="module")
def make_shallow(shallow, make_step):
    """make(sizes of the mesh, gradient method, segments, heads) -> Made; the same for the same arguments."""
    return cache(lambda sizes, gradient, segments=1, heads=1: make_step(shallow, sizes, gradient, segments=segments, heads=heads))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 1), (2, 2, 2)])
def test_what_was_compiled_for_the_account_is_what_runs(shallow, make_step, make_batch, caplog, sizes):
    step, state = make_step(shallow, sizes, heads=2)[:2]
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert predict_memory(step, state.learned, 16, 6) > 0
        assert any("jit(pull)" in record.getMessage() for record in caplog.records)
        caplog.clear()
        step.gradient(state.learned, make_batch(), jax.random.key(1))
    compiled = [record.getMessage() for record in caplog.records if "XLA compilation" in record.getMessage()]
    assert not [line for line in compiled if any(f"jit({name})" in line for name in ("begin", "measure", "pull"))]


def test_more_is_needed_where_more_is_kept(make_shallow):
    def need(*arguments, **options):
        step, state = make_shallow(*arguments, **options)[:2]
        return predict_memory(step, state.learned, 16, 6)

    needs = {name: need((1, 2, 1), name) for name in METHODS}
    assert needs["mixed"] < needs["direct"] and needs["checkpointed"] < needs["direct"]
    assert need((1, 1, 2), "mixed") < 0.6 * needs["mixed"]
    # Heads that take turns need the memory of one.
    assert need((1, 2, 1), "mixed", heads=3) == pytest.approx(needs["mixed"], rel=0.01)


def test_too_much_is_refused_with_what_would_need_less(make_shallow, monkeypatch, capsys):
    step, _, data, _ = make_shallow((1, 2, 1), "direct")
    config = default_config()
    config.distill.update({"gradient": "direct", "batch_size": 16, "passes": 2})
    prepared = SimpleNamespace(config=config, mesh=step.everywhere.mesh, buckets=(4, 6))

    def make_other(prepared, data, gradient, segments, mesh=prepared.mesh):
        return make_shallow(tuple(mesh.shape.values()), gradient, segments).step

    monkeypatch.setattr(plan, "make_outer_step", make_other)
    monkeypatch.setattr(plan, "free_memory", lambda device: 10)
    with pytest.raises(
        UserError, match="but only 0.0 GB are free: .*config.distill.gradient=mixed with config.distill.segments=2.*shard=2"
    ):
        plan.check_memory(prepared, step, data)
    monkeypatch.setattr(plan, "free_memory", lambda device: 10**12)
    plan.check_memory(prepared, step, data)
    assert "an outer step needs" in capsys.readouterr().err
