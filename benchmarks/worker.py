"""One contestant in a process of its own, so that its peak memory is its own: answers commands, a line of JSON each.

    python -m benchmarks.worker WORKLOAD CONTESTANT METHOD GRADIENTS [CACHE]

Says {"ready": seconds of the first step, "loss"} once, having written the gradients to the file GRADIENTS. Then "run" gives {"seconds"}
of one more step, and "end" {"peak_bytes"}: the most that was resident in the steps after the first, above what was before it.
"""

import ctypes
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import contestants
from benchmarks.workloads import WORKLOADS, make_problem


def memory(field: str) -> int:
    """VmRSS (resident now) or VmHWM (most ever resident, since it was last reset) of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None, f"the system reports no {field}"
    return 1024 * int(found[1])


def forget_peak() -> None:
    """Let VmHWM start from what is resident now, freed memory given back first."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def main(workload: str, contestant: str, method: str, gradients: str, cache: str = "") -> None:
    """Serve one contestant."""
    threads = len(os.sched_getaffinity(0))
    if contestant == "pytorch":
        import torch

        torch.set_num_threads(threads)
    elif cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    problem = make_problem(next(known for known in WORKLOADS if known.name == workload))
    run = getattr(contestants, contestant)(problem, method)
    forget_peak()
    idle, began = memory("VmRSS"), time.perf_counter()
    loss, found = run()
    say(ready=time.perf_counter() - began, loss=loss)
    np.savez(gradients, **found)
    del found
    forget_peak()
    for line in sys.stdin:
        if line.strip() == "end":
            say(peak_bytes=memory("VmHWM") - idle)
            return
        began = time.perf_counter()
        run()
        say(seconds=time.perf_counter() - began)


def say(**values: float) -> None:
    """Answer with one line."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
