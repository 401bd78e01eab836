"""Ways to differentiate through inner gradient steps: the same numbers at another cost.

A method answers three questions: how the scaled inner gradient `rate ⊙ ∇_θ ℓ(θ, batch)` is computed so that it can itself be
differentiated, what is kept of a step for the backward pass, and whether it knows a better way through a whole descent (steps of plain SGD)
than one step after the other. They are exchangeable:
`unroll(…, method=Mixed())`. Parts of the parameters that do not move in a step can be named (`fixed`), and cost nothing then. The parameter-sized arrays
that are kept of each step, or of each block of steps, may wait in the host's memory (`offload`), where the backend has such: they are needed once, in the
backward pass, and one after the other.

| method | cost of a step, in forward passes | memory of S steps |
|---|---|---|
| `Direct` | 9 | S × activations of a gradient |
| `Checkpointed` | 12 | S × parameters + one step |
| `Mixed` | 11 | S × parameters + one forward pass |

An inner gradient is three passes (forward, by the input, by the kernel) over the matrix products of the encoder, its derivative six.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ddllm.distill.dataset import spread_rates
from ddllm.distill.gains import spread_gains
from ddllm.distill.offload import BLOCK, STEP, compute_again, fetch, keep_away, put_away
from ddllm.models.encoder import Tree
from ddllm.models.parts import over_parts

Batch = dict[str, Any]  # arrays with a row for each example
Loss = Callable[[Tree, Batch], jax.Array]
Pace = tuple[jax.Array, jax.Array | None]  # rates [G], or [S, G] of all steps, and gains [K] or [S, K], where there are any
ScaledGradient = Callable[[Tree, Batch, Pace], Tree]
Pick = Callable[[Any, jax.Array], Batch]  # all batches and what chooses from them at a step, to the step's batch
Descent = Callable[[Tree, Any, jax.Array, Pace], Tree]  # (params, batches [M, …], choices [S, …], pace of all steps) to params


def scale(direction: Any, pace: Pace) -> Tree:
    """A direction multiplied by the rates of its arrays and the gains of its channels."""
    rates_G, gains_K = pace
    scaled = jax.tree.map(jnp.multiply, direction, spread_rates(rates_G, direction))
    return scaled if gains_K is None else jax.tree.map(jnp.multiply, scaled, spread_gains(gains_K, direction))


def _moving(params: Tree, fixed: tuple[str, ...]) -> Tree:
    return {name: part for name, part in params.items() if name not in fixed}


def _gradient(loss: Loss, params: Tree, batch: Batch, tokens: int, fixed: tuple[str, ...] = ()) -> Tree:
    """∇_θ ℓ, zero for the parts that do not move, from parts of the batch."""

    def of_part(loss: Loss, part: Batch) -> tuple[Tree, None]:
        return jax.grad(lambda moving: loss(params | moving, part))(_moving(params, fixed)), None

    return _with_fixed(over_parts(of_part, loss, batch, tokens)[0], params, fixed)


def _second_order(
    loss: Loss, params: Tree, batch: Batch, direction: Tree, tokens: int, fixed: tuple[str, ...] = ()
) -> tuple[Tree, tuple[Tree, Batch]]:
    """∇_θ ℓ, and the derivatives of ∇_θ ℓ and ∇_φ ℓ along (direction, 0), from parts of the batch; XLA leaves out what is not used."""

    def of_part(loss: Loss, part: Batch) -> tuple[tuple[Tree, Tree], Batch]:
        both = jax.grad(loss, argnums=(0, 1))
        moving = _moving(params, fixed)
        (gradient, _), (params_bar, part_bar) = jax.jvp(lambda moving: both(params | moving, part), (moving,), (_moving(direction, fixed),))
        return (_moving(gradient, fixed), params_bar), part_bar

    (gradient, params_bar), batch_bar = over_parts(of_part, loss, batch, tokens)
    return _with_fixed(gradient, params, fixed), (params_bar, batch_bar)


def _with_fixed(gradient: Tree, params: Tree, fixed: tuple[str, ...]) -> Tree:
    return gradient | {name: jax.tree.map(jnp.zeros_like, params[name]) for name in fixed}


@dataclass(frozen=True)
class _Method:
    """What methods share.

    Attributes:
        offload: whether what is kept of steps and of blocks waits in the host's memory. `Direct` keeps its steps' activations where they are.
        tokens_at_once: of an inner batch's examples that go through the model together; 0: all (see models/parts.py).
    """

    offload: bool = False
    tokens_at_once: int = 0

    def block(self, run: Callable) -> Callable:
        """Several steps, `run(carry, inputs)`, that are computed again as a whole in a backward pass."""
        return compute_again(run, self.offload, BLOCK)


@dataclass(frozen=True)
class _Plain(_Method):
    """What methods share that leave the inner gradient to JAX to differentiate."""

    def gradient(self, loss: Loss, fixed: tuple[str, ...] = ()) -> ScaledGradient:
        """The scaled inner gradient, left to JAX to differentiate."""
        return lambda params, batch, pace: scale(_gradient(loss, params, batch, self.tokens_at_once, fixed), pace)

    def descent(self, loss: Loss, pick: Pick) -> Descent | None:
        """Nothing better than one step after the other."""
        return None


@dataclass(frozen=True)
class Direct(_Plain):
    """Ordinary reverse over reverse: `jax.grad` through the scan.

    Fewest operations; keeps every activation of every step's forward and backward pass, so that memory grows with S × activations.
    """

    def wrap(self, step: Callable) -> Callable:
        """The step as it is: everything it computed is kept."""
        return step


@dataclass(frozen=True)
class Checkpointed(_Plain):
    """Reverse over reverse with each step computed again in the backward pass (`jax.checkpoint`).

    Keeps the parameters of every step, and the activations of one; one more gradient per step.
    """

    def wrap(self, step: Callable) -> Callable:
        """The step, keeping its inputs alone."""
        return compute_again(step, self.offload, STEP)


@dataclass(frozen=True)
class Mixed(_Method):
    """Forward over reverse: both second-order products in one `jax.jvp` of the inner gradient.

    With u the cotangent of the scaled gradient and v = rate ⊙ u (the rate with its gains), symmetry of second derivatives gives

        θ̄ = ∂_θ[∇_θ ℓ · v] = jvp of ∇_θ ℓ along (v, 0),   φ̄ = ∂_φ[∇_θ ℓ · v] = jvp of ∇_φ ℓ along (v, 0),   rate̅ = ⟨∇_θ ℓ, u⟩

    so activations of a backward pass are never stored (MixFlow-MG, arXiv 2505.00793). A descent keeps the gradient of each step instead of
    its parameters, which the backward pass gets back by undoing the step (θ_t = θ_{t+1} + rate ⊙ g_t): the gradient is then not computed
    again for the rates. The result cannot be differentiated in forward mode, nor once more.
    """

    def gradient(self, loss: Loss, fixed: tuple[str, ...] = ()) -> ScaledGradient:
        """The scaled inner gradient with the backward pass above as its own rule."""
        @jax.custom_vjp
        def scaled_gradient(params: Tree, batch: Batch, pace: Pace) -> Tree:
            return scale(_gradient(loss, params, batch, self.tokens_at_once, fixed), pace)

        def forward(params: Tree, batch: Batch, pace: Pace) -> tuple[Tree, tuple]:
            return scaled_gradient(params, batch, pace), (params, batch, pace)

        def backward(kept: tuple, cotangent: Tree) -> tuple[Tree, Batch, Pace]:
            params, batch, pace = kept
            gradient, (params_bar, batch_bar) = _second_order(loss, params, batch, scale(cotangent, pace), self.tokens_at_once, fixed)
            _, collect = jax.vjp(lambda pace: scale(gradient, pace), pace)
            return params_bar, batch_bar, collect(cotangent)[0]

        scaled_gradient.defvjp(forward, backward)
        return scaled_gradient

    def wrap(self, step: Callable) -> Callable:
        """The step as it is: the gradient's own rule already keeps its inputs alone."""
        return keep_away(step) if self.offload else step

    def descent(self, loss: Loss, pick: Pick) -> Descent | None:
        """Steps of SGD with a backward pass of their own, as the class's docstring says."""

        def run(params: Tree, batches: Any, feed_S: jax.Array, pace_S: Pace) -> tuple[Tree, Tree]:
            def step(params: Tree, inputs: tuple[jax.Array, Pace]) -> tuple[Tree, Tree]:
                choice, pace = inputs
                gradient = _gradient(loss, params, pick(batches, choice), self.tokens_at_once)
                return jax.tree.map(jnp.subtract, params, scale(gradient, pace)), put_away(gradient, self.offload)

            return jax.lax.scan(step, params, (feed_S, pace_S))

        @jax.custom_vjp
        def descend(params: Tree, batches: Any, feed_S: jax.Array, pace_S: Pace) -> Tree:
            return run(params, batches, feed_S, pace_S)[0]

        def forward(params: Tree, batches: Any, feed_S: jax.Array, pace_S: Pace) -> tuple[Tree, tuple]:
            params, gradients = run(params, batches, feed_S, pace_S)
            return params, (params, gradients, batches, feed_S, pace_S)

        def backward(kept: tuple, cotangent: Tree) -> tuple[Tree, Any, jax.Array | None, Pace]:
            params, gradients, batches, feed_S, pace_S = kept
            learned_feed = jnp.issubdtype(feed_S.dtype, jnp.floating)

            def undo(carry: tuple[Tree, Tree, Any], inputs: tuple[jax.Array, Pace, Tree]) -> tuple[tuple, tuple]:
                params, cotangent, batches_bar = carry
                choice, pace, gradient = *inputs[:2], fetch(inputs[2], self.offload)
                change, collect_pace = jax.vjp(lambda pace: scale(gradient, pace), pace)
                params = jax.tree.map(jnp.add, params, change)
                batch, collect = jax.vjp(pick, batches, choice)
                _, (params_bar, batch_bar) = _second_order(loss, params, batch, scale(cotangent, pace), self.tokens_at_once)
                fed_bar, choice_bar = collect(batch_bar)
                bars = (choice_bar if learned_feed else None, collect_pace(cotangent)[0])
                cotangent, batches_bar = jax.tree.map(jnp.subtract, (cotangent, batches_bar), (params_bar, fed_bar))
                return (params, cotangent, batches_bar), jax.tree.map(jnp.negative, bars)

            carry = (params, cotangent, jax.tree.map(jnp.zeros_like, batches))
            (_, cotangent, batches_bar), bars_S = jax.lax.scan(undo, carry, (feed_S, pace_S, gradients), reverse=True)
            return cotangent, batches_bar, *bars_S

        descend.defvjp(forward, backward)
        return descend


METHODS = {"direct": Direct, "checkpointed": Checkpointed, "mixed": Mixed}
Method = Direct | Checkpointed | Mixed
