"""Accuracy against stored bytes: a distilled data set whose embeddings are kept in fewer bits; hands on `Variation`s for robustness.py to score.

What is rounded, and how, artefact/storage.py says, by which folders are written too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact import storage
from ddllm.artefact.schema import BFLOAT16, FLOAT16, FLOAT32, INT8
from ddllm.distill.dataset import BESIDE, DistilledData, Recipe
from ddllm.evaluate.variations import Variation
from ddllm.models.words import scored_words

# Names of the rows, with what they stand for.
FORMATS = {
    "float32": (FLOAT32, "as they were learned"),
    "float16": (FLOAT16, "embeddings and auxiliary labels rounded to float16, gains and word scores to 8 bits"),
    "bfloat16": (BFLOAT16, "embeddings rounded to bfloat16, auxiliary labels to float16, gains and word scores to 8 bits"),
    "8 bits": (
        INT8,
        "embeddings rounded to 256 levels between the least and the greatest number of each position, gains and word scores to those of every 64, all these "
        "bounds in float32; auxiliary labels in float16",
    ),
}


def vary_storage(data: DistilledData, recipe: Recipe) -> list[Variation]:
    """The recipe on embeddings that went through each of `FORMATS`, with "bytes" in their rows."""
    return [
        Variation(
            name,
            how,
            {"": restored(data, kind)},
            recipe,
            more={"bytes": stored_bytes(data, kind)},
        )
        for name, (kind, how) in FORMATS.items()
    ]


def restored(data: DistilledData, kind: str) -> DistilledData:
    """The data set as it comes back from a storage."""
    arrays = {name: np.asarray(getattr(data, name)) for name in (storage.NAME, *BESIDE) if getattr(data, name) is not None}
    return data.replace(**{name: jnp.asarray(array) for name, array in storage.restored(arrays, kind).items()})


def stored_bytes(data: DistilledData, kind: str) -> int:
    """Bytes of all learned numbers, positions that only fill up left out."""
    positions = int(np.sum(np.asarray(data.mask) > 0))
    numbers = positions * data.embeddings.shape[-1]
    whole = sum(int(np.size(leaf)) for leaf in jax.tree.leaves((data.labels, data.rates, data.head, data.momentum, data.order)))
    gains = (0, 0) if data.gains is None else np.shape(data.gains)
    scores, shares = (0, 0, 0), 0
    if data.word_scores is not None:
        moves, vocabulary = data.word_scores.shape
        scores, shares = (moves, int(scored_words(data.word_scores).sum()), vocabulary), positions * moves
    labels = data.floats - numbers - whole - gains[0] * gains[1] - scores[0] * scores[1] - shares
    return storage.stored_bytes(numbers, positions, labels, gains, kind, scores) + 4 * (whole + shares)
