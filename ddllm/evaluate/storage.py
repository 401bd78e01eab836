"""Accuracy against stored bytes: a distilled data set whose embeddings are kept in fewer bits; hands on `Variation`s for robustness.py to score.

What is rounded, and how, artefact/storage.py says, by which folders are written too.
"""

import jax.numpy as jnp
import numpy as np

from ddllm.artefact import storage
from ddllm.artefact.schema import BFLOAT16, FLOAT16, FLOAT32, INT8
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.evaluate.variations import Variation

# Names of the rows, with what they stand for.
FORMATS = {
    "float32": (FLOAT32, "as they were learned"),
    "float16": (FLOAT16, "embeddings rounded to float16"),
    "bfloat16": (BFLOAT16, "embeddings rounded to bfloat16"),
    "8 bits": (
        INT8,
        "embeddings rounded to 256 levels between the least and the greatest number of each position, these two in float32",
    ),
}


def vary_storage(data: DistilledData, recipe: Recipe) -> list[Variation]:
    """The recipe on embeddings that went through each of `FORMATS`, with "bytes" in their rows."""
    return [
        Variation(
            name,
            how,
            {"": data.replace(embeddings=jnp.asarray(storage.restored(np.asarray(data.embeddings), kind)))},
            recipe,
            more={"bytes": stored_bytes(data, kind)},
        )
        for name, (kind, how) in FORMATS.items()
    ]


def stored_bytes(data: DistilledData, kind: str) -> int:
    """Bytes of all learned numbers, positions that only fill up left out."""
    positions = int(np.sum(np.asarray(data.mask) > 0))
    numbers = positions * data.embeddings.shape[-1]
    return storage.stored_bytes(numbers, positions, kind) + 4 * (data.floats - numbers)
