"""Products: results, gradients and residuals."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import models
from grpojax.models.matrix import product, to_int8, to_nf4
from tests.helpers import transformer


def test_a_narrow_result_is_the_wide_one_rounded():
    x, weight = jr.normal(jr.key(0), (5, 16)), jr.normal(jr.key(1), (16, 8))
    wide = product(x, weight, "bfloat16")
    narrow = product(x, weight, "bfloat16", None, "bfloat16")
    assert (wide.dtype, narrow.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
    batched = jax.vmap(lambda x: product(x, weight, "bfloat16", None, "bfloat16"))(x)
    np.testing.assert_array_equal(batched, narrow)
    # The gradient is as exact as what it is the gradient of.
    total = lambda result: (
        lambda x, weight: jnp.sum(
            product(x, weight, "bfloat16", None, result).astype(jnp.float32)
        )
    )
    for mine, theirs in zip(
        jax.grad(total("bfloat16"), (0, 1))(x, weight),
        jax.grad(total(None), (0, 1))(x, weight),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def gradient(x, weight, cotangent, dtype):
    apply = lambda weight: product(x, weight, dtype)
    return jax.vjp(apply, weight)[1](cotangent)[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("batch", [(1,), (3, 5), (600,)])
def test_the_gradient_of_a_weight_is_that_of_rounded_operands(batch, dtype):
    x = jr.normal(jr.key(0), (*batch, 24))
    weight = jr.normal(jr.key(1), (24, 32))
    cotangent = jr.normal(jr.key(2), (*batch, 32))
    rounded = lambda x: np.asarray(x.astype(dtype), np.float64).reshape(-1, x.shape[-1])
    expected = rounded(x).T @ rounded(cotangent)
    compiled = jax.jit(lambda x, y, c: gradient(x, y, c, dtype))
    found = compiled(x, weight, cotangent)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rows", [7, 600])
def test_products_in_16_bits_may_be_transposed(rows, dtype):
    """What XLA folds a transpose into, its CPU library may refuse to multiply."""
    x, weight = jr.normal(jr.key(0), (rows, 256)), jr.normal(jr.key(1), (256, 512))
    cotangent = jr.normal(jr.key(2), (rows, 512))
    exact = jax.jit(lambda x, y: product(x, y, dtype))(x, weight)
    slope = jax.jit(lambda x, y, c: gradient(x, y, c, dtype))(x, weight, cotangent)
    close = lambda found, expected: np.testing.assert_allclose(
        found, expected, rtol=1e-6, atol=1e-4
    )
    close(jax.jit(lambda x, y: product(x, y, dtype).T)(x, weight), exact.T)
    close(jax.jit(lambda x, y: product(x.T, y, dtype))(x.T, weight), exact)
    tied = lambda x, table, c: jax.vjp(lambda t: product(x, t.T, dtype), table)[1](c)[0]
    close(jax.jit(tied)(x, weight.T, cotangent), slope.T)
    turned = lambda x, y, c: gradient(x.T, y, c.T, dtype).T
    close(jax.jit(turned)(x.T, weight, cotangent.T), slope.T)
    # Many weights at once, and not along the first axis.
    two = lambda x, axis: jnp.stack([x, 2 * x], axis)
    many = jax.vmap(lambda x, y, c: gradient(x, y, c, dtype), (0, 1, 2), 2)
    found = jax.jit(many)(two(x, 0), two(weight, 1), two(cotangent, 2))
    close(found, jnp.stack([slope, 4 * slope], 2))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about CPUs")
def test_a_cpu_transposes_rows_for_a_gradient_in_16_bits():
    """Else it would widen both operands, and take twice as long."""
    x, weight, cotangent = (
        jnp.zeros((600, 256)),
        jnp.zeros((256, 512)),
        jnp.zeros((600, 512)),
    )
    lower = lambda dtype: jax.jit(lambda x, y, c: gradient(x, y, c, dtype)).lower(
        x, weight, cotangent
    )
    contracted = lambda dtype: [
        line.split("contracting_dims = ")[1].split(",")[0]
        for line in lower(dtype).as_text().splitlines()
        if "dot_general" in line and "contracting_dims" in line
    ]
    assert contracted("bfloat16") == contracted("float16") == ["[1] x [0]"]
    assert contracted("float32") == ["[0] x [0]"]


@pytest.mark.parametrize("kind", ["int8", "nf4", "lora"])
def test_every_matrix_returns_what_is_asked_for(kind):
    x, weight = jr.normal(jr.key(0), (5, 16)), jr.normal(jr.key(1), (16, 8))
    if kind != "lora":
        matrix = {"int8": to_int8, "nf4": to_nf4}[kind](weight)
    else:
        policy = models.lora(transformer("qwen2"), rank=2, alpha=4.0, key=jr.key(2))
        matrix = jax.tree.map(lambda x: x[0], policy.layers.gate)
        x = jr.normal(jr.key(0), (5, matrix.base.shape[0]))
    wide = matrix.multiply(x, "bfloat16")
    narrow = matrix.multiply(x, "bfloat16", None, "bfloat16")
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_the_widest_residuals_are_saved_in_16_bits():
    """Two of a layer's products are kept for the backward pass as they are used."""
    policy = transformer("qwen2", compute_dtype="bfloat16")
    tokens = jnp.zeros(6, jnp.int32)
    hidden = lambda policy: jnp.sum(policy.extend(tokens, jnp.arange(6))[0])
    text = str(jax.make_jaxpr(lambda policy: jax.vjp(hidden, policy)[0])(policy))
    wide = f"[6,{policy.config.intermediate_size}]"
    products = [line for line in text.splitlines() if "grpojax_product" in line]
    kept = [line for line in products if wide in line.split("=")[0]]
    assert kept and all(f"bf16{wide}" in line for line in kept)
