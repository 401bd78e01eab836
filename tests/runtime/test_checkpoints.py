"""States come back bit for bit, in other processes and on other devices, and only where they fit."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddllm.errors import UserError
from ddllm.runtime.checkpoints import Checkpoints, restore_for_analysis


class State(NamedTuple):
    learned: dict
    optimizer: optax.OptState
    step: jax.Array
    best: dict


def make_state(seed: int = 0, size: int = 5) -> State:
    learned = {"embeddings": jax.random.normal(jax.random.key(seed), (2, size)), "half": jnp.arange(3, dtype=jnp.bfloat16), "none": None}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)).init(learned)
    return State(learned, optimizer, jnp.asarray(seed, jnp.int32), {"empty": {}, "accuracy": jnp.float32(np.pi)})


def assert_same(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_state_comes_back_and_the_newest_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "states", keep=2)
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    checkpoints.save(3, make_state(99))
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["2", "3"]

    checkpoints = Checkpoints(tmp_path / "states", keep=2)
    assert checkpoints.latest() == 3
    shapes = jax.eval_shape(make_state)
    assert_same(checkpoints.restore(shapes), make_state(3))
    assert_same(checkpoints.restore(make_state(), step=2), make_state(2))
    with pytest.raises(UserError, match="no checkpoint of step 1"):
        checkpoints.restore(shapes, step=1)
    checkpoints.close()


def test_saved_state_is_a_copy(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    state = {"x": np.zeros(1000)}
    checkpoints.save(1, state)
    state["x"][:] = 1
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore(state)["x"], np.zeros(1000))
    checkpoints.close()


def test_arrays_spread_over_devices_come_back_on_any_number(tmp_path: Path):
    mesh = jax.make_mesh((8,), ("data",))
    spread = jax.device_put(jnp.arange(16.0), jax.NamedSharding(mesh, jax.P("data")))
    assert len(spread.devices()) == 8
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"x": spread}, wait=True)
    checkpoints.close()
    # A process of its own, with a single device.
    program = (
        "import jax, sys, numpy as np; from pathlib import Path; from ddllm.runtime.checkpoints import Checkpoints;"
        "assert jax.device_count() == 1;"
        "print(Checkpoints(Path(sys.argv[1]), 1).restore({'x': np.zeros(16, np.float32)})['x'].sum())"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "120.0"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: state._replace(learned={**state.learned, "embeddings": jnp.zeros((2, 6))}),
            r"learned/embeddings is float32\[2,5\] there",
        ),
        (lambda state: state._replace(step=jnp.float32(0)), r"step is int32\[\] there and float32\[\] here"),
        (lambda state: state._replace(learned={**state.learned, "head": jnp.zeros(1)}), r"learned/head is nothing there"),
        (lambda state: state._replace(best={}), r"best/accuracy is float32\[\] there and nothing here"),
    ],
)
def test_other_shapes_do_not_fit(tmp_path: Path, change, words: str):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make_state(), wait=True)
    with pytest.raises(UserError, match=f"does not fit this run: {words}"):
        checkpoints.restore(change(make_state()))
    checkpoints.close()


def test_half_written_saves_are_ignored_and_broken_ones_named(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    (tmp_path / "3.orbax-checkpoint-tmp" / "default").mkdir(parents=True)
    for file in (tmp_path / "2").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.latest() == 2
    with pytest.raises(UserError, match="/2 cannot be read .*: remove that folder"):
        checkpoints.restore(make_state())
    assert_same(checkpoints.restore(make_state(), step=1), make_state(1))
    checkpoints.close()


def test_reading_without_a_template(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "states", keep=1)
    checkpoints.save(4, make_state(4), wait=True)
    checkpoints.close()
    half_written = tmp_path / "states" / "5.orbax-checkpoint-tmp"
    half_written.mkdir()
    tree = restore_for_analysis(tmp_path / "states")
    np.testing.assert_array_equal(tree["learned"]["embeddings"], make_state(4).learned["embeddings"])
    assert tree["step"] == 4
    assert set(tree) == {"learned", "optimizer", "step", "best"}
    assert isinstance(tree["learned"]["half"], np.ndarray)
    assert half_written.exists()
    with pytest.raises(UserError, match="no folder"):
        restore_for_analysis(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_only_orbax_is_kept_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    Checkpoints(tmp_path, keep=1).close()
    log = logging.getLogger("absl")
    with caplog.at_level(logging.INFO, logger="absl"):
        log.handle(logging.LogRecord("absl", logging.ERROR, "/lib/orbax/checkpoint/manager.py", 1, "noise", None, None))
        log.handle(logging.LogRecord("absl", logging.ERROR, "/lib/other/module.py", 1, "signal", None, None))
    assert [record.getMessage() for record in caplog.records] == ["signal"]
