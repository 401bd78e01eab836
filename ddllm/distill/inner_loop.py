"""The inner loop: learn from a distilled data set, differentiably.

The only place where parameters are trained on distilled (or as few real) examples: distillation differentiates it, evaluation merely runs
it. Step t changes the parameters by θ ← θ − η_t ⊙ update(∇_θ ℓ(θ, batch_t)), one `jax.lax.scan` over t. What η_t is made of, rates and gains, gradients.py
says; which direction `update` gives is the optimizer's matter (optimizers.py), what batch_t is the order's (order.py), and which of the steps a
derivative reaches truncation's (truncation.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddllm.distill.auxiliary import auxiliary_losses, auxiliary_of, looks_at_means, wanted_rows
from ddllm.distill.curriculum import joined_steps
from ddllm.distill.dataset import DistilledData, Recipe, actual_momentum, actual_rates
from ddllm.distill.gains import step_gains
from ddllm.distill.gradients import Direct, Method, scale
from ddllm.distill.optimizers import make_optimizer
from ddllm.distill.order import choose_feed, pick_batch
from ddllm.distill.truncation import Truncation
from ddllm.distill.word_scores import with_moves
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner, Start
from ddllm.models.words import MOVES, SCORES


def inner_loss(
    learner: Learner, labels: str, auxiliary_weights: dict[str, float] | None = None
) -> Callable[[Tree, dict[str, jax.Array]], jax.Array]:
    """The loss of one inner batch `{"embeddings" [N, T, D], "mask" [N, T], "labels" [N, C]}`: the mean of the task's, a scalar.

    With "types" [N, T] in the batch, these are its token types; with "word_shares" [N, T, R], its positions go along with the parameters' moves; with
    "attention", "features" or "directions", their weighted losses are added (see auxiliary.py); with "weights" [N], it is the sum weighted by them instead
    of the mean.
    """

    def loss(params: Tree, batch: dict[str, jax.Array]) -> jax.Array:
        batch = batch | {"mask": jax.lax.stop_gradient(batch["mask"])}
        embeddings_NTD = batch["embeddings"]
        if "word_shares" in batch:
            embeddings_NTD += batch["word_shares"] @ params[MOVES]
        inputs = (embeddings_NTD, batch["mask"], batch.get("types"))
        seen = learner.look(params, *inputs, wanted_rows(batch), looks_at_means(batch))
        losses_N = learner.task.inner_losses(seen.logits, batch["labels"], labels)
        for more_N in auxiliary_losses(seen, batch, auxiliary_weights or {}):
            losses_N += more_N
        return jnp.sum(batch["weights"] * losses_N) if "weights" in batch else jnp.mean(losses_N)

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
    key: jax.Array | None = None,
    truncation: Truncation | None = None,
) -> Tree:
    """Train `params` on the distilled data and return what comes out.

    Args:
        learner: encoder, head and their loss.
        recipe: label kind, inner optimizer, number of passes and order.
        params: initial parameters {"body", "head"}.
        data: the distilled data set, with S = M x passes rows of rates.
        method: how a derivative through this function is computed (see gradients.py); makes no difference to the result.
        segments: group the steps into so many blocks, each computed again as a whole in a backward pass; S / segments + segments
            parameter trees are then kept instead of S. Must divide S, or the steps of a truncation's window.
        optimizer: an Optax transformation used instead of the recipe's.
        first_fixed: parts of `params` whose gradient is known to be zero at the first step, so that it need not be computed.
        key: of a shuffled order and of a random window; not needed without them.
        truncation: which steps a derivative reaches (see truncation.py); all of them without it. A random window ends the training early.

    Returns:
        Trained parameters, a tree like `params`.
    """
    method = method or Direct()
    feed_S = choose_feed(data, recipe, key, learner.task.groups(data.labels.shape[-1]))
    rates_SG = actual_rates(data)
    steps = rates_SG.shape[0]
    if feed_S.shape[0] != steps:
        raise ValueError(f"{steps} rows of rates for {feed_S.shape[0]} inner steps")
    transform = optax.with_extra_args_support(optimizer) if optimizer else make_optimizer(recipe.optimizer)
    batches = data.batches
    loss = inner_loss(learner, recipe.labels, recipe.auxiliary_weights)

    def make_step(batches: dict[str, Any], method: Method, fixed: tuple[str, ...] = ()) -> Callable:
        gradient = method.gradient(loss, fixed)

        def step(carry: tuple[Tree, Any], inputs: tuple[Any, ...]) -> tuple[tuple[Tree, Any], None]:
            params, state = carry
            choice, pace, momentum = inputs
            batch = pick_batch(batches, choice, recipe.order)
            if transform is None:
                change = gradient(params, batch, pace)
            else:
                more = {} if momentum is None else {"momentum": momentum}
                direction, state = transform.update(gradient(params, batch, (jnp.ones_like(pace[0]), None)), state, params, **more)
                change = scale(direction, pace)
            return (jax.tree.map(jnp.subtract, params, change), state), None

        return method.wrap(step)

    carry = (params, transform.init(params) if transform else None)
    inputs = (feed_S, (rates_SG, step_gains(data.gains, steps)), actual_momentum(data))
    if truncation is not None and truncation.steps < steps:
        begin = truncation.begin(joined_steps(jax.lax.stop_gradient(rates_SG)) if truncation.growing else steps, key)
        plain = Direct(tokens_at_once=method.tokens_at_once)
        carry = _run_before(lambda batches, fixed: make_step(batches, plain, fixed), carry, inputs, batches, begin, first_fixed)
        inputs = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, truncation.steps), inputs)
        steps, first_fixed = truncation.steps, ()
    if segments == 1 and (first_fixed or steps == 1):
        # By itself: nothing asks for the derivative by θ_0, and what stands outside the scan is not computed in vain.
        carry, _ = make_step(batches, method, first_fixed)(carry, jax.tree.map(lambda x: x[0], inputs))
        inputs = jax.tree.map(lambda x: x[1:], inputs)
    if not len(inputs[0]):
        return carry[0]
    descend = method.descent(loss, partial(pick_batch, order=recipe.order)) if transform is None else None
    step = make_step(batches, method)

    def run(carry: tuple[Tree, Any], inputs: tuple[Any, ...]) -> tuple[Tree, Any]:
        if descend is not None:
            return descend(carry[0], batches, *inputs[:2]), None
        return jax.lax.scan(step, carry, inputs)[0]

    if segments == 1:
        return run(carry, inputs)[0]
    inputs = jax.tree.map(lambda x: x.reshape(segments, -1, *x.shape[1:]), inputs)
    return jax.lax.scan(method.block(lambda carry, inputs: (run(carry, inputs), None)), carry, inputs)[0][0]


def _run_before(
    make_step: Callable, carry: tuple[Tree, Any], inputs: Any, batches: Any, begin: int | jax.Array, first_fixed: tuple[str, ...]
) -> tuple[Tree, Any]:
    """Parameters and optimizer state after the first `begin` steps, as constants: a derivative neither follows these steps nor keeps anything of them."""
    carry, inputs, batches = jax.lax.stop_gradient((carry, inputs, batches))
    first = 0
    if first_fixed and isinstance(begin, int):  # where the window may hold the first step, what is fixed in it is computed as zero
        carry, _ = make_step(batches, first_fixed)(carry, jax.tree.map(lambda x: x[0], inputs))
        first = 1
    step = make_step(batches, ())
    # Of a length known only when it runs, so that one program serves every random window and does no step in vain.
    return jax.lax.fori_loop(first, begin, lambda index, carry: step(carry, jax.tree.map(lambda x: x[index], inputs))[0], carry)


def train(
    learner: Learner,
    recipe: Recipe,
    start: Start,
    data: DistilledData,
    key: jax.Array | None = None,
    method: Method | None = None,
    segments: int = 1,
    truncation: Truncation | None = None,
) -> Tree:
    """Fine-tune pretrained parameters on the distilled data, from the head that the learner starts with.

    Args:
        learner: encoder and head; `learner.start` says where the head comes from.
        recipe: constants of the inner loop.
        start: pretrained parameters.
        data: the distilled data set; also a learned head.
        key: of everything random: a redrawn head, a shuffled order, a random window.
        method: as in `unroll`.
        segments: as in `unroll`.
        truncation: as in `unroll`.

    Returns:
        Trained parameters {"body", "head"}; with "moves" and "word_scores" where the data have such scores (see models/words.py).
    """
    params = with_moves({"body": start.body, "head": learner.init_head(key, start.pooler, data.head)}, data)
    # Under a last layer of zeros nothing reaches the body, except from labels of its own.
    fixed = tuple(name for name in params if name != "head") if learner.start == "zero" and not auxiliary_of(data) else ()
    trained = unroll(learner, recipe, params, data, method, segments, first_fixed=fixed, key=key, truncation=truncation)
    return trained if data.word_scores is None else trained | {SCORES: jnp.asarray(data.word_scores)}


def same_every_time(learner: Learner, recipe: Recipe) -> bool:
    """True where nothing in a training is random, so that results have no spread over keys."""
    return learner.same_every_time and recipe.order != "shuffled"
