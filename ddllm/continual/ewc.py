"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017, equation 3): parameters that mattered to earlier tasks are held where they were.

What mattered is the diagonal of the Fisher information, from the squared gradients of single texts with classes drawn from the model itself. One
anchor is kept, the parameters after the last task, and the Fisher diagonals of all tasks are added up (the online form of Schwarz et al., ICML 2018,
without decay): two copies of the parameters, whatever the number of tasks.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddllm.data.batches import Batch, evaluation_batches
from ddllm.data.tokens import TokenSplit
from ddllm.evaluate.finetune import Penalty
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.prepare import Prepared
from ddllm.runtime.progress import Progress


def fisher_diagonal(prepared: Prepared, learner: Learner, params: Tree, split: TokenSplit, seed: int) -> Tree:
    """Mean squared gradient of the log-likelihood by each parameter, over texts with classes drawn from the model."""
    words = prepared.start.words

    @jax.jit
    def add(total: Tree, params: Tree, words: jax.Array, batch: Batch, key: jax.Array) -> Tree:
        def likelihood(params: Tree) -> jax.Array:
            logits_BC = learner.logits(params, words[batch.ids], batch.mask, batch.types)
            drawn_B = jax.random.categorical(key, jax.lax.stop_gradient(logits_BC))
            return jnp.take_along_axis(jax.nn.log_softmax(logits_BC), drawn_B[:, None], axis=1).sum()

        return jax.tree.map(lambda total, gradient: total + gradient**2, total, jax.grad(likelihood)(params))

    total = jax.tree.map(jnp.zeros_like, params)
    with Progress(len(split), "continual: Fisher information") as progress:
        for number, batch in enumerate(evaluation_batches(split, 1, prepared.buckets)):
            total = add(total, params, words, batch, jax.random.fold_in(jax.random.key(seed), number))
            progress.update(number + 1)
    return jax.tree.map(lambda x: x / len(split), total)


def anchor(fisher: Tree, params: Tree, strength: float) -> Penalty:
    """λ / 2 times the squared distance from where the parameters are, weighted by what mattered."""

    def value(params: Tree, constants: Any) -> jax.Array:
        weighted = jax.tree.map(lambda now, then, weight: jnp.sum(weight * (now - then) ** 2), params, *constants)
        return 0.5 * strength * jax.tree.reduce(jnp.add, weighted)

    return Penalty(value, (params, fisher))
