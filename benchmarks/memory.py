"""What a contestant's steps need at their peak beyond what it held before them: of this process, or of the accelerator that it computes on."""

import re
from collections.abc import Callable
from pathlib import Path

import jax

from ddllm.runtime.host_memory import give_back_freed


def begin(framework: str) -> tuple[Callable[[], None], Callable[[], int]]:
    """Take note of what is held now.

    Args:
        framework: "pytorch", whose allocator is asked where JAX computes on a GPU; any other's is JAX's.

    Returns:
        Forgets the peak so far, where that can be done; and gives the peak since then in bytes, less what is held now. JAX's allocator forgets nothing, and
        trying out kernels counts as well: on an accelerator, its peak is one of steps alone where their programs were found in the cache.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        _forget_resident()
        idle = _resident("VmRSS")
        return _forget_resident, lambda: _resident("VmHWM") - idle
    if framework == "pytorch":
        import torch

        allocated = torch.cuda.memory_allocated()
        return torch.cuda.reset_peak_memory_stats, lambda: torch.cuda.max_memory_allocated() - allocated
    held = device.memory_stats()["bytes_in_use"]
    return lambda: None, lambda: device.memory_stats()["peak_bytes_in_use"] - held


def _resident(field: str) -> int:
    """VmRSS (resident now) or VmHWM (most ever resident, since it was last reset) of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None, f"the system reports no {field}"
    return 1024 * int(found[1])


def _forget_resident() -> None:
    """Let VmHWM start from what is resident now, freed memory given back first."""
    give_back_freed()
    Path("/proc/self/clear_refs").write_text("5")
