"""Products with stored keys and values."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Shaped

from ..matrix import TiledMatrix
from ._cache import dequantize


QueryRows = Float[Array, "kv_head row head_dim"]
"""Queries or their outputs: `repeats` rows for each token, token by token."""


def scores(
    query: QueryRows, keys: Shaped[Array, "..."] | TiledMatrix, dtype: DTypeLike
) -> Float[Array, "kv_head row column"]:
    """Products of queries and keys, float32."""
    if not isinstance(keys, TiledMatrix):
        return contract("kqd,kds->kqs", query, keys, dtype)
    kv_heads, rows, _ = query.shape
    shape = kv_heads, keys.tiles.shape[1], *query.shape[1:]
    query = jnp.broadcast_to(query[:, None], shape)
    scores = contract("ktqd,ktds->ktqs", query, keys.tiles, dtype)
    return jnp.moveaxis(scores, 1, 2).reshape(kv_heads, rows, -1)


def scaled(
    columns: Float[Array, "kv_head _ column"],
    scale: Float[Array, "kv_head column"] | None,
) -> Float[Array, "kv_head _ column"]:
    """Scores or weights times the scale of each column, if there is one."""
    if scale is None:
        return columns
    return columns * jnp.broadcast_to(scale[:, None, :], columns.shape)


def capped(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """cap · tanh(x / cap), of scores or logits; `x` without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def contract(
    formula: str, x: Float[Array, "..."], cached: Shaped[Array, "..."], dtype: DTypeLike
) -> Float[Array, "..."]:
    """A product with stored keys or values, accumulated in float32."""
    if jnp.dtype(dtype) == jnp.float32:
        cached = dequantize(cached, dtype)
        return jnp.einsum(formula, x, cached, precision=jax.lax.Precision.HIGHEST)

    def narrow(x, cached):
        x, cached = x.astype(dtype), dequantize(cached, dtype)
        return jnp.einsum(formula, x, cached, preferred_element_type=jnp.float32)

    def wide(x, cached):
        x = x.astype(dtype).astype(jnp.float32)
        if cached.dtype != jnp.float32:
            cached = dequantize(cached, dtype).astype(jnp.float32)
        return jnp.einsum(formula, x, cached)

    # Small batched products are slower on a CPU in 16 bits than in 32.
    return jax.lax.platform_dependent(x, cached, cpu=wide, default=narrow)


def masked(
    mask: Bool[Array, "#chunk column"], scores: Float[Array, "kv_head row column"]
) -> Float[Array, "kv_head row column"]:
    """Scores where the mask of a row's token is set, and -inf elsewhere."""
    repeats = scores.shape[1] // mask.shape[0]
    return jnp.where(jnp.repeat(mask, repeats, axis=0)[None], scores, -jnp.inf)
