"""Ways to differentiate through an inner gradient step: the same numbers at another cost.

A method answers two questions: how the scaled inner gradient `rate ⊙ ∇_θ ℓ(θ, batch)` is computed so that it can itself be
differentiated, and what is kept of a step for the backward pass. They are exchangeable: `unroll(…, method=Mixed())`. Parts of the parameters
that do not move in a step can be named (`fixed`), and cost nothing then.

| method | cost of a step, in forward passes | memory of S steps |
|---|---|---|
| `Direct` | 9 | S × activations of a gradient |
| `Checkpointed` | 12 | S × parameters + one step |
| `Mixed` | 11 | S × parameters + one forward pass |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ddllm.distill.dataset import spread_rates
from ddllm.models.encoder import Tree

Loss = Callable[[Tree, Any], jax.Array]
ScaledGradient = Callable[[Tree, Any, jax.Array], Tree]


def _scaled(gradient: Tree, rates_G: jax.Array) -> Tree:
    return jax.tree.map(jnp.multiply, gradient, spread_rates(rates_G, gradient))


def _moving(params: Tree, fixed: tuple[str, ...]) -> Tree:
    return {name: part for name, part in params.items() if name not in fixed}


def _plain_gradient(loss: Loss, fixed: tuple[str, ...]) -> ScaledGradient:
    def scaled_gradient(params: Tree, batch: Any, rates_G: jax.Array) -> Tree:
        gradient = jax.grad(lambda moving: loss(params | moving, batch))(_moving(params, fixed))
        return _scaled(gradient | {name: jax.tree.map(jnp.zeros_like, params[name]) for name in fixed}, rates_G)

    return scaled_gradient


@dataclass(frozen=True)
class Direct:
    """Ordinary reverse over reverse: `jax.grad` through the scan.

    Fewest operations; keeps every activation of every step's forward and backward pass, so that memory grows with S × activations.
    """

    def gradient(self, loss: Loss, fixed: tuple[str, ...] = ()) -> ScaledGradient:
        """The scaled inner gradient, left to JAX to differentiate."""
        return _plain_gradient(loss, fixed)

    def wrap(self, step: Callable) -> Callable:
        """The step as it is: everything it computed is kept."""
        return step


@dataclass(frozen=True)
class Checkpointed:
    """Reverse over reverse with each step computed again in the backward pass (`jax.checkpoint`).

    Keeps the parameters of every step, and the activations of one; one more gradient per step.
    """

    def gradient(self, loss: Loss, fixed: tuple[str, ...] = ()) -> ScaledGradient:
        """The scaled inner gradient, left to JAX to differentiate."""
        return _plain_gradient(loss, fixed)

    def wrap(self, step: Callable) -> Callable:
        """The step, keeping its inputs alone."""
        return jax.checkpoint(step)


@dataclass(frozen=True)
class Mixed:
    """Forward over reverse: both second-order products in one `jax.jvp` of the inner gradient.

    With u the cotangent of the scaled gradient and v = rate ⊙ u, symmetry of second derivatives gives

        θ̄ = ∂_θ[∇_θ ℓ · v] = jvp of ∇_θ ℓ along (v, 0),   φ̄ = ∂_φ[∇_θ ℓ · v] = jvp of ∇_φ ℓ along (v, 0),   rate̅ = ⟨∇_θ ℓ, u⟩

    so activations of a backward pass are never stored (MixFlow-MG, arXiv 2505.00793). The result cannot be differentiated in forward
    mode, nor once more.
    """

    def gradient(self, loss: Loss, fixed: tuple[str, ...] = ()) -> ScaledGradient:
        """The scaled inner gradient with the backward pass above as its own rule."""
        plain = _plain_gradient(loss, fixed)

        @jax.custom_vjp
        def scaled_gradient(params: Tree, batch: Any, rates_G: jax.Array) -> Tree:
            return plain(params, batch, rates_G)

        def forward(params: Tree, batch: Any, rates_G: jax.Array) -> tuple[Tree, tuple]:
            return plain(params, batch, rates_G), (params, batch, rates_G)

        def backward(kept: tuple, cotangent: Tree) -> tuple[Tree, Any, jax.Array]:
            params, batch, rates_G = kept
            direction = _moving(_scaled(cotangent, rates_G), fixed)
            both = jax.grad(loss, argnums=(0, 1))
            start = (_moving(params, fixed),)
            (gradient, _), (params_bar, batch_bar) = jax.jvp(lambda moving: both(params | moving, batch), start, (direction,))
            gradient = gradient | {name: jax.tree.map(jnp.zeros_like, params[name]) for name in fixed}
            _, collect = jax.vjp(lambda rates: _scaled(gradient, rates), rates_G)
            return params_bar, batch_bar, collect(cotangent)[0]

        scaled_gradient.defvjp(forward, backward)
        return scaled_gradient

    def wrap(self, step: Callable) -> Callable:
        """The step as it is: the gradient's own rule already keeps its inputs alone."""
        return step


METHODS = {"direct": Direct, "checkpointed": Checkpointed, "mixed": Mixed}
Method = Direct | Checkpointed | Mixed
