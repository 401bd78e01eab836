"""Memory is predicted from the programs that then run, and too much of it is refused before it crashes."""

import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import pytest

from ddllm.config import default_config
from ddllm.distill import memory
from ddllm.distill.gradients import METHODS
from ddllm.distill.memory import predict_memory
from ddllm.errors import UserError


@pytest.fixture(scope="module")
def make_shallow(shallow, make_step):
    """make(sizes of the mesh, gradient method, segments, heads, tokens at once) -> Made; the same for the same arguments."""

    def make(sizes, gradient, segments=1, heads=1, tokens=0):
        return make_step(shallow, sizes, gradient, segments=segments, heads=heads, tokens_at_once=tokens)

    return cache(make)


@pytest.mark.parametrize(("sizes", "offload"), [((1, 1, 1), False), ((1, 2, 1), False), ((2, 2, 2), False), ((1, 2, 1), True)])
def test_what_was_compiled_for_the_account_is_what_runs(shallow, make_step, make_batch, caplog, sizes, offload):
    step, state = make_step(shallow, sizes, heads=2, offload=offload)[:2]
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


@dataclass(frozen=True)
class Given:
    """What an account looks at of a `Prepared`."""

    config: Any
    mesh: Any
    buckets: tuple[int, ...] = (4, 6)
    tokens_at_once: int = 0


def test_too_much_is_refused_with_what_would_need_less(make_shallow, monkeypatch, capsys):
    step, state, data, _ = make_shallow((1, 2, 1), "direct")
    config = default_config()
    config.distill.update({"gradient": "direct", "batch_size": 16, "passes": 2})
    prepared = Given(config, step.everywhere.mesh)

    def make_other(prepared, data, mesh=prepared.mesh):
        asked, tokens = prepared.config.distill, prepared.config.runtime.tokens_at_once
        return make_shallow(tuple(mesh.shape.values()), asked.gradient, asked.segments, tokens=tokens).step

    monkeypatch.setattr(memory, "make_outer_step", make_other)
    monkeypatch.setattr(memory, "free_memory", lambda device: 10)
    with pytest.raises(UserError, match="but only 0.0 GB are free: .*gradient=mixed with config.distill.segments=2.*config.runtime.shard=2"):
        memory.check_memory(prepared, step, data)
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**12)
    memory.check_memory(prepared, step, data)
    said = capsys.readouterr().err
    assert "an outer step needs" in said and "would need" not in said
    # It is enough, but others need less.
    needed = predict_memory(step, state.learned, 16, 6)
    monkeypatch.setattr(memory, "free_memory", lambda device: needed + needed // 2)
    memory.check_memory(prepared, step, data)
    said = capsys.readouterr().err
    assert "are free; config.distill.gradient=" in said and "gradient=mixed with config.distill.segments=2 would need" in said


def test_what_may_need_less(make_shallow):
    step, _, data, _ = make_shallow((1, 2, 1), "direct")
    config = default_config()
    config.distill.update({"gradient": "direct", "batch_size": 24})
    prepared = Given(config, step.everywhere.mesh)
    changes = memory.changes_for_memory(prepared, data)
    assert {"distill.gradient": "mixed", "distill.segments": 2} in changes
    assert {"distill.gradient": "direct", "distill.segments": 1} not in changes
    assert changes[-1] == {"runtime.tokens_at_once": 18}  # a quarter of each device's twelve texts of six positions
    assert {"distill.offload": True} not in changes  # on CPUs there is no other memory
    assert memory.changes_for_memory(replace(prepared, tokens_at_once=6), data) == changes[:-1]  # already one text after the other
