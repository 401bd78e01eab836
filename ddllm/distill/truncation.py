"""Truncation: the derivative reaches a window of K inner steps instead of all S, which bounds its time and memory whatever S is.

The steps before the window run without being differentiated, and nothing of them is kept. What comes out is not the gradient of the loss:

- Left out is how the parameters at the window's beginning depend on what was fed before: examples, labels and rates are judged by what they do
  within K steps. Rates learned so tend to be too small for long trainings (short-horizon bias, Wu et al., ICLR 2018).
- With the window at the end, the first S − K rates (and coefficients of momentum, and rows of a learned order) get no gradient and stay as they
  began, and a learned head would, too.
- With a random window (RaT-BPTT: Feng et al., ICLR 2024, arXiv 2311.07025) the training itself ends after K to S steps, all equally
  likely, and the derivative reaches the last K of them. Every step is reached, the first and the last few less often, but the loss is one averaged
  over trainings of different lengths, whereas evaluation always runs all S steps.

Where a curriculum lets the steps join one by one (curriculum.py), S is the number of those that have joined; while they are fewer than K, the window
holds all of them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

# Apart from what heads and orders are drawn with, which are derived from the same key.
WINDOW = 2**31 - 4


@dataclass(frozen=True)
class Truncation:
    """Which inner steps a derivative reaches.

    Attributes:
        steps: length K of the window; at S or more nothing is truncated.
        random: end the training after a random number of steps, at least K; otherwise after all S.
        growing: not all steps need have joined.
    """

    steps: int
    random: bool = False
    growing: bool = False

    def begin(self, steps: int | jax.Array, key: jax.Array | None) -> int | jax.Array:
        """The window's first step, out of `steps` S; for a random window a number on the device, drawn with the training's key."""
        last = jnp.maximum(steps - self.steps, 0) if self.growing else steps - self.steps
        if not self.random:
            return last
        if key is None:
            raise ValueError("a random window needs a key")
        return jax.random.randint(jax.random.fold_in(key, WINDOW), (), 0, last + 1)
