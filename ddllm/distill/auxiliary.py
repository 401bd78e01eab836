"""Auxiliary labels: what an example teaches the body directly, beside the class that it teaches through the head.

| label | target of | loss of an example |
|---|---|---|
| attention | attention of all layers and heads, from the first position or from all | KL(label ‖ model), mean over layers, heads and rows |
| features | what the head takes of the last hidden states | half the squared distance, summed over the hidden size |
| directions | hidden states of all layers, mean over positions | minus the inner product, summed over layers and the hidden size |

Attention labels reach the body up to the last layer's queries and keys, feature labels reach all of it. Without them the signal into the body is
confined to the head's rows, which are C − 1 directions, and none at all under a head of zeros. Direction labels reach every layer by a way of its own:
what an example changes in one layer need not travel through those above. Like unrestricted class labels they enter the loss linearly, and any size is a
meaning: zero asks for nothing.

Attention labels are those of Maekawa et al. (ACL 2023): their weight λ of 100 multiplies this same mean, as their public code takes it, and their labels
start as noise. Labels that start as what the pretrained encoder does anyway have no effect at first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import AUXILIARY, DistilledData
from ddllm.models.encoder import EncoderConfig, Tree, observe
from ddllm.models.heads import pool
from ddllm.models.learner import Learner, Seen, Start


def auxiliary_of(data: DistilledData) -> dict[str, Any]:
    """The auxiliary labels that a distilled data set has, by name."""
    return {name: getattr(data, name) for name in AUXILIARY if getattr(data, name) is not None}


def wanted_rows(batch: dict[str, Any]) -> int:
    """Queries whose attention the batch has labels for: 0, 1 (the first position's) or T."""
    if "attention" not in batch:
        return 0
    return 1 if np.ndim(batch["attention"]) == 4 else np.shape(batch["attention"])[-1]


def looks_at_means(batch: dict[str, Any]) -> bool:
    """Whether the batch has labels for the mean hidden states of all layers."""
    return "directions" in batch


def auxiliary_losses(seen: Seen, batch: dict[str, jax.Array], weights: dict[str, float]) -> list[jax.Array]:
    """Weighted losses [N] of the auxiliary labels in an inner batch, one for each kind that it has.

    Args:
        seen: what the model makes of the batch, its attention for `wanted_rows` positions.
        batch: with "mask" [N, T], and perhaps "attention" (logits [N, L, H, T], or [N, L, H, T, T] for all rows), "features" [N, D] and
            "directions" [N, L, D].
        weights: λ of the first two.
    """
    losses = []
    if "attention" in batch:
        losses.append(weights["attention"] * attention_divergence(batch["attention"], seen.log_attention, batch["mask"]))
    if "features" in batch:
        losses.append(weights["features"] * 0.5 * jnp.sum(jnp.square(seen.features - batch["features"]), axis=-1))
    if "directions" in batch and seen.means is not None:
        losses.append(-jnp.sum(seen.means * batch["directions"], axis=(1, 2)))
    return losses


def attention_divergence(labels: jax.Array, log_attention_NLHRT: jax.Array | None, mask_NT: jax.Array) -> jax.Array:
    """KL(label ‖ model) [N] between distributions over real keys, mean over layers, heads and real rows (Maekawa et al., ACL 2023).

    Args:
        labels: logits [N, L, H, T] for the first position's row, [N, L, H, T, T] for all rows; those of padded positions do not count.
        log_attention_NLHRT: log-probabilities of the model for these rows.
        mask_NT: 1 for real positions.
    """
    labels_NLHRT = labels[:, :, :, None] if labels.ndim == 4 else labels
    if log_attention_NLHRT is None or log_attention_NLHRT.shape != labels_NLHRT.shape:
        found = None if log_attention_NLHRT is None else log_attention_NLHRT.shape
        raise ValueError(f"attention labels {labels_NLHRT.shape} for attention {found}: the encoder has other layers, heads or positions")
    real_N111T = (mask_NT > 0)[:, None, None, None, :]
    log_labels = jax.nn.log_softmax(jnp.where(real_N111T, labels_NLHRT, jnp.finfo(labels.dtype).min / 2), axis=-1)
    terms = jnp.exp(log_labels) * jnp.where(real_N111T, log_labels - log_attention_NLHRT, 0)
    divergence_NR = jnp.mean(jnp.sum(terms, axis=-1), axis=(1, 2))
    rows_NR = jax.lax.stop_gradient(mask_NT[:, : divergence_NR.shape[1]] > 0).astype(divergence_NR.dtype)
    return jnp.sum(divergence_NR * rows_NR, axis=1) / jnp.sum(rows_NR, axis=1)


def pretrained_labels(
    learner: Learner, start: Start, embeddings_MNTD: Any, mask_MNT: Any, rows: str = "none", types_MNT: Any = None
) -> dict[str, np.ndarray]:
    """Auxiliary labels that say what the pretrained encoder does anyway.

    Args:
        learner: encoder and head.
        start: pretrained parameters.
        embeddings_MNTD: inner batches.
        mask_MNT: their masks.
        rows: "cls", "all", or "none" for no attention.
        types_MNT: their token types, where they stand for pairs.

    Returns:
        "features" [M, N, D] and, where asked for, "attention" [M, N, L, H, T] or [M, N, L, H, T, T], 0 at padded keys.
    """
    length = np.shape(embeddings_MNTD)[2]
    count = {"none": 0, "cls": 1, "all": length}[rows]
    shape = np.shape(mask_MNT)[:2]
    mask_NT = np.reshape(mask_MNT, (-1, length))
    types_NT = None if types_MNT is None else np.reshape(types_MNT, (-1, length))

    @jax.jit
    def look(body: Tree, embeddings_NTD: jax.Array, mask_NT: jax.Array, types_NT: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        observed = observe(body, learner.encoder, embeddings_NTD, mask_NT, types_NT, rows=count)
        return pool(learner.head, observed.hidden, mask_NT), observed.log_attention

    features_ND, log_attention = look(start.body, np.reshape(embeddings_MNTD, (len(mask_NT), length, -1)), mask_NT, types_NT)
    labels = {"features": np.asarray(features_ND).reshape(*shape, -1)}
    if log_attention is not None:
        logits_NLHRT = np.where(mask_NT[:, None, None, None, :] > 0, np.asarray(log_attention), 0)
        logits = logits_NLHRT[:, :, :, 0] if rows == "cls" else logits_NLHRT
        labels["attention"] = logits.reshape(*shape, *logits.shape[1:])
    return labels


def noise_attention(shape: tuple[int, ...], encoder: EncoderConfig, rows: str, rng: np.random.Generator) -> np.ndarray:
    """Logits of attention labels from N(0, 1), as Maekawa et al. start them, for inner batches of the shape [M, N, T]."""
    *examples, length = shape
    keys = (length,) if rows == "cls" else (length, length)
    return rng.standard_normal((*examples, encoder.layers, encoder.heads, *keys), np.float32)


def auxiliary_fits(data: DistilledData) -> bool:
    """Whether the shapes of the auxiliary labels fit the embeddings [M, N, T, D]."""
    batches, examples, length, hidden = data.embeddings.shape
    attention = () if data.attention is None else data.attention.shape
    directions = (batches, examples, hidden) if data.directions is None else data.directions.shape[:2] + data.directions.shape[3:]
    return (
        (data.features is None or data.features.shape == (batches, examples, hidden))
        and directions == (batches, examples, hidden)
        and (
            not attention
            or (len(attention) in (5, 6) and attention[:2] == (batches, examples) and set(attention[4:]) == {length} and min(attention) > 0)
        )
    )
