"""Embeddings of real texts: rows of the word table, moved where training on a distilled data set has moved words (see distill/word_scores.py)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.models.encoder import Tree

MOVES, SCORES = "moves", "word_scores"  # of trained parameters: [R, D] and [R, V]


def look_up(params: Tree, words_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Embeddings [B, T, D] of tokens, as parameters that were trained on a distilled data set have them.

    Args:
        params: {"body", "head"}, with "moves" [R, D] and "word_scores" [R, V] where words were moved.
        words_VD: word table; rows behind the V-th, which are no words, stay where they are.
        ids_BT: row numbers.
    """
    embeddings_BTD = words_VD[ids_BT]
    if MOVES not in params:
        return embeddings_BTD
    scores_RBT = params[SCORES].at[:, ids_BT].get(mode="fill", fill_value=0)
    return embeddings_BTD + jnp.einsum("rbt,rd->btd", scores_RBT, params[MOVES])


def scored_words(scores_RV: Any) -> np.ndarray:
    """Which words have a score at all, [V]."""
    return np.any(np.asarray(scores_RV) != 0, axis=0)


def moved_words(params: Tree, words_VD: Any) -> Any:
    """The word table [V, D] with its words where they were moved to."""
    return words_VD + params[SCORES].T @ params[MOVES] if MOVES in params else words_VD
