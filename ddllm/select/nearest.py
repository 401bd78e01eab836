"""Which real texts lie around distilled examples: features of distilled data, the nearest rows by cosine, and the plane that both are drawn in.

Features are those of real texts (features.py): the mean over positions of the pretrained encoder's last hidden states.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import DistilledData
from ddllm.models.encoder import EncoderConfig, encode, mean_over_positions
from ddllm.models.learner import Start
from ddllm.text.projection import nearest


def distilled_features(encoder: EncoderConfig, start: Start, data: DistilledData) -> np.ndarray:
    """Features [M x N, D] of distilled examples, in the order of inner batches and of the examples in each."""
    batches = [
        _features(encoder, start, *(None if part is None else jnp.asarray(part)[index] for part in (data.embeddings, data.mask, data.types)))
        for index in range(data.embeddings.shape[0])
    ]
    return np.concatenate([np.asarray(features_ND) for features_ND in batches])


@partial(jax.jit, static_argnums=0)
def _features(
    encoder: EncoderConfig, start: Start, embeddings_NTD: jax.Array, mask_NT: jax.Array, types_NT: jax.Array | None
) -> jax.Array:
    return mean_over_positions(encode(start.body, encoder, embeddings_NTD, mask_NT, types_NT), mask_NT)


def nearest_rows(queries_ED: np.ndarray, features_nD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and cosines [E, k] of the nearest features, the nearest first; fewer than k where there are fewer rows."""
    found = nearest(queries_ED, features_nD, min(k, len(features_nD)))
    return np.asarray(found.ids), np.asarray(found.scores)


def principal_plane(features_nD: np.ndarray, queries_ED: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Coordinates [n, 2] and [E, 2] in the plane of the first two principal components of `features_nD`, and their shares of the variance."""
    from sklearn.decomposition import PCA

    fitted: Any = PCA(2, svd_solver="full", random_state=seed).fit(np.asarray(features_nD, np.float64))
    return fitted.transform(features_nD), fitted.transform(queries_ED), [float(share) for share in fitted.explained_variance_ratio_]
