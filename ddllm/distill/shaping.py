"""Shapings: what the inner loop is fed with is computed from what is learned, such as rows of the word table from embeddings.

A shaping stands between the learned parts and the distilled data, outside the programs of the gradient (see outer_step.py): these give the derivative by what
was fed, and the shaping's own vector-Jacobian product carries it back. Shapings are pytrees, so that their arrays are arguments of programs, not constants.
"""

from typing import Any, Protocol

import jax

Parts = dict[str, Any]


class Shaping(Protocol):
    """What all shapings answer; `progress` goes from 0 to 1 over the outer steps."""

    def settle(self, learned: Parts, words_VD: jax.Array, progress: jax.Array) -> Parts:
        """What is learned, changed before an outer step by other reasons than the gradient."""
        ...

    def use(self, learned: Parts, words_VD: jax.Array, progress: jax.Array, key: jax.Array) -> Parts:
        """Parts of `DistilledData` that an outer step feeds the inner loop with, differentiable by what is learned."""
        ...

    def final(self, learned: Parts, words_VD: jax.Array) -> Parts:
        """The same as they are validated and exported."""
        ...
