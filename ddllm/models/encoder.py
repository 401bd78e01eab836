"""One BERT-family encoder, written as a pure function of a parameter tree.

BERT, RoBERTa, DistilBERT, MPNet and MiniLM-type BERTs are the same function with other constants, which `EncoderConfig` holds. The encoder takes
*input embeddings*, because those are what is distilled: token ids are looked up outside, so the word table needs no gradient in an inner
loop.

Parameter tree of a body (nested dicts of arrays, nothing else; a `dense` is `{"kernel": [in, out], "bias": [out]}`, a `norm` is
`{"scale": [D], "bias": [D]}`):

    embeddings/position [P, D]      the row of position t is t + config.position_offset
    embeddings/token_type [Y, D]    absent where the family has none (DistilBERT, MPNet)
    embeddings/distance [B, H]      what a head adds to the scores of keys so far away; absent but for MPNet
    embeddings/norm
    layers/00, layers/01, …         one dict a layer, names zero-padded so that their order is the layers' order
        attention/qkv (dense D to 3D: query, key, value side by side), attention/out (dense), attention/norm
        feed_forward/up (dense D to F), feed_forward/down (dense F to D), feed_forward/norm
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.models.products import PRECISIONS, multiply

Tree = dict[str, Any]
DISTANCES = 32  # that attention tells apart where it knows any


@dataclass(frozen=True)
class EncoderConfig:
    """The constants of an encoder.

    Attributes:
        family: "bert", "roberta", "distilbert" or "mpnet" (a MiniLM of BERT's architecture is "bert").
        vocabulary: rows V of the word table.
        hidden: width D of a position's vector.
        layers: number of layers L.
        heads: attention heads H; the head size is D / H.
        feed_forward: inner width F of the feed-forward part.
        positions: most positions a sequence may have (after the family's offset is taken off).
        position_offset: row of the position table that belongs to the first position (RoBERTa and MPNet: 2).
        token_types: rows of the token-type table; 0 where there is none.
        activation: "gelu" (exact), "gelu_new" (tanh approximation) or "relu".
        norm_epsilon: added to the variance in layer norms.
        pad_token: id that fills up short sequences.
        products: how exact matrix products are, on every kind of device alike (see `PRECISIONS`): "float32"; "tensorfloat32", operands rounded to 11
            significant bits where a device multiplies those faster; or "bfloat16", operands of the layers' dense products and of their derivatives
            rounded to 8 and those of attention as with "tensorfloat32". Sums, parameters and everything else are float32.
        distances: rows of the table of distances; 0 where there is none.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    position_offset: int
    token_types: int
    activation: str
    norm_epsilon: float
    pad_token: int
    products: str = "float32"
    distances: int = 0


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Φ(x), whose derivatives are written out: each is one pass that shares Φ and the normal density with the others."""
    return x * _normal_share(x)


@jax.custom_jvp
def gelu_slope(x: jax.Array) -> jax.Array:
    """GELU's derivative, Φ(x) + x φ(x)."""
    return _normal_share(x) + x * _normal_density(x)


def _normal_share(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


def _normal_density(x: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5


gelu.defjvp(lambda x, moved: (gelu(*x), gelu_slope(*x) * moved[0]))
# φ'(x) = −x φ(x), so that the second derivative is (2 − x²) φ(x).
gelu_slope.defjvp(lambda x, moved: (gelu_slope(*x), (2 - x[0] * x[0]) * _normal_density(x[0]) * moved[0]))

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def layer_name(index: int) -> str:
    """Key of a layer in the tree: zero-padded, so that sorted keys are in the layers' order."""
    return f"{index:02d}"


def apply_dense(params: Tree, x: jax.Array, products: str = "float32") -> jax.Array:
    """x [..., in] to [..., out].

    Rows are laid out flat: XLA then needs no transposed copy of the cotangent for the kernel's gradient, which cost a tenth of the time.
    """
    kernel = params["kernel"]
    flat = x.reshape(-1, kernel.shape[0])
    flat = multiply(flat, kernel, products) + params["bias"][None]
    return flat.reshape(*x.shape[:-1], kernel.shape[1])


def apply_norm(params: Tree, x: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm over the last axis."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * params["scale"].reshape(shape) + params["bias"].reshape(shape)


def attend(
    params: Tree, config: EncoderConfig, x_NTD: jax.Array, bias_NHTU: jax.Array, rows: int = 0
) -> tuple[jax.Array, jax.Array | None]:
    """Multi-head self-attention, without its residual and norm; and the logarithms of its probabilities [N, H, rows, T], for the first `rows` queries.

    `bias_NHTU` is added to the scores; axes along which it is the same may have the size 1.
    Written out rather than through a fused kernel: the fused ones cannot be differentiated twice.
    """
    batch, length, hidden = x_NTD.shape
    size = hidden // config.heads
    parts = jnp.split(apply_dense(params["qkv"], x_NTD, config.products), 3, axis=-1)
    q_NTHK, k_NTHK, v_NTHK = (part.reshape(batch, length, config.heads, size) for part in parts)
    precision = PRECISIONS[config.products]
    scores_NHTU = jnp.einsum("nthk,nuhk->nhtu", q_NTHK * size**-0.5, k_NTHK, precision=precision) + bias_NHTU
    top_NHT1 = jax.lax.stop_gradient(jnp.max(scores_NHTU, axis=-1, keepdims=True))
    weights_NHTU = jnp.exp(scores_NHTU - top_NHT1)
    # Normalised after the product: K numbers to divide for each query and head instead of T, in every derivative.
    total_NTH1 = jnp.sum(weights_NHTU, axis=-1).transpose(0, 2, 1)[..., None]
    mixed_NTHK = jnp.einsum("nhtu,nuhk->nthk", weights_NHTU, v_NTHK, precision=precision) / total_NTH1
    out_NTD = apply_dense(params["out"], mixed_NTHK.reshape(batch, length, hidden), config.products)
    if not rows:
        return out_NTD, None
    # Of the scores, not of probabilities, which may be too small for a float.
    log_total_NHR1 = jnp.log(total_NTH1[:, :rows]).transpose(0, 2, 1, 3)
    return out_NTD, scores_NHTU[:, :, :rows] - top_NHT1[:, :, :rows] - log_total_NHR1


# Traced once and not for every layer and derivative. Inlined, since as a call of its own XLA on the CPU (jaxlib 0.10.2) gave a wrong gradient in a test.
@partial(jax.jit, static_argnames=("config", "rows"), inline=True)
def encode_layer(
    params: Tree, config: EncoderConfig, x_NTD: jax.Array, bias_NHTU: jax.Array, rows: int = 0
) -> tuple[jax.Array, jax.Array | None]:
    """One post-norm transformer layer, [N, T, D] to [N, T, D]; and what `attend` hands out beside."""
    attention, feed_forward = params["attention"], params["feed_forward"]
    attended, log_attention = attend(attention, config, x_NTD, bias_NHTU, rows)
    x_NTD = apply_norm(attention["norm"], x_NTD + attended, config.norm_epsilon)
    inner_NTF = ACTIVATIONS[config.activation](apply_dense(feed_forward["up"], x_NTD, config.products))
    down_NTD = apply_dense(feed_forward["down"], inner_NTF, config.products)
    return apply_norm(feed_forward["norm"], x_NTD + down_NTD, config.norm_epsilon), log_attention


def encode(
    body: Tree,
    config: EncoderConfig,
    embeddings_NTD: jax.Array,
    mask_NT: jax.Array,
    token_types_NT: jax.Array | None = None,
) -> jax.Array:
    """Hidden states of the last layer.

    Args:
        body: parameter tree as in the module's docstring.
        config: the encoder's constants.
        embeddings_NTD: input (word) embeddings [N, T, D], before positions, token types and the first norm.
        mask_NT: 1 for a real position, 0 for padding, which must stand at the end, [N, T].
        token_types_NT: whole numbers [N, T]; all 0 when left out, or where the encoder knows no other.

    Returns:
        Hidden states [N, T, D]; those of padded positions mean nothing.
    """
    return observe(body, config, embeddings_NTD, mask_NT, token_types_NT).hidden


class Observed(NamedTuple):
    """What can be seen of an encoder at work.

    Attributes:
        hidden: hidden states of the last layer, [N, T, D]; those of padded positions mean nothing.
        log_attention: log-probabilities [N, L, H, R, T], hugely negative for padded keys; None where none are wanted.
        means: hidden states of every layer, mean over real positions, [N, L, D]; None where they are not wanted.
    """

    hidden: jax.Array
    log_attention: jax.Array | None
    means: jax.Array | None


def observe(
    body: Tree,
    config: EncoderConfig,
    embeddings_NTD: jax.Array,
    mask_NT: jax.Array,
    token_types_NT: jax.Array | None = None,
    rows: int = 0,
    means: bool = False,
) -> Observed:
    """Hidden states of the last layer, and what else of the layers is asked for.

    Args:
        body, config, embeddings_NTD, mask_NT, token_types_NT: as in `encode`.
        rows: queries R whose attention is wanted: 1 for the first position's alone, T for all; with 0 nothing is computed for it.
        means: whether the mean hidden states of all layers are wanted.
    """
    length = embeddings_NTD.shape[1]
    table = body["embeddings"]
    x_NTD = embeddings_NTD + table["position"][None, config.position_offset : config.position_offset + length]
    if config.token_types:
        if token_types_NT is None or config.token_types == 1:
            types = table["token_type"][None, :1]
        else:
            # Floating-point ones are distilled data's: constants among arrays that are differentiated.
            types = table["token_type"][jax.lax.stop_gradient(token_types_NT).astype(jnp.int32)]
        x_NTD = x_NTD + types
    x_NTD = apply_norm(table["norm"], x_NTD, config.norm_epsilon)
    bias_NHTU = jnp.where(mask_NT > 0, 0.0, jnp.finfo(x_NTD.dtype).min / 2).astype(x_NTD.dtype)[:, None, None, :]
    if config.distances:
        bias_NHTU = bias_NHTU + table["distance"][distance_rows(length)].transpose(2, 0, 1)[None]
    attentions, states = [], []
    for index in range(config.layers):
        x_NTD, log_attention = encode_layer(body["layers"][layer_name(index)], config, x_NTD, bias_NHTU, rows)
        attentions.append(log_attention)
        states.append(mean_over_positions(x_NTD, mask_NT) if means else None)
    return Observed(
        x_NTD,
        jnp.stack(attentions, axis=1) if rows and attentions else None,
        jnp.stack(states, axis=1) if means and states else None,
    )


def distance_rows(length: int) -> np.ndarray:
    """Row of the table of distances for every query and key, [T, T] (Raffel et al., arXiv 1910.10683, section 2.1, as MPNet has it).

    Keys before the query and at it have rows 0 to 15, those behind it 16 to 31: up to 7 positions away a row each, farther away one for a range that grows
    with the distance, and from 91 on the last one.
    """
    half, exact, farthest = DISTANCES // 2, DISTANCES // 4, 128
    away = np.arange(length)[None] - np.arange(length)[:, None]
    # In float32, as PyTorch has it: where a range begins, one bit decides.
    far = np.log(np.maximum(np.abs(away), 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(farthest / exact)) * np.float32(half - exact)
    rows = np.where(np.abs(away) < exact, np.abs(away), np.minimum(exact + far.astype(np.int32), half - 1))
    return rows + half * (away > 0)


def mean_over_positions(hidden_NTD: jax.Array, mask_NT: jax.Array) -> jax.Array:
    """Mean [N, D] over real positions."""
    weights_NT1 = (mask_NT / jnp.sum(mask_NT, axis=1, keepdims=True))[:, :, None]
    return jnp.sum(hidden_NTD * weights_NT1.astype(hidden_NTD.dtype), axis=1)
