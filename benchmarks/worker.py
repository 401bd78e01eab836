"""One contestant in a process of its own, so that its peak memory is its own: answers commands, a line of JSON each.

    python -m benchmarks.worker WORKLOAD CONTESTANT METHOD PRODUCTS GRADIENTS CACHE

Says {"compile": seconds before the first step, "loss", "predicted_bytes": that a step is expected to need, or null} once, having written the gradients to
the file GRADIENTS. Then "run" gives {"seconds"} of one more step, and "end" {"peak_bytes"}: the most that was held in the steps after the first, above what
was held before it.
"""

import json
import os
import sys
import time

import jax
import numpy as np

from benchmarks import contestants, memory
from benchmarks.workloads import find_workload, make_problem
from ddllm.runtime.compiler import set_compiler_flags


def main(workload: str, contestant: str, method: str, products: str, gradients: str, cache: str) -> None:
    """Serve one contestant."""
    set_compiler_flags()
    if contestant == "pytorch":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_enable_x64", products == contestants.DOUBLE)
    if contestants.shards_of(method) > 1 and os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_num_cpu_devices", contestants.shards_of(method))
    problem = make_problem(find_workload(workload))
    run, compile_all = getattr(contestants, contestant)(problem, method, products)
    forget, peak = memory.begin(contestant)
    began = time.perf_counter()
    predicted = compile_all()
    compiled = time.perf_counter() - began
    loss, found = run()
    say(compile=compiled, loss=loss, predicted_bytes=predicted)
    np.savez(gradients, **found)
    del found
    forget()
    for line in sys.stdin:
        if line.strip() == "end":
            say(peak_bytes=peak())
            return
        began = time.perf_counter()
        run()
        say(seconds=time.perf_counter() - began)


def say(**values: float | None) -> None:
    """Answer with one line."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
