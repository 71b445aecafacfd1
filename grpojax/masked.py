"""Masked statistics: the only place where a mask meets a denominator.

An empty mask has no mean; every function here answers 0 for it, and its gradient is
finite. Values under a false mask never reach the result or the gradient, not even
when they are NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def fill(
    values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The values where the mask holds, 0 elsewhere."""
    return jnp.where(mask, values, 0)


def count(
    mask: Bool[Array, "..."], axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """How many entries the mask holds, at least 1 so that it may divide."""
    total = jnp.sum(mask, axis=axis, keepdims=axis is not None, dtype=jnp.int32)
    return jnp.maximum(total, 1).astype(jnp.result_type(float))


def mean(
    values: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    axis: int | tuple[int, ...] | None = None,
) -> Float[Array, "..."]:
    """The mean over the mask; reduced axes are kept when an axis is named."""
    total = jnp.sum(fill(values, mask), axis=axis, keepdims=axis is not None)
    return total / count(mask, axis).astype(values.dtype)


def variance(
    values: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    axis: int | tuple[int, ...] | None = None,
    *,
    ddof: int = 0,
) -> Float[Array, "..."]:
    """The variance over the mask, Σ (x - mean)² / (n - ddof); 0 where n <= ddof."""
    centered = fill(values - mean(values, mask, axis), mask)
    total = jnp.sum(centered**2, axis=axis, keepdims=axis is not None)
    freedom = jnp.sum(mask, axis=axis, keepdims=axis is not None) - ddof
    return jnp.where(freedom > 0, total / jnp.maximum(freedom, 1), 0)


def std(
    values: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    axis: int | tuple[int, ...] | None = None,
    *,
    ddof: int = 0,
) -> Float[Array, "..."]:
    """The standard deviation over the mask, with gradient 0 where it is 0."""
    spread = variance(values, mask, axis, ddof=ddof)
    # sqrt has an infinite slope at 0; the double `where` keeps it out of the gradient.
    positive = spread > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, spread, 1)), 0)
