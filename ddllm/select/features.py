"""Features of real texts: the mean over positions of the pretrained encoder's last hidden states, which selection methods measure distances in.

They are of the checkpoint as it was read: no label has been seen and no head is needed. `Prepared.features` computes them once for the
training texts and keeps them beside the tokenised corpus, so that every selection, and every later start, shares them.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ddllm.data.batches import Batch, compute_rows
from ddllm.data.tokens import TokenSplit
from ddllm.models.encoder import EncoderConfig, Tree, encode, mean_over_positions
from ddllm.models.learner import Start
from ddllm.models.parts import compute
from ddllm.runtime.devices import place
from ddllm.runtime.mesh import ALL, TEXTS, count_copies
from ddllm.runtime.progress import Progress
from ddllm.runtime.storage import write_atomically


def encode_mean(encoder: EncoderConfig, body: Tree, words_VD: jax.Array, batch: Batch) -> jax.Array:
    """Mean hidden state [B, D] of each text of a batch."""
    return mean_over_positions(encode(body, encoder, words_VD[batch.ids], batch.mask, batch.types), batch.mask)


def compute_features(
    encoder: EncoderConfig,
    start: Start,
    split: TokenSplit,
    batch_size: int,
    buckets: tuple[int, ...],
    mesh: Mesh,
    title: str,
    tokens_at_once: int = 0,
) -> np.ndarray:
    """Features [n, D], float32, of all texts of a split, on every process the same.

    Args:
        encoder: constants of the encoder.
        start: pretrained parameters, where they belong on the mesh.
        split: tokenised texts.
        batch_size: texts per forward pass.
        buckets: padded lengths used.
        mesh: devices, whose axes "head" and "data" batches are split over.
        title: shown meanwhile.
        tokens_at_once: that a gradient would take at once on each device; 0: all (see models/parts.py).
    """
    shares = count_copies(mesh)
    batch_size = -(-batch_size // shares) * shares
    each = NamedSharding(mesh, TEXTS)

    def encode_parts(body: Tree, words_VD: jax.Array, batch: Batch) -> jax.Array:
        return compute(lambda part: encode_mean(encoder, body, words_VD, part), batch, tokens_at_once, shares)

    encoded = jax.jit(encode_parts, out_shardings=NamedSharding(mesh, ALL))
    with Progress(-(-len(split) // batch_size), title) as progress:

        def features(batch: Batch) -> np.ndarray:
            features_BD = np.asarray(encoded(start.body, start.words, place(batch, each)))
            progress.update(progress.done + 1)
            return features_BD

        return compute_rows(split, batch_size, buckets, encoder.hidden, features)


def keep_features(path: Path, shape: tuple[int, int], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the file at `path`; where there is none, or not one of this shape, it is computed and written.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    try:
        kept = load_file(path)["features"] if path.is_file() else None
    except (SafetensorError, KeyError):
        kept = None
    if kept is not None and kept.shape == shape:
        return kept
    features_nD = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        save_file({"features": features_nD}, temporary)
    return features_nD
