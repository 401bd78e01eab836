"""A causal decoder of the Llama or the GPT-2 family as a pure function of a parameter tree, for what needs derivatives by its input embeddings.

Like the encoder it takes *input embeddings*: ids are looked up outside. Sequences are filled up at their ends, which no earlier position sees, so that
no mask is needed. Layers are stacked along the first axis of their arrays and gone through by `jax.lax.scan`: there are many, and nothing of them is
learned.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.models.encoder import ACTIVATIONS, Tree

LLAMA, GPT2 = "llama", "gpt2"
ACTIVATION = {**ACTIVATIONS, "silu": jax.nn.silu}


@dataclass(frozen=True)
class DecoderConfig:
    """Constants of a decoder.

    Attributes:
        family: "llama" (rotary positions, RMS norms, gated feed-forward) or "gpt2".
        vocabulary, hidden, layers, heads, positions: sizes.
        shared_heads: heads of keys and values, each shared by as many query heads.
        head_size: of each head.
        activation: one of `ACTIVATION`.
        epsilon: of norms.
        theta: base of rotary frequencies.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    shared_heads: int
    head_size: int
    positions: int
    activation: str
    epsilon: float
    theta: float = 10000.0


def decode(params: Tree, config: DecoderConfig, embeddings_NTD: jax.Array) -> jax.Array:
    """Hidden states [N, T, D] after the last norm, each of which predicts the next token.

    Args:
        params: tree of decoder_files.py.
        config: constants.
        embeddings_NTD: input embeddings.
    """
    length = embeddings_NTD.shape[1]
    x_NTD = embeddings_NTD
    if config.family == GPT2:
        x_NTD = x_NTD + params["position"][None, :length]
    angles = _angles(config, length) if config.family == LLAMA else None
    future_TT = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, jnp.finfo(x_NTD.dtype).min / 2)

    def layer(x_NTD: jax.Array, layer: Tree) -> tuple[jax.Array, None]:
        x_NTD = x_NTD + _attend(layer, config, _norm(layer["attention_norm"], x_NTD, config.epsilon), angles, future_TT)
        inner_NTD = _norm(layer["feed_forward_norm"], x_NTD, config.epsilon)
        up_NTF = ACTIVATION[config.activation](_dense(layer["gate" if "gate" in layer else "up"], inner_NTD))
        if "gate" in layer:
            up_NTF = up_NTF * _dense(layer["up"], inner_NTD)
        return x_NTD + _dense(layer["down"], up_NTF), None

    x_NTD, _ = jax.lax.scan(layer, x_NTD, params["layers"])
    return _norm(params["norm"], x_NTD, config.epsilon)


def predict(params: Tree, hidden_D: jax.Array) -> jax.Array:
    """Log-probabilities [..., V] of the next token, from hidden states [..., D]."""
    table_VD = params.get("out", params["words"])
    return jax.nn.log_softmax(jnp.einsum("...d,vd->...v", hidden_D, table_VD), axis=-1)


def _attend(layer: Tree, config: DecoderConfig, x_NTD: jax.Array, angles: tuple[jax.Array, jax.Array] | None, future_TT: jax.Array) -> jax.Array:
    count, length, _ = x_NTD.shape

    def heads(name: str, number: int) -> jax.Array:
        return _dense(layer[name], x_NTD).reshape(count, length, number, config.head_size)

    query, key, value = heads("query", config.heads), heads("key", config.shared_heads), heads("value", config.shared_heads)
    if angles is not None:
        query, key = _rotate(query, *angles), _rotate(key, *angles)
    groups = config.heads // config.shared_heads
    # A query head looks at the shared head of its group.
    query = query.reshape(count, length, config.shared_heads, groups, config.head_size)
    scores = jnp.einsum("ntsgk,nusk->nsgtu", query, key) * config.head_size**-0.5 + future_TT[None, None, None]
    mixed = jnp.einsum("nsgtu,nusk->ntsgk", jax.nn.softmax(scores, axis=-1), value)
    return _dense(layer["output"], mixed.reshape(count, length, -1))


def _angles(config: DecoderConfig, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [T, K/2] of rotary positions (Su et al., arXiv 2104.09864)."""
    half = config.head_size // 2
    frequencies = config.theta ** (-np.arange(half) / half)
    turned = np.arange(length)[:, None] * frequencies[None]
    return jnp.asarray(np.cos(turned), jnp.float32), jnp.asarray(np.sin(turned), jnp.float32)


def _rotate(x_NTHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    first, second = jnp.split(x_NTHK, 2, axis=-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _norm(params: Tree, x: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm where there is a bias, else the norm by the root of the mean square."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    if "bias" in params:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * params["scale"].reshape(shape)
    return x + params["bias"].reshape(shape) if "bias" in params else x


def _dense(params: Tree, x: jax.Array) -> jax.Array:
    y = jnp.einsum("...i,io->...o", x, params["kernel"])
    return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if "bias" in params else y
