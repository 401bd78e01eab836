"""The compilation cache, the choice of devices, and the description of the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.runtime.devices import cache_folder, choose_devices, describe_environment


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder("auto") == tmp_path / "cache" / "ddllm" / "compilation"
    assert (tmp_path / "cache" / "ddllm" / "compilation").is_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("auto") == tmp_path / "home" / ".cache" / "ddllm" / "compilation"
    assert cache_folder(str(tmp_path / "own")) == tmp_path / "own"
    assert cache_folder("") is None
    (tmp_path / "file").touch()
    assert cache_folder(str(tmp_path / "file" / "cache")) is None


PROGRAM = """
import sys
from ml_collections import ConfigDict
from ddllm.runtime.devices import set_up
set_up(ConfigDict({"compilation_cache": sys.argv[1]}))
import jax, jax.numpy as jnp
def slow(x):
    for i in range(60):
        x = jnp.sin(x) @ x + i
    return x
jax.jit(slow)(jnp.ones((8, 8))).block_until_ready()
"""


def test_compiled_programs_are_kept_between_processes(tmp_path: Path):
    def start() -> str:
        # As a user would: with every optimization, so that there is something slow to keep.
        environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
        line = [sys.executable, "-c", PROGRAM, tmp_path / "cache"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
        return done.stderr

    assert start() == ""
    kept = {path.name for path in (tmp_path / "cache").iterdir() if path.name.endswith("-cache")}
    assert any("slow" in name for name in kept)
    assert start() == ""
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.name.endswith("-cache")} == kept


def test_choice_of_devices():
    assert choose_devices(ConfigDict({"devices": 0})) == jax.devices()
    assert choose_devices(ConfigDict({"devices": 3})) == jax.devices()[:3]
    with pytest.raises(UserError, match="config.runtime.devices is 99, but JAX finds 8"):
        choose_devices(ConfigDict({"devices": 99}))


def test_environment_is_plain_json():
    environment = describe_environment()
    assert json.loads(json.dumps(environment)) == environment
    assert environment["devices"] == 8 and environment["backend"] == "cpu"
    assert environment["cores"] <= (os.cpu_count() or 1)
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["cpu"]
