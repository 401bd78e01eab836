"""How much memory an outer step will need, by XLA's own account of its compiled programs, before anything is run.

The programs compiled for the account are those that run afterwards: none is compiled twice.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from ddllm.data.batches import Batch
from ddllm.distill.outer_step import OuterStep
from ddllm.runtime.devices import place


def predict_memory(step: OuterStep, learned: dict[str, Any], batch_size: int, length: int) -> int:
    """Bytes that an outer step needs on each device at its peak, beyond pretrained parameters and what is learned.

    Args:
        step: the outer step.
        learned: the parts of the distilled data that are learned.
        batch_size: real texts B, a multiple of the devices.
        length: padded length T of the longest of them.

    Returns:
        The largest need of the three programs, each with what the earlier ones have handed on.
    """
    learned = place(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), learned), step.everywhere)
    inputs = (learned, step.fixed, step.start, jax.random.key(0))
    trained, pullback = _placed(jax.eval_shape(step.begin, *inputs), step.everywhere)
    shape, row = (batch_size, length), (batch_size,)
    kinds = Batch((shape, jnp.int32), (shape, jnp.float32), (row, jnp.int32), (row, jnp.float32))
    batch = Batch(*(jax.ShapeDtypeStruct(*kind, sharding=step.batches) for kind in kinds))
    cotangent = _placed(jax.eval_shape(step.measure, trained, step.start.words, batch)[2], step.batches)
    kept, needed = _account(step.begin, *inputs)
    most = needed
    for program, arguments in ((step.measure, (trained, step.start.words, batch)), (step.pull, (pullback, cotangent))):
        output, needed = _account(program, *arguments)
        most = max(most, kept + needed)
        kept += output
    return most


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _account(program: Any, *arguments: Any) -> tuple[int, int]:
    """Bytes of a program's results, and of its results and temporaries together."""
    analysis = program.lower(*arguments).compile().memory_analysis()
    if analysis is None:  # Not every backend gives one.
        return 0, 0
    return analysis.output_size_in_bytes, analysis.output_size_in_bytes + analysis.temp_size_in_bytes
