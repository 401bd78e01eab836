"""Clipping that adapts to the norms that outer gradients have.

Meta-gradients through several inner steps grow and shrink by orders of magnitude in the course of a distillation, and single ones explode
(RaT-BPTT, Feng et al., 2023). A fixed limit is too tight at one time and too loose at another.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdaptiveClipState(NamedTuple):
    """State of `clip_by_usual_norm`.

    Attributes:
        count: updates seen whose norm is above 0.
        norm: running average of their norms after clipping, started at zero.
    """

    count: jax.Array
    norm: jax.Array


def clip_by_usual_norm(factor: float, decay: float = 0.98) -> optax.GradientTransformation:
    """Scale an update down to `factor` times the usual norm, an exponential moving average of the norms of earlier updates as they were clipped.

    The first update is its own measure. Since clipped norms enter the average, one explosion after n updates multiplies the limit by no more than
    1 + (factor − 1) · (1 − decay) / (1 − decayⁿ⁺¹); for a factor of 2 that is about 1.5 after the first update and 1.02 after many. Updates of norm 0,
    which say nothing of what is usual, do not count.

    Args:
        factor: how much above the usual a norm may be, greater than 1.
        decay: of the moving average.
    """

    def init(params: Any) -> AdaptiveClipState:
        return AdaptiveClipState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdaptiveClipState]:
        norm = optax.tree.norm(updates)
        seen = norm > 0
        usual = jnp.where(state.count > 0, state.norm / (1 - decay ** jnp.maximum(state.count, 1)), norm)
        clipped = jnp.minimum(norm, factor * usual)
        scale = jnp.where(seen, clipped / norm, 1.0)
        new = AdaptiveClipState(state.count + seen, jnp.where(seen, decay * state.norm + (1 - decay) * clipped, state.norm))
        return jax.tree.map(lambda x: x * scale, updates), new

    return optax.GradientTransformation(init, update)
