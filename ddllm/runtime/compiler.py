"""What XLA's compiler for GPUs is told, which reads it when the first program is compiled: the one place where its flags are set.

Left to itself it tries out many kernels of its own for every matrix product and fusion. An outer step has a thousand of them: on an H200, the programs for
BERT base's shape were not compiled after three minutes. With these flags, products are left to cuBLAS, whose kernels alone are tried out, and sums over an
axis to XLA's plain emitter: 50 s, and steps as fast (see docs/SPEED.md).
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec

PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
FLAGS = {
    "--xla_gpu_enable_triton_gemm": "false",
    "--xla_gpu_experimental_enable_fusion_autotuner": "false",
    "--xla_disable_hlo_passes": "triton-softmax-rewriter",
}


def set_compiler_flags() -> None:
    """Have programs for NVIDIA's GPUs compiled quickly, where JAX can compile any; flags that the user has set in XLA_FLAGS stay as they are."""
    if any(_installed(plugin) for plugin in PLUGINS):
        os.environ["XLA_FLAGS"] = with_flags(os.environ)


def with_flags(environment: Mapping[str, str]) -> str:
    """XLA_FLAGS with ours, where the environment does not set them otherwise."""
    given = environment.get("XLA_FLAGS", "").split()
    known = {flag.partition("=")[0] for flag in given}
    return " ".join([*given, *(f"{name}={value}" for name, value in FLAGS.items() if name not in known)])


def _installed(plugin: str) -> bool:
    try:
        return find_spec(plugin) is not None
    except ModuleNotFoundError:
        return False
