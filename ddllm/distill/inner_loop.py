"""The inner loop: learn from a distilled data set, differentiably.

The only place where parameters are trained on distilled (or as few real) examples: distillation differentiates it, evaluation merely runs
it. Step t changes the parameters by θ ← θ − η_t ⊙ update(∇_θ ℓ(θ, batch_t)), one `jax.lax.scan` over t.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddllm.distill.dataset import DistilledData, Recipe, actual_rates, inner_order, spread_rates
from ddllm.distill.gradients import Direct, Method
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner, cross_entropy, target_weights

# Direction of a step, before the learned rate scales it. `eps_root` keeps Adam's square root differentiable at zero.
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation] | None] = {
    "sgd": None,
    "momentum": lambda: optax.trace(decay=0.9),
    "nesterov": lambda: optax.trace(decay=0.9, nesterov=True),
    "adam": lambda: optax.scale_by_adam(eps=1e-8, eps_root=1e-12),
}


def inner_loss(learner: Learner, labels: str) -> Callable[[Tree, dict[str, jax.Array]], jax.Array]:
    """The loss of one inner batch `{"embeddings" [N, T, D], "mask" [N, T], "labels" [N, C]}`: mean cross-entropy, a scalar."""

    def loss(params: Tree, batch: dict[str, jax.Array]) -> jax.Array:
        logits_NC = learner.logits(params, batch["embeddings"], jax.lax.stop_gradient(batch["mask"]))
        return jnp.mean(cross_entropy(logits_NC, target_weights(batch["labels"], labels)))

    return loss


def unroll(
    learner: Learner,
    recipe: Recipe,
    params: Tree,
    data: DistilledData,
    method: Method | None = None,
    segments: int = 1,
    optimizer: optax.GradientTransformation | None = None,
) -> Tree:
    """Train `params` on the distilled data and return what comes out.

    Args:
        learner: encoder, head and their loss.
        recipe: label kind, inner optimizer and number of passes.
        params: initial parameters {"body", "head"}.
        data: the distilled data set, with S = M x passes rows of rates.
        method: how a derivative through this function is computed (see gradients.py); makes no difference to the result.
        segments: group the steps into so many blocks, each computed again as a whole in a backward pass; S / segments + segments
        parameter trees are then kept
            instead of S. Must divide S.
        optimizer: an Optax transformation used instead of the recipe's.

    Returns:
        Trained parameters, a tree like `params`.
    """
    method = method or Direct()
    order_S = jnp.asarray(inner_order(data, recipe))
    rates_SG = actual_rates(data)
    if order_S.shape[0] != rates_SG.shape[0]:
        raise ValueError(f"{rates_SG.shape[0]} rows of rates for {order_S.shape[0]} inner steps")
    make = OPTIMIZERS[recipe.optimizer]
    transform = optimizer or (make() if make else None)
    gradient = method.gradient(inner_loss(learner, recipe.labels))
    batches = {"embeddings": data.embeddings, "mask": data.mask, "labels": data.labels}

    def step(carry: tuple[Tree, Any], inputs: tuple[jax.Array, jax.Array]) -> tuple[tuple[Tree, Any], None]:
        params, state = carry
        index, rates_G = inputs
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches)
        if transform is None:
            change = gradient(params, batch, rates_G)
        else:
            direction, state = transform.update(gradient(params, batch, jnp.ones_like(rates_G)), state, params)
            change = jax.tree.map(jnp.multiply, direction, spread_rates(rates_G, params))
        return (jax.tree.map(jnp.subtract, params, change), state), None

    step = method.wrap(step)
    carry = (params, transform.init(params) if transform else None)
    inputs = (order_S, rates_SG)
    if segments == 1:
        return jax.lax.scan(step, carry, inputs)[0][0]
    inputs = jax.tree.map(lambda x: x.reshape(segments, -1, *x.shape[1:]), inputs)
    segment = jax.checkpoint(lambda carry, inputs: (jax.lax.scan(step, carry, inputs)[0], None))
    return jax.lax.scan(segment, carry, inputs)[0][0]
