"""What a product returns, and what it keeps."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import models
from grpojax.models._matrix import multiply, to_int8
from grpojax.models._product import product
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


@pytest.mark.parametrize("kind", ["int8", "lora"])
def test_every_matrix_returns_what_is_asked_for(kind):
    x, weight = jr.normal(jr.key(0), (5, 16)), jr.normal(jr.key(1), (16, 8))
    if kind == "int8":
        matrix = to_int8(weight)
    else:
        policy = models.lora(transformer("qwen2"), rank=2, alpha=4.0, key=jr.key(2))
        matrix = jax.tree.map(lambda x: x[0], policy.layers.gate)
        x = jr.normal(jr.key(0), (5, matrix.base.shape[0]))
    wide = multiply(x, matrix, "bfloat16")
    narrow = multiply(x, matrix, "bfloat16", None, "bfloat16")
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_the_widest_arrays_are_kept_in_16_bits():
    """Two of a layer's products are kept for the backward pass as they are used."""
    policy = transformer("qwen2", compute_dtype="bfloat16")
    tokens = jnp.zeros(6, jnp.int32)
    hidden = lambda policy: jnp.sum(policy.extend(tokens, jnp.arange(6))[0])
    text = str(jax.make_jaxpr(lambda policy: jax.vjp(hidden, policy)[0])(policy))
    wide = f"[6,{policy.config.intermediate_size}]"
    products = [line for line in text.splitlines() if "grpojax_product" in line]
    kept = [line for line in products if wide in line.split("=")[0]]
    assert kept and all(f"bf16{wide}" in line for line in kept)
