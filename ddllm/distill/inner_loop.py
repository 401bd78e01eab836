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
from ddllm.models.learner import Learner, Start, cross_entropy, target_weights

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
    first_fixed: tuple[str, ...] = (),
) -> Tree:
    """Train `params` on the distilled data and return what comes out.

    Args:
        learner: encoder, head and their loss.
        recipe: label kind, inner optimizer and number of passes.
        params: initial parameters {"body", "head"}.
        data: the distilled data set, with S = M x passes rows of rates.
        method: how a derivative through this function is computed (see gradients.py); makes no difference to the result.
        segments: group the steps into so many blocks, each computed again as a whole in a backward pass; S / segments + segments
            parameter trees are then kept instead of S. Must divide S.
        optimizer: an Optax transformation used instead of the recipe's.
        first_fixed: parts of `params` whose gradient is known to be zero at the first step, so that it need not be computed.

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
    batches = {"embeddings": data.embeddings, "mask": data.mask, "labels": data.labels}
    loss = inner_loss(learner, recipe.labels)

    def make_step(fixed: tuple[str, ...] = ()) -> Callable:
        gradient = method.gradient(loss, fixed)

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

        return method.wrap(step)

    carry = (params, transform.init(params) if transform else None)
    inputs = (order_S, rates_SG)
    if segments == 1 and (first_fixed or len(order_S) == 1):
        # By itself: nothing asks for the derivative by θ_0, and what stands outside the scan is not computed in vain.
        carry, _ = make_step(first_fixed)(carry, jax.tree.map(lambda x: x[0], inputs))
        inputs = jax.tree.map(lambda x: x[1:], inputs)
    if not len(inputs[0]):
        return carry[0]
    if transform is None:
        descend = method.descend(loss)
        if segments == 1:
            return descend(carry[0], batches, *inputs)
        inputs = jax.tree.map(lambda x: x.reshape(segments, -1, *x.shape[1:]), inputs)
        return jax.lax.scan(jax.checkpoint(lambda params, x: (descend(params, batches, *x), None)), carry[0], inputs)[0]
    if segments == 1:
        return jax.lax.scan(make_step(), carry, inputs)[0][0]
    step = make_step()
    inputs = jax.tree.map(lambda x: x.reshape(segments, -1, *x.shape[1:]), inputs)
    segment = jax.checkpoint(lambda carry, inputs: (jax.lax.scan(step, carry, inputs)[0], None))
    return jax.lax.scan(segment, carry, inputs)[0][0]


def train(
    learner: Learner,
    recipe: Recipe,
    start: Start,
    data: DistilledData,
    key: jax.Array | None = None,
    method: Method | None = None,
    segments: int = 1,
) -> Tree:
    """Fine-tune pretrained parameters on the distilled data, from the head that the learner starts with.

    Args:
        learner: encoder and head; `learner.start` says where the head comes from.
        recipe: constants of the inner loop.
        start: pretrained parameters.
        data: the distilled data set; also a learned head.
        key: of a redrawn head.
        method: as in `unroll`.
        segments: as in `unroll`.

    Returns:
        Trained parameters {"body", "head"}.
    """
    params = {"body": start.body, "head": learner.init_head(key, start.pooler, data.head)}
    # Under a last layer of zeros nothing reaches the body.
    fixed = ("body",) if learner.start == "zero" else ()
    return unroll(learner, recipe, params, data, method, segments, first_fixed=fixed)
