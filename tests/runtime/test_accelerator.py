"""On a machine with an accelerator, which these tests need: its gradients are those of the CPU, as exactly as `model.products` promises."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("direct", "mixed", "mixed+offload", "checkpointed-2+offload")
WORKER = """
import sys
import jax
import numpy as np
from benchmarks import contestants
from benchmarks.workloads import Workload, make_problem
from ddllm.runtime.compiler import set_compiler_flags

set_compiler_flags()
problem = make_problem(Workload("small", 2, 4, 32, 8, "bert-base-2"))
for asked in sys.argv[2:]:
    method, products = asked.split(",")
    loss, gradients = contestants.ours(problem, method, products).run()
    np.savez(f"{sys.argv[1]}/{asked}.npz", loss=loss, **gradients)
"""


def compute(folder: Path, platforms: str, asked: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Losses and gradients of an outer step, where JAX computes on these platforms ("": as it likes)."""
    folder.mkdir()
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "JAX_PLATFORMS": platforms, "PYTHONPATH": modules, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment.pop("XLA_FLAGS", None), environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    subprocess.run([sys.executable, "-c", WORKER, str(folder), *asked], check=True, env=environment)
    return {name: dict(np.load(folder / f"{name}.npz")) for name in asked}


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """Those of the accelerator by method and products, and the CPU's in float32."""
    asked = [f"{method},float32" for method in METHODS] + ["mixed,tensorfloat32", "mixed,bfloat16"]
    code = "import sys, jax; sys.exit(jax.default_backend() == 'cpu')"
    environment = {**os.environ, "JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment.pop("XLA_FLAGS", None)
    if subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("there is no accelerator here")
    folder = tmp_path_factory.mktemp("gradients")
    return compute(folder / "accelerator", "", asked), compute(folder / "cpu", "cpu", ["direct,float32"])["direct,float32"]


@pytest.mark.parametrize(
    "asked, most", [*((f"{method},float32", 1e-4) for method in METHODS), ("mixed,tensorfloat32", 0.02), ("mixed,bfloat16", 0.1)]
)
def test_gradients_are_those_of_the_cpu(gradients, asked, most):
    found, expected = gradients
    for part, value in expected.items():
        assert np.linalg.norm(found[asked][part] - value) <= most * np.linalg.norm(value), part
