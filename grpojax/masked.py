"""Masked statistics: the only module that divides by the count of a mask.

Over an empty mask every function returns 0, with a finite gradient. Values outside the
mask never reach the result or the gradient, not even when they are NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def fill(
    values: Float[Array, "*shape"], mask: Bool[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The values inside the mask, 0 outside."""
    return jnp.where(mask, values, 0)


def count(
    mask: Bool[Array, "..."], axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """The number of entries of the mask, at least 1 so that it can be a divisor."""
    total = jnp.sum(mask, axis=axis, keepdims=axis is not None, dtype=jnp.int32)
    return jnp.maximum(total, 1).astype(jnp.result_type(float))


def mean(
    values: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    axis: int | tuple[int, ...] | None = None,
) -> Float[Array, "..."]:
    """The mean over the mask; reduced axes are kept if `axis` is given."""
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
    divisor = jnp.maximum(freedom, 1).astype(total.dtype)
    return jnp.where(freedom > 0, total / divisor, 0)


def std(
    values: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"],
    axis: int | tuple[int, ...] | None = None,
    *,
    ddof: int = 0,
) -> Float[Array, "..."]:
    """The standard deviation over the mask, with gradient 0 where it is 0."""
    spread = variance(values, mask, axis, ddof=ddof)
    # sqrt has an infinite slope at 0; the double `where` masks it in the gradient, too.
    positive = spread > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, spread, 1)), 0)
