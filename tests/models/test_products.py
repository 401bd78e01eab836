"""Products of matrices that are rounded, alike on every kind of device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddllm.models.products import rounded_product
from ddllm.runtime.processor import multiplies_bfloat16


def test_rounded_products_are_real_bfloat16_on_accelerators_and_the_same_numbers_here():
    a, b = jax.random.normal(jax.random.key(0), (3, 8)), jax.random.normal(jax.random.key(1), (8, 5))
    program = jax.jit(jax.vjp, static_argnums=0).trace(rounded_product, a, b)
    for platform in ("cuda", "tpu"):
        products = [line for line in program.lower(lowering_platforms=(platform,)).as_text().splitlines() if "dot_general" in line]
        assert products and all("xbf16>" in line and "-> tensor<3x5xf32>" in line for line in products)
    rounded = [np.asarray(x.astype(jnp.bfloat16), np.float64) for x in (a, b)]
    np.testing.assert_allclose(jax.jit(rounded_product)(a, b), rounded[0] @ rounded[1], rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(jax.jit(rounded_product)(a, b)) - np.asarray(a) @ np.asarray(b)).max() > 1e-4


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("shape", [(5, 32, 48), (6, 7, 9)])
def test_rounded_products_and_their_derivatives_are_the_same_with_and_without_instructions_for_them(able, shape, monkeypatch):
    monkeypatch.setattr("ddllm.models.products.multiplies_bfloat16", lambda: able)
    rows, inner, columns = shape
    a, b, c = (jax.random.normal(jax.random.key(number), size) for number, size in enumerate(((rows, inner), (inner, columns), (rows, columns))))
    program = jax.jit(lambda a, b, c: (rounded_product(a, b), jax.vjp(rounded_product, a, b)[1](c)))
    product, (by_a, by_b) = program(a, b, c)
    exact = [np.asarray(x.astype(jnp.bfloat16), np.float64) for x in (a, b, c)]
    for found, expected in ((product, exact[0] @ exact[1]), (by_a, exact[2] @ exact[1].T), (by_b, exact[0].T @ exact[2])):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="the processor has no products of bfloat16 numbers")
def test_no_rounded_product_is_taken_back_to_float32():
    a, b, c = jnp.ones((64, 384)), jnp.ones((384, 96)), jnp.ones((64, 96))
    program = jax.jit(lambda a, b, c: (rounded_product(a, b), jax.vjp(rounded_product, a, b)[1](c))).lower(a, b, c).compile().as_text()
    products = [computation for computation in program.split("\n}\n") if " dot(" in computation]
    assert len(products) == 3 and all(len(re.findall(r"param\S+: bf16\[", product)) == 2 for product in products)
