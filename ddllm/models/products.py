"""Matrix products, as exact as `model.products` says on every kind of device."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ddllm.runtime.processor import multiplies_bfloat16

# By default, accelerators round a float32 product's operands, to 11 bits (GPUs) or 8 (TPUs): what a product is asked for must be said.
PRECISIONS = {"float32": jax.lax.Precision.HIGHEST, "tensorfloat32": jax.lax.Precision.HIGH, "bfloat16": jax.lax.Precision.HIGH}
BLOCK = 16  # columns that are transposed together


def in_products(products: str) -> str:
    """A part of a row's note, where matrix products are not exact."""
    return "" if products == "float32" else f", matrix products in {products}"


def multiply(a: jax.Array, b: jax.Array, products: str) -> jax.Array:
    """The product of two matrices, by one of `PRECISIONS`; "bfloat16" rounds the operands, and those of its derivatives."""
    return rounded_product(a, b) if products == "bfloat16" else jnp.matmul(a, b, precision=PRECISIONS[products])


@jax.custom_vjp
def rounded_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product of operands rounded to bfloat16, summed in float32.

    The rule of its own rounds cotangents too: by JAX's, a derivative would multiply float32 by bfloat16, which accelerators do at float32's pace.
    """
    return _round_and_multiply(a, b)


def _round_and_multiply(a: jax.Array, b: jax.Array, turn_a: bool = False, turn_b: bool = False) -> jax.Array:
    """The product of rounded operands, those that are to be turned being transposed first."""

    def in_bfloat16(turn: Callable[[jax.Array], jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.matmul(turn(a) if turn_a else a, turn(b) if turn_b else b, preferred_element_type=jnp.float32)

    def in_float32(a: jax.Array, b: jax.Array) -> jax.Array:
        # The same numbers, where the processor has no such product.
        a, b = jax.lax.reduce_precision(a, 8, 7), jax.lax.reduce_precision(b, 8, 7)
        return (a.T if turn_a else a) @ (b.T if turn_b else b)

    here = partial(in_bfloat16, _turn_in_memory) if multiplies_bfloat16() else in_float32
    return jax.lax.platform_dependent(a, b, cpu=here, default=partial(in_bfloat16, jnp.transpose))


def _turn_in_memory(x: jax.Array) -> jax.Array:
    """The transpose, written so that XLA does not make it part of the product: those of transposed operands it takes back to float32 on CPUs."""
    rows, columns = x.shape
    if columns % BLOCK:
        return x.T
    return x.reshape(rows, columns // BLOCK, BLOCK).transpose(1, 2, 0).reshape(columns, rows)


def _rounded_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _round_and_multiply(a, b), (a, b)


def _rounded_backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = kept
    return _round_and_multiply(cotangent, b, turn_b=True), _round_and_multiply(a, cotangent, turn_a=True)


rounded_product.defvjp(_rounded_forward, _rounded_backward)
