"""What a transformer layer is made of, for one stream."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped

from ._cache import as_floats
from ._weights import KVCache


def rms_norm(
    x: Float[Array, "*batch features"], scale: Float[Array, " features"], eps: float
) -> Float[Array, "*batch features"]:
    """x / sqrt(mean(x²) + eps) · scale, in float32 (arXiv:1910.07467)."""
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalized = x * jax.lax.rsqrt(variance + eps)
    return normalized * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)


def rotate(
    x: Float[Array, "chunk head head_dim"],
    positions: Int[Array, " chunk"],
    inverse_frequency: Float[np.ndarray, " half"],
) -> Float[Array, "chunk head head_dim"]:
    """Rotary positions: feature pairs (i, i + half) turn by position · frequency_i.

    Source: arXiv:2104.09864, in the half-split layout of Hugging Face checkpoints.
    """
    angle = positions.astype(jnp.float32)[:, None] * inverse_frequency[None, :]
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )


Source = tuple[KVCache, Bool[Array, "#chunk _"]]
"""One layer's keys and values, and which columns each token of the chunk sees."""


def attend(
    query: Float[Array, "chunk head head_dim"],
    sources: list[Source],
    dtype: DTypeLike,
) -> Float[Array, "chunk features"]:
    """Grouped-query attention over several sources at once, softmax in float32.

    The sources are joined at their scores, not at their keys and values: a source that
    is shared by many streams is read where it lies. A scale multiplies a column of
    scores or of weights, and never keys and values themselves.

    **Arguments:**

    - `query`: rotated queries.
    - `sources`: keys, values and visible columns, at least one column visible in all.
    - `dtype`: of the operands of both products.

    **Returns:** `Float[chunk head·head_dim]`, float32.
    """
    chunk, heads, head_dim = query.shape
    kv_heads = sources[0][0].keys.shape[0]
    repeats = heads // kv_heads
    query = (query * head_dim**-0.5).reshape(chunk, kv_heads, repeats, head_dim)
    # All that one head's keys meet are rows of one matrix, on the left: other orders
    # of axes leave the fast products of XLA's CPU backend.
    query = jnp.moveaxis(query, 1, 0).reshape(kv_heads, chunk * repeats, head_dim)
    scores = [
        jnp.where(
            jnp.repeat(mask, repeats * chunk // mask.shape[0], axis=0)[None],
            _scaled(_contract("kqd,kds->kqs", query, kv.keys, dtype), kv.key_scale),
            -jnp.inf,
        )
        for kv, mask in sources
    ]
    # The maximum is a constant of the softmax: its gradient cancels.
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    peak = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, peaks))
    weights = [jnp.exp(s - peak) for s in scores]
    sums = [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
    mixed = [
        _contract("kqs,ksd->kqd", _scaled(w, kv.value_scale), kv.values, dtype)
        for w, (kv, _) in zip(weights, sources, strict=True)
    ]
    mixed = jax.tree.reduce(jnp.add, mixed) / jax.tree.reduce(jnp.add, sums)
    mixed = mixed.reshape(kv_heads, chunk, repeats * head_dim)
    return jnp.moveaxis(mixed, 0, 1).reshape(chunk, heads * head_dim)


def _scaled(
    columns: Float[Array, "kv_head _ column"],
    scale: Float[Array, "kv_head column"] | None,
) -> Float[Array, "kv_head _ column"]:
    if scale is None:
        return columns
    return columns * jnp.broadcast_to(scale[:, None, :], columns.shape)


def _contract(
    formula: str, x: Float[Array, "..."], cached: Shaped[Array, "..."], dtype: DTypeLike
) -> Float[Array, "..."]:
    """A product with keys or values as they are kept, accumulated in float32."""
    if jnp.dtype(dtype) == jnp.float32:
        cached = as_floats(cached, dtype)
        return jnp.einsum(formula, x, cached, precision=jax.lax.Precision.HIGHEST)

    def narrow(x, cached):
        x, cached = x.astype(dtype), as_floats(cached, dtype)
        return jnp.einsum(formula, x, cached, preferred_element_type=jnp.float32)

    def wide(x, cached):
        x = x.astype(dtype).astype(jnp.float32)
        return jnp.einsum(formula, x, as_floats(cached, dtype).astype(jnp.float32))

    # Small batched products of 16-bit floats are slower on a CPU than wider ones.
    return jax.lax.platform_dependent(x, cached, cpu=wide, default=narrow)
