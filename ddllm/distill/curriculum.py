"""A curriculum on inner steps: the training whose gradient is taken begins with one inner step and gains the others one by one.

Short unrolls have gradients of little variance and curvature, and what they find is where longer ones go on from (Feng et al., ICLR 2024, arXiv
2311.07025, begin so too). An inner step that is not there yet has a rate of zero: it costs what it will cost later, changes no parameters, and gets no
gradient, nor does what only it is fed with; the window of a truncated derivative lies among those that have joined. Validations and what is exported have
all steps.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddllm.distill.dataset import raw_rate

ABSENT = raw_rate(1e-30)
SMALLEST = 1e-25  # rate of a step that is there; absent ones stay below it where all rates are perturbed, too


def grown_steps(step: jax.Array | int, until: int, steps: int) -> jax.Array:
    """Inner steps at an outer step: from 1 at the first to all `steps` at number `until` and after it, each number equally long.

    Args:
        step: the outer step, from 0.
        until: the outer step at which the last inner step joins.
        steps: inner steps S of the whole recipe.
    """
    return jnp.minimum(1 + jnp.asarray(step) * (steps - 1) // max(until, 1), steps)


def shorten(learned: dict[str, Any], step: jax.Array | int, until: int) -> dict[str, Any]:
    """What is learned, with the rates [S, G] of the inner steps that have not joined yet out of reach of the gradient."""
    rates = jnp.asarray(learned["rates"])
    there = jnp.arange(rates.shape[0]) < grown_steps(step, until, rates.shape[0])
    return learned | {"rates": jnp.where(there[:, None], rates, ABSENT)}


def joined_steps(rates_SG: jax.Array) -> jax.Array:
    """How many inner steps there are up to the last one that has joined, by the rates of all."""
    there_S = jnp.any(rates_SG > SMALLEST, axis=1)
    return rates_SG.shape[0] - jnp.argmax(there_S[::-1])
