"""Accuracy against stored bytes: a distilled data set whose embeddings are kept in fewer bits; hands on `Variation`s for robustness.py to score.

Only embeddings are rounded, which are nearly all of the bytes; labels, rates, a head, momentum and an order stay float32.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.evaluate.variations import Variation

FORMATS = {
    "float32": "as they were learned",
    "float16": "embeddings rounded to float16",
    "bfloat16": "embeddings rounded to bfloat16",
    "8 bits": "embeddings rounded to 256 levels between the least and the greatest number of each position, these two in float32",
}


def vary_storage(data: DistilledData, recipe: Recipe) -> list[Variation]:
    """The recipe on embeddings that went through each of `FORMATS`, with "bytes" in their rows."""
    return [
        Variation(
            name, how, {"": data.replace(embeddings=rounded(data.embeddings, name))}, recipe, more={"bytes": stored_bytes(data, name)}
        )
        for name, how in FORMATS.items()
    ]


def rounded(embeddings: jax.Array, kind: str) -> jax.Array:
    """Embeddings [..., T, D] as they come back from storage."""
    if kind == "8 bits":
        lowest = jnp.min(embeddings, axis=-1, keepdims=True)
        width = (jnp.max(embeddings, axis=-1, keepdims=True) - lowest) / 255
        width = jnp.where(width > 0, width, 1.0)
        return jnp.round((embeddings - lowest) / width).astype(jnp.uint8).astype(jnp.float32) * width + lowest
    return jnp.asarray(embeddings).astype(kind).astype(jnp.float32)


def stored_bytes(data: DistilledData, kind: str) -> int:
    """Bytes of all learned numbers, positions that only fill up left out."""
    positions = int(np.sum(np.asarray(data.mask) > 0))
    numbers = positions * data.embeddings.shape[-1]
    each = {"float32": 4, "8 bits": 1}.get(kind, 2)
    bounds = 8 * positions if kind == "8 bits" else 0
    return each * numbers + bounds + 4 * (data.floats - numbers)
