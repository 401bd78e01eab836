"""How much memory an outer step will need, by XLA's own account of its compiled programs, before anything is run.

The programs compiled for the account are those that run afterwards: none is compiled twice.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddllm.data.batches import Batch
from ddllm.distill.outer_step import OuterStep
from ddllm.runtime.devices import place


def predict_memory(
    step: OuterStep, learned: dict[str, Any], batch_size: int, length: int, *, taught: bool = False, typed: bool = False
) -> int:
    """Bytes that an outer step needs on each device at its peak, beyond pretrained parameters and what is learned.

    Args:
        step: the outer step.
        learned: the parts of the distilled data that are learned.
        batch_size: real texts B, a multiple of the devices that share them.
        length: padded length T of the longest of them.
        taught: whether a teacher gives them targets.
        typed: whether they have token types.

    Returns:
        The largest need of the three programs, each with what the earlier ones have handed on.
    """
    learned = place(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), learned), step.everywhere)
    shape, row = (batch_size, length), (batch_size,)
    classes = step.learner.head.classes
    kinds = Batch(
        ids=(shape, jnp.int32),
        mask=(shape, jnp.float32),
        labels=step.learner.task.label_kind(batch_size, classes),
        weight=(row, jnp.float32),
        targets=((batch_size, classes), jnp.float32) if taught else None,
        types=(shape, jnp.int32) if typed else None,
    )
    batch = Batch(*(kind and jax.ShapeDtypeStruct(*kind, sharding=step.batches) for kind in kinds))
    keys = step.rounds(jax.random.key(0))[0]
    begun = [_account(begin, learned, step.fixed, step.start, keys) for begin in step.begins.values()]
    (_, _, cotangent), handed_on, needed = _account(step.measure, begun[0][0][0], step.start.words, batch)
    return max(max(most, kept + needed, kept + handed_on + _account(step.pull, pullback, cotangent)[2]) for (_, pullback), kept, most in begun)


def _account(program: Any, *arguments: Any) -> tuple[Any, int, int]:
    """A program's results as shapes that lie where XLA leaves them, their bytes on a device, and the bytes of results and temporaries together."""
    compiled = program.lower(*arguments).compile()
    results = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(program, *arguments),
        compiled.output_shardings,
    )
    analysis = compiled.memory_analysis()
    if analysis is None:  # Not every backend gives one.
        return results, 0, 0
    return results, analysis.output_size_in_bytes, analysis.output_size_in_bytes + analysis.temp_size_in_bytes
