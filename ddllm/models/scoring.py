"""Accuracy of a learner's parameters on real texts, each counted once.

Texts are grouped by length and padded to a few lengths only, so that little is computed in vain and few programs are compiled.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from ddllm.data.batches import Batch, evaluation_batches
from ddllm.data.tokens import TokenSplit
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner
from ddllm.runtime.devices import place
from ddllm.runtime.mesh import TEXTS, place_parameters


@partial(jax.jit, static_argnames="learner")
def batch_logits(params: Tree, words_VD: jax.Array, batch: Batch, learner: Learner) -> jax.Array:
    """Logits [B, C] of a batch of real texts."""
    return learner.logits(params, words_VD[batch.ids], batch.mask, batch.types)


@partial(jax.jit, static_argnames="learner")
def count_correct(params: Tree, words_VD: jax.Array, batch: Batch, learner: Learner) -> jax.Array:
    """Number of texts in the batch whose largest logit is their label's; rows of weight 0 do not count."""
    predicted_B = jnp.argmax(batch_logits(params, words_VD, batch, learner), axis=-1)
    return jnp.sum((predicted_B == batch.labels) * batch.weight)


def real_loss(params: Tree, learner: Learner, words_VD: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy on a batch of real texts."""
    logits_BC = learner.logits(params, words_VD[batch.ids], batch.mask, batch.types)
    losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, batch.labels)
    total = jnp.sum(batch.weight)
    correct = jnp.sum((jnp.argmax(logits_BC, axis=-1) == batch.labels) * batch.weight) / total
    return jnp.sum(losses_B * batch.weight) / total, correct


class Scorer:
    """Measures accuracy on one split.

    Args:
        learner: encoder and head.
        words_VD: word table [V, D]; may be overridden at each call, where it was trained too.
        split: tokenised texts.
        batch_size: texts per forward pass.
        buckets: padded lengths used.
        limit: score a fixed random part of so many texts; 0 for all of them.
        seed: of that part.
        mesh: devices, whose axes "head" and "data" batches are split over; left out, everything is where JAX puts it.
    """

    def __init__(
        self,
        learner: Learner,
        words_VD: jax.Array,
        split: TokenSplit,
        batch_size: int,
        buckets: tuple[int, ...],
        limit: int = 0,
        seed: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        if limit and limit < len(split):
            chosen = np.sort(np.random.default_rng([seed, 17]).permutation(len(split))[:limit])
            split = split.take(chosen)
        self.learner, self.words, self.texts, self.mesh = learner, words_VD, len(split), mesh
        shares = mesh.size // mesh.shape["model"] if mesh else 1
        batch_size = -(-batch_size // shares) * shares
        each = NamedSharding(mesh, TEXTS) if mesh else None
        self.batches = [place(batch, each) if each else jax.device_put(batch) for batch in evaluation_batches(split, batch_size, buckets)]

    def accuracy(self, params: Tree, words_VD: jax.Array | None = None) -> float:
        """Share of the texts that are classified correctly, in [0, 1]."""
        words_VD = self.words if words_VD is None else words_VD
        if self.mesh:
            params, words_VD = place_parameters((params, words_VD), self.mesh)
        counts = [count_correct(params, words_VD, batch, self.learner) for batch in self.batches]
        return float(sum(float(count) for count in counts)) / self.texts
