"""What a backward pass keeps, and where: computed again from a carry, or whole, on the device or in the host's memory.

A device's memory is small and the host's large; what inner steps keep is needed once, one step after the other, so that it can wait in the latter. Memory
spaces are part of arrays' types in JAX, and programs move arrays between them while they compute; CPUs, which have one memory, give it both names.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import Offloadable, checkpoint_name

# Elements that an array has at least where it travels. Smaller ones save nothing, and XLA for TPUs (libtpu 0.0.48) cannot put slices of some there.
LEAST = 4096
STEP, BLOCK = "before an inner step", "before a block of inner steps"


def put_away(tree: Any, offload: bool) -> Any:
    """The arrays in the host's memory, or where they are; small ones stay there in any case."""
    return _put(tree, jax.memory.Space.Host) if offload else tree


def fetch(tree: Any, offload: bool) -> Any:
    """What `put_away` has put away, on the device again."""
    return _put(tree, jax.memory.Space.Device) if offload else tree


def _put(tree: Any, space: Any) -> Any:
    return _change_large(lambda x: jax.device_put(x, space), tree)


def _change_large(change: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    return jax.tree.map(lambda x: change(x) if x.size >= LEAST else x, tree)


def compute_again(function: Callable, offload: bool, name: str) -> Callable:
    """`function(carry, inputs)`, of which a backward pass keeps the arguments alone and computes the rest again; the name tells the carry from others."""
    if not offload:
        return jax.checkpoint(function)
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[name], offload_src="device", offload_dst="pinned_host"
    )
    return jax.checkpoint(_named(function, name), policy=policy)


def keep_away(function: Callable) -> Callable:
    """`function(carry, inputs)`, all that a backward pass needs of it kept in the host's memory and nothing computed again."""
    return jax.checkpoint(_named(function, STEP), policy=_away)


def _away(*_: Any, **__: Any) -> Any:  # what a policy may say, though its type has bool alone
    return Offloadable("device", "pinned_host")


def _named(function: Callable, name: str) -> Callable:
    """What a policy is to put away must come out of an operation: arguments stay where they are."""
    return lambda carry, inputs: function(_change_large(lambda x: checkpoint_name(x, name), carry), inputs)
