"""How much memory an outer step will need, by XLA's own account of its compiled programs, before anything is run; and what to do where that is too much.

The programs compiled for the account are those that run afterwards: none is compiled twice. They are traced one after the other, and each is compiled
in a thread of its own meanwhile, where XLA holds no lock: of two cores, compiling keeps both at work.
"""

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from ddllm.data.batches import Batch
from ddllm.distill.dataset import DistilledData, learned_parts
from ddllm.distill.gradients import METHODS
from ddllm.distill.outer_step import OuterStep
from ddllm.distill.plan import make_outer_step, recipe_of
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.runtime.devices import free_memory, has_host_memory, place
from ddllm.runtime.host_memory import give_back_freed
from ddllm.runtime.mesh import divisors, share_parameters, with_all_axes
from ddllm.runtime.processes import from_first
from ddllm.runtime.progress import say


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
    drawn = step.rounds(jax.random.key(0))[0]
    with ThreadPoolExecutor() as threads:
        begins = [_Program(threads, begin, learned, step.fixed, step.start, drawn) for begin in step.begins.values()]
        begun = [begin.results() for begin in begins]
        measure = _Program(threads, step.measure, begun[0][0], step.start.words, batch)
        cotangent = measure.results()[2]
        pulls = [_Program(threads, step.pull, pullback, cotangent) for _, pullback in begun]
    (handed_on, needed), needs = measure.bytes(), [(*begin.bytes(), pull.bytes()[1]) for begin, pull in zip(begins, pulls, strict=True)]
    return max(max(most, kept + needed, kept + handed_on + pulling) for kept, most, pulling in needs)


def check_memory(prepared: Prepared, step: OuterStep, data: DistilledData, parts: tuple[str, ...] = (), taught: bool = False) -> None:
    """Say how much memory an outer step needs and, where that is more than half of what is free, which options would need less.

    Args:
        prepared: data, model and configuration.
        step: the outer step.
        data: what is learned.
        parts: the learned parts, where these are not all.
        taught: whether real batches come with targets, though there is no teacher.

    Raises:
        UserError: there is not as much; the sentence says which options would need less, or parameters shared by more devices.
    """
    config, free = prepared.config.distill, free_memory(prepared.mesh.local_devices[0])

    def need(step: OuterStep) -> int:
        learned, more = learned_parts(data, recipe_of(config)), {"taught": taught or bool(config.teacher), "typed": data.types is not None}
        learned = {name: value for name, value in learned.items() if not parts or name in parts}
        needed = predict_memory(step, learned, config.batch_size, max(prepared.buckets), **more)
        give_back_freed()  # what compiling took, before the step takes its own
        return needed

    needed = need(step)
    needs: dict[str, int] = {}
    # Compiling the others takes its time, so they are asked only where memory may be short; by all processes alike, since what is free differs.
    if from_first(lambda: 2 * needed > free) or needed > free:
        for change in changes_for_memory(prepared, data):
            changed = replace(prepared, config=prepared.config.copy_and_resolve_references())
            changed.config.update_from_flattened_dict(change)
            needs[" with ".join(f"config.{key}={value}" for key, value in change.items())] = need(make_outer_step(changed, data))
        mesh = share_parameters(prepared.mesh)
        if mesh is not None:
            needs[f"config.runtime.shard={mesh.shape['model']}"] = need(make_outer_step(prepared, data, mesh))
    listed = "; ".join(f"{change} would need {_gigabytes(size)}" for change, size in needs.items() if size < needed)
    if needed <= free:
        said = f"an outer step needs {_gigabytes(needed)} beside the model, on each device; {_gigabytes(free)} are free"
        say("  " + "; ".join(filter(None, (said, listed))))
        return
    raise UserError(
        f"an outer step needs {_gigabytes(needed)} on each device, but only {_gigabytes(free)} are free: {listed or 'no other method needs less'}; "
        "shorter or fewer examples and smaller batches need less too."
    )


def changes_for_memory(prepared: Prepared, data: DistilledData) -> list[dict[str, Any]]:
    """Values of the configuration that may need less memory for the same gradient."""
    config, mesh = prepared.config.distill, with_all_axes(prepared.mesh)
    device = mesh.local_devices[0]
    reached = config.truncate or data.steps
    segments = max(count for count in divisors(reached) if count * count <= reached)
    others = {(name, count) for name in METHODS for count in (1, segments)} - {(config.gradient, config.segments)}
    changes: list[dict[str, Any]] = [{"distill.gradient": name, "distill.segments": count} for name, count in sorted(others)]
    if not config.offload and device.platform != "cpu" and has_host_memory(device):
        changes.append({"distill.offload": True})
    longest = max(prepared.buckets)
    real, inner = config.batch_size // mesh.shape["data"] * longest, prod(data.mask.shape[1:])
    at_once = prepared.tokens_at_once or max(real, inner)
    if at_once > longest:
        changes.append({"runtime.tokens_at_once": max(at_once // 4, longest)})
    return changes


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


class _Program:
    """A program for these arguments, which compiles beside whatever else is done."""

    def __init__(self, threads: Executor, program: Any, *arguments: Any) -> None:
        lowered = program.lower(*arguments)
        self._shapes, self._compiled = lowered.out_info, threads.submit(lowered.compile)

    def results(self) -> Any:
        """Its results as shapes that lie where they will: where the program says, or where XLA leaves them, which it says when it has compiled."""
        if all(shape.sharding for shape in jax.tree.leaves(self._shapes)):
            return self._shapes
        lie = self._compiled.result().output_shardings
        return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self._shapes, lie)

    def bytes(self) -> tuple[int, int]:
        """Bytes of results on a device, and of results and temporaries together."""
        analysis = self._compiled.result().memory_analysis()
        if analysis is None:  # Not every backend gives one.
            return 0, 0
        return analysis.output_size_in_bytes, analysis.output_size_in_bytes + analysis.temp_size_in_bytes
