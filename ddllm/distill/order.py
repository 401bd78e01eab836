"""Which examples each inner step is fed with: in stored order, dealt anew, or in learned proportions.

| order | a step is fed with | cost |
|---|---|---|
| `fixed` | inner batch t mod M | – |
| `shuffled` | examples dealt into the M batches anew in every pass, each class as often as before | – |
| `learned` | all batches at once, their losses in proportions learned for the step | M × time and activations of a step |

A shuffled order is random: it comes from the key of the training, in distillation as in evaluation, so that results have a spread over it as
they have over redrawn heads.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import DistilledData, Recipe

ORDERS = ("fixed", "shuffled", "learned")
# Apart from what a head is drawn with, which is derived from the same key.
SHUFFLE = 2**31 - 3


def choose_feed(data: DistilledData, recipe: Recipe, key: jax.Array | None = None, classes: int | None = None) -> jax.Array:
    """What each inner step is to be fed with, in the form that `pick_batch` takes.

    Args:
        data: the distilled data set.
        recipe: its order and passes.
        key: of a shuffled order; not needed for others.
        classes: into how many classes the examples are dealt; left out, there is one for each output.

    Returns:
        Indices of inner batches [S] ("fixed"), indices of examples [S, N], counted through all batches ("shuffled"), or the batches' shares
        in the step's loss [S, M] ("learned").
    """
    if recipe.order == "fixed":
        return jnp.asarray(fixed_order(data.embeddings.shape[0], recipe.passes))
    if recipe.order == "learned":
        if data.order is None:
            raise ValueError("a learned order needs logits in the data")
        return jax.nn.softmax(jnp.asarray(data.order), axis=-1)
    if key is None:
        raise ValueError("a shuffled order needs a key")
    batches, examples = data.embeddings.shape[:2]
    return shuffled_order(jax.random.fold_in(key, SHUFFLE), batches, examples, classes or data.labels.shape[-1], recipe.passes)


def fixed_order(batches: int, passes: int) -> np.ndarray:
    """Index of the inner batch fed at each inner step, [S]."""
    return np.tile(np.arange(batches, dtype=np.int32), passes)


def shuffled_order(key: jax.Array, batches: int, examples: int, classes: int, passes: int) -> jax.Array:
    """Indices of the examples fed at each inner step, [S, N]: in each pass every example once, and in its class's places.

    Places of a batch belong to classes as `initialise.deal_labels` says: class after class, the same number of each.
    """
    if examples % classes:
        raise ValueError(f"{examples} examples in a batch do not divide into {classes} classes")
    each = examples // classes
    places = np.arange(batches * examples).reshape(batches, classes, each).transpose(1, 0, 2).reshape(classes, -1)
    keys = jax.random.split(key, (passes, classes))
    dealt = jax.vmap(lambda row: jax.vmap(jax.random.permutation)(row, jnp.asarray(places, jnp.int32)))(keys)
    return dealt.reshape(passes, classes, batches, each).transpose(0, 2, 1, 3).reshape(passes * batches, examples)


def first_order(batches: int, passes: int, share: float = 0.9) -> np.ndarray:
    """Logits [S, M] that give the batch whose turn it is in a fixed order `share` of the loss, and the others the rest in equal parts."""
    logit = np.log(share * (batches - 1) / (1 - share))
    return (np.eye(batches) * logit)[fixed_order(batches, passes)].astype(np.float32)


def pick_batch(batches: dict[str, Any], choice: jax.Array, order: str) -> dict[str, Any]:
    """The batch of one inner step, out of arrays [M, N, …] and one row of what `choose_feed` gave.

    Returns:
        Arrays [N, …]; for a learned order [M · N, …], with "weights" [M · N] of the examples in the loss, which sum to one.
    """
    if order == "fixed":
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, choice, keepdims=False), batches)
    flat = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, *x.shape[2:]), batches)
    if order == "shuffled":
        return jax.tree.map(lambda x: x.at[choice].get(unique_indices=True, mode="promise_in_bounds"), flat)
    examples = batches["mask"].shape[1]
    return flat | {"weights": jnp.repeat(choice / examples, examples)}
