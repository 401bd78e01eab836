"""How well a learner's parameters do on real texts, each counted once: the task's figures from predictions, and the loss of a batch.

Texts are grouped by length and padded to a few lengths only, so that little is computed in vain and few programs are compiled.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ddllm.data.batches import Batch, evaluation_batches
from ddllm.data.tokens import TokenSplit
from ddllm.models.encoder import Tree
from ddllm.models.figures import compute_figure, standard_error
from ddllm.models.learner import Learner
from ddllm.models.parts import compute
from ddllm.models.task import AS_THEY_STAND
from ddllm.models.words import look_up
from ddllm.runtime.devices import place
from ddllm.runtime.mesh import ALL, TEXTS, count_copies, place_parameters

NO_CLASS = -1  # of a text whose logits are not finite


@partial(jax.jit, static_argnames=("learner", "everywhere", "tokens", "shares"))
def batch_logits(
    params: Tree,
    words_VD: jax.Array,
    batch: Batch,
    learner: Learner,
    everywhere: NamedSharding | None = None,
    tokens: int = 0,
    shares: int = 1,
) -> jax.Array:
    """Logits [B, C] of a batch of real texts.

    Args:
        params, words_VD, batch, learner: what they are of.
        everywhere: puts all of them on every device that shares the batch.
        tokens, shares: as in `compute` (see parts.py).
    """
    logits_BC = compute(lambda part: learner.logits(params, look_up(params, words_VD, part.ids), part.mask, part.types), batch, tokens, shares)
    return logits_BC if everywhere is None else jax.lax.with_sharding_constraint(logits_BC, everywhere)


def real_loss(params: Tree, learner: Learner, words_VD: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Mean loss against the batch's targets, where it has some, or else its labels; and mean of what the task calls agreement (accuracy, for classes)."""
    logits_BC, task = learner.logits(params, look_up(params, words_VD, batch.ids), batch.mask, batch.types), learner.task
    if batch.targets is None:
        losses_B = task.outer_losses(logits_BC, batch.labels)
    else:
        losses_B = task.inner_losses(logits_BC, batch.targets, AS_THEY_STAND)
    total = jnp.sum(batch.weight)
    agreement = jnp.sum(task.agreement(logits_BC, batch.labels) * batch.weight) / total
    return jnp.sum(losses_B * batch.weight) / total, agreement


class Scorer:
    """Measures the figures of the learner's task on one split.

    Args:
        learner: encoder, head and task.
        words_VD: word table [V, D]; may be overridden at each call, where it was trained too.
        split: tokenised texts.
        batch_size: texts per forward pass.
        buckets: padded lengths used.
        limit: score a fixed random part of so many texts; 0 for all of them.
        seed: of that part.
        mesh: devices, whose axes "head" and "data" batches are split over; left out, everything is where JAX puts it.
        metric: the figure that `figure` gives; left out, the task's first one.
        tokens: at once on each device, as in `batch_logits`.

    Attributes:
        texts: how many are scored.
        labels: theirs.
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
        metric: str = "",
        tokens: int = 0,
    ) -> None:
        if limit and limit < len(split):
            chosen = np.sort(np.random.default_rng([seed, 17]).permutation(len(split))[:limit])
            split = split.take(chosen)
        self.learner, self.words, self.texts, self.mesh = learner, words_VD, len(split), mesh
        self.metric = metric or learner.task.figures[0]
        shares = count_copies(mesh) if mesh else 1
        self._at_once = tokens, shares
        batch_size = -(-batch_size // shares) * shares
        each = NamedSharding(mesh, TEXTS) if mesh else None
        self.everywhere = NamedSharding(mesh, ALL) if mesh else None
        batches = list(evaluation_batches(split, batch_size, buckets))
        self._real = [batch.weight > 0 for batch in batches]
        self.labels = np.concatenate([batch.labels[real] for batch, real in zip(batches, self._real, strict=True)])
        self.batches = [place(batch, each) if each else jax.device_put(batch) for batch in batches]

    def logits(self, params: Tree, words_VD: jax.Array | None = None) -> np.ndarray:
        """Logits [n, C] of the texts, in the order of `labels`."""
        words_VD = self.words if words_VD is None else words_VD
        if self.mesh:
            params, words_VD = place_parameters((params, words_VD), self.mesh)
        # All are started before the first is waited for.
        logits = [batch_logits(params, words_VD, batch, self.learner, self.everywhere, *self._at_once) for batch in self.batches]
        return np.concatenate([np.asarray(each)[real] for each, real in zip(logits, self._real, strict=True)])

    def scores(self, params: Tree, words_VD: jax.Array | None = None) -> dict[str, float]:
        """All figures of the task, by name."""
        predicted = self._decide(params, words_VD)
        return {name: compute_figure(name, self.labels, predicted) for name in self.learner.task.figures}

    def figure(self, params: Tree, words_VD: jax.Array | None = None) -> float:
        """The figure that is chosen by."""
        return compute_figure(self.metric, self.labels, self._decide(params, words_VD))

    def loss(self, params: Tree, words_VD: jax.Array | None = None) -> float:
        """The mean loss against the labels: of classes, cross-entropy in nats. It tells models apart that a figure of a few hundred texts does not."""
        return float(np.mean(self.learner.task.outer_losses(jnp.asarray(self.logits(params, words_VD)), jnp.asarray(self.labels))))

    def standard_error(self, figure: float) -> float:
        """Of the figure that is chosen by, where it has this value (see figures.py)."""
        return standard_error(self.metric, figure, self.texts)

    def _decide(self, params: Tree, words_VD: jax.Array | None) -> np.ndarray:
        """Predictions in the labels' form; a class that is decided by numbers that are not finite is never the right one."""
        logits = self.logits(params, words_VD)
        predicted = self.learner.task.decide(logits)
        return np.where(np.isfinite(logits).all(axis=-1), predicted, NO_CLASS) if predicted.dtype.kind == "i" and predicted.ndim == 1 else predicted
