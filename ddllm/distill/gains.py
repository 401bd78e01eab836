"""Gains: learned factors by which an inner gradient is multiplied along the channels of every kernel, beside the learning rates.

A rate says how far an array moves; the gains of a kernel [in, out] say which of its channels move, and which way: step t changes element (i, o) by
rate_t · a_i · b_o · gradient, with a_i and b_o learned, of any sign, and 1 at first. It is the diagonal of the meta-curvature of Park and Oliva (NeurIPS
2019, arXiv 1902.03356), between one rate for each array and Meta-SGD's one for each number (Li et al., 2017, arXiv 1707.09835). A distilled example can
only move a kernel along what it makes of its positions, layer after layer; gains turn that towards what the real texts would have moved.

Kernels of the body have gains, in the order of the parameter tree, each kernel's inputs before its outputs; tables, norms, biases and the head have none.
Stored once for all inner steps, [1, K], or for each of them, [S, K], as merged sets have them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.models.encoder import Tree


def _is_kernel(path: Any) -> bool:
    return jax.tree_util.keystr(path[-1:], simple=True) == "kernel"


def count_gains(body: Tree) -> int:
    """K: inputs and outputs of all kernels of a body, or of a tree of its shapes."""
    return sum(sum(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(body) if _is_kernel(path))


def first_gains(body: Tree) -> np.ndarray:
    """Gains [1, K] that change nothing."""
    return np.ones((1, count_gains(body)), np.float32)


def spread_gains(gains_K: jax.Array, params: Tree) -> Tree:
    """A tree like `params` = {"body", "head"} of factors that broadcast to its leaves: [in, out] for kernels of the body, and 1.

    Raises:
        ValueError: the body has other kernels.
    """
    if gains_K.shape[0] != count_gains(params["body"]):
        raise ValueError(f"{gains_K.shape[0]} gains for a body that needs {count_gains(params['body'])}")
    at, factors = 0, []
    leaves, structure = jax.tree_util.tree_flatten_with_path(params["body"])
    for path, leaf in leaves:
        if not _is_kernel(path):
            factors.append(1.0)
            continue
        inputs, outputs = leaf.shape
        factors.append(jnp.outer(gains_K[at : at + inputs], gains_K[at + inputs : at + inputs + outputs]))
        at += inputs + outputs
    return {name: jax.tree.map(lambda _: 1.0, part) for name, part in params.items()} | {"body": jax.tree.unflatten(structure, factors)}


def step_gains(gains: Any, steps: int) -> Any:
    """Gains of every step, [S, K], of those that are stored once or S times; None where there are none."""
    return None if gains is None else jnp.broadcast_to(gains, (steps, np.shape(gains)[1]))


def repeat_gains(gains: Any, count: int) -> Any:
    """Gains for `count` steps in the place of each."""
    return gains if same_in_all_steps(gains) else jnp.repeat(gains, count, axis=0)


def mean_gains(gains: Any, count: int) -> Any:
    """Gains for one step in the place of every `count`: their means."""
    return gains if same_in_all_steps(gains) else jnp.reshape(gains, (-1, count, np.shape(gains)[1])).mean(axis=1)


def same_in_all_steps(gains: Any) -> bool:
    """Whether nothing changes where steps are added, left out or put in another order."""
    return gains is None or np.shape(gains)[0] == 1
