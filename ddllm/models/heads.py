"""Classification heads, as the Hugging Face classes have them, plus mean pooling.

Tree of a head: `out` (dense D to C) and, except for mean pooling, `dense` (dense D to D) in front of it. `HeadConfig` says how hidden
states become one vector.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ddllm.models.encoder import Tree, apply_dense, mean_over_positions


@dataclass(frozen=True)
class HeadConfig:
    """What a head is.

    Attributes:
        kind: "bert" (pooler with tanh on the first position, then linear), "roberta" and "mpnet" (dense, tanh, linear on the first position),
            "distilbert" (pre-classifier with ReLU on the first position, then linear) or "mean" (mean over real positions, then linear).
        classes: number of logits C.
        deviation: standard deviation of freshly drawn kernels (0.02 in the Hugging Face classes).
    """

    kind: str
    classes: int
    deviation: float = 0.02


def init_head(key: jax.Array, config: HeadConfig, hidden: int, pooler: Tree | None = None, zero: bool = False) -> Tree:
    """Draw a fresh head: kernels from N(0, deviation²), biases zero.

    Args:
        key: random key; the same key gives the same head.
        config: the head's kind and size.
        hidden: width D of the encoder.
        pooler: pretrained dense layer of a BERT, used instead of a drawn one where given and the kind is "bert".
        zero: start the last layer at zero. The dense layer before it is still drawn: were both zero, no gradient would ever reach either.
    """
    dense_key, out_key = jax.random.split(key)
    kernel = jnp.zeros((hidden, config.classes)) if zero else _draw(out_key, config.deviation, (hidden, config.classes))
    head: Tree = {"out": {"kernel": kernel, "bias": jnp.zeros(config.classes)}}
    if config.kind == "bert" and pooler is not None:
        head["dense"] = jax.tree.map(jnp.asarray, pooler)
    elif config.kind != "mean":
        head["dense"] = {"kernel": _draw(dense_key, config.deviation, (hidden, hidden)), "bias": jnp.zeros(hidden)}
    return head


def pool(config: HeadConfig, hidden_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
    """The features [N, D] that a head takes of hidden states [N, T, D] with mask [N, T], before any layer of its own."""
    if config.kind != "mean":
        return hidden_NTD[:, 0]
    return mean_over_positions(hidden_NTD, mask_NT)


def apply_head(head: Tree, config: HeadConfig, hidden_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
    """Logits [N, C] of hidden states [N, T, D] with mask [N, T]."""
    return apply_to_features(head, config, pool(config, hidden_NTD, mask_NT))


def apply_to_features(head: Tree, config: HeadConfig, features_ND: jax.Array) -> jax.Array:
    """Logits [N, C] of pooled features [N, D]."""
    return apply_dense(head["out"], last_inputs(head, config, features_ND))


def last_inputs(head: Tree, config: HeadConfig, features_ND: jax.Array) -> jax.Array:
    """What the last layer of a head takes, [N, D]."""
    if config.kind == "mean":
        return features_ND
    activation = jax.nn.relu if config.kind == "distilbert" else jnp.tanh
    return activation(apply_dense(head["dense"], features_ND))


def _draw(key: jax.Array, deviation: float, shape: tuple[int, ...]) -> jax.Array:
    return deviation * jax.random.normal(key, shape)
