"""The mesh of devices that a run works on, and what lies where on it: hands on the mesh, the axes' specs and the shardings of parameters.

Three axes, outermost first:

    head     redrawn heads that run at once
    data     shares of a batch of real texts
    model    shares of the parameters, of the word table and of everything of their size

What happens along "head" and "data" is written out by hand (`jax.shard_map` over these two), so that no parameter ever travels there; along
"model" XLA's partitioner decides, from where the parameters lie.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.runtime import processes
from ddllm.runtime.devices import choose_devices, place

AXES = ("head", "data", "model")
ALL = PartitionSpec()
BATCH = PartitionSpec("data")  # each head's device has a share of its own
HEAD = PartitionSpec("head")
HEAD_BATCH = PartitionSpec("head", "data")
TEXTS = PartitionSpec(("head", "data"))  # where there is one set of parameters, both axes share the texts


def make_mesh(config: ConfigDict) -> Mesh:
    """The devices that config.runtime.devices asks for, config.runtime.shard of them to every copy of the parameters.

    Raises:
        UserError: there are fewer devices, or parameters, heads or batches do not divide over them.
    """
    devices, shard = choose_devices(config.runtime), config.runtime.shard
    if len(devices) % shard:
        raise UserError(
            f"config.runtime.shard is {shard}, which does not divide the {len(devices)} devices; "
            f"make it one of {', '.join(map(str, divisors(len(devices))))}."
        )
    own = len(devices) // processes.count()
    if own % shard:
        raise UserError(
            f"config.runtime.shard is {shard}, but each of the {processes.count()} processes has {own} of the devices, and they cannot share one copy of the "
            f"parameters between them: make it one of {', '.join(map(str, divisors(own)))}, or start one process for all devices of a machine."
        )
    copies = len(devices) // shard
    places = f"{copies} devices" if shard == 1 else f"{copies} groups of {shard} devices"
    advice = "make it a multiple or set config.runtime.devices."
    heads, batch_size = config.distill.heads, config.distill.batch_size
    split = split_copies(copies, heads, batch_size)
    if split is None:
        also = f", nor with config.distill.heads={heads}" if heads > 1 else ""
        raise UserError(f"config.distill.batch_size is {batch_size}, which does not divide over {places}{also}; {advice}")
    if config.finetune.batch_size % copies:
        raise UserError(f"config.finetune.batch_size is {config.finetune.batch_size}, which does not divide over {places}; {advice}")
    return arrange(devices, *split, shard)


def split_copies(copies: int, heads: int, batch_size: int) -> tuple[int, int] | None:
    """How many heads run at once, and over how many copies of the parameters each one's batch is split; None where neither divides.

    As many heads as there can be: they share out the whole inner loop, whereas copies that share a batch all unroll the same one.
    """
    splits = ((head, copies // head) for head in reversed(divisors(copies)))
    return next(((head, data) for head, data in splits if heads % head == 0 and batch_size % data == 0), None)


def count_copies(mesh: Mesh) -> int:
    """Copies of the parameters, over which texts are shared out as `TEXTS` says."""
    return mesh.size // mesh.shape["model"]


def arrange(devices: list[Any], head: int = 1, data: int = 1, model: int = 1) -> Mesh:
    """A mesh of these axis sizes; neighbouring devices share parameters, since along "model" most has to travel.

    Of several processes each then has whole copies of the parameters, as long as "model" divides its devices.
    """
    return Mesh(np.array(devices).reshape(head, data, model), AXES, axis_types=(AxisType.Auto,) * 3)


def share_parameters(mesh: Mesh) -> Mesh | None:
    """The same devices with the next larger number of them to every copy of the parameters; None where one copy has all that a process has."""
    sizes, own = dict(mesh.shape), mesh.local_mesh.size
    for axis in ("data", "head"):
        for step in (step for step in divisors(sizes[axis])[1:2] if own % (sizes["model"] * step) == 0):
            return arrange(list(mesh.devices.flat), **sizes | {axis: sizes[axis] // step, "model": sizes["model"] * step})
    return None


def with_all_axes(mesh: Mesh) -> Mesh:
    """The same devices with every axis; those that the mesh lacks have size 1."""
    sizes = [mesh.shape.get(axis, 1) for axis in AXES]
    return Mesh(mesh.devices.reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def parameter_spec(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    """Where an array of parameters is cut: along the longest axis that divides, the first of equals; biases and norms stay whole.

    For a transformer's kernels that is the Megatron layout (arXiv 1909.08053): the query-key-value and up projections by output, the output
    and down projections by input, so that a layer's activations are summed over devices twice.
    """
    longest = max((size for size in shape if size % shards == 0), default=0)
    if shards == 1 or len(shape) < 2 or not longest:
        return ALL
    axis = shape.index(longest)
    return PartitionSpec(*[None] * axis, "model")


def parameter_shardings(tree: Any, mesh: Mesh) -> Any:
    """Where each parameter lies on the mesh, in the tree's structure; leaves may be anything with a shape."""
    shards = mesh.shape["model"]
    return jax.tree.map(lambda x: NamedSharding(mesh, parameter_spec(jnp.shape(x), shards)), tree)


def parameter_bytes(tree: Any, mesh: Mesh) -> int:
    """Bytes of a tree of parameters that each device holds."""
    shares = jax.tree.map(
        lambda x, where: int(np.prod(where.shard_shape(x.shape))) * x.dtype.itemsize, tree, parameter_shardings(tree, mesh)
    )
    return sum(jax.tree.leaves(shares))


def place_parameters(tree: Any, mesh: Mesh) -> Any:
    """Parameters put where they belong on the mesh."""
    return jax.tree.map(place, tree, parameter_shardings(tree, mesh))


def keep_sharded(tree: Any, shards: int) -> Any:
    """Inside a program: the same parameters, with XLA told where they lie."""
    if shards == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, parameter_spec(x.shape, shards)), tree)
