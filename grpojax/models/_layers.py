"""What a transformer layer is made of, for one stream."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped


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


Source = tuple[
    Shaped[Array, "kv_head head_dim _"],
    Shaped[Array, "kv_head _ head_dim"],
    Bool[Array, "#chunk _"],
]
"""Keys and values by column, and which columns each token of the chunk sees."""


def attend(
    query: Float[Array, "chunk head head_dim"],
    sources: list[Source],
    dtype: DTypeLike,
) -> Float[Array, "chunk features"]:
    """Grouped-query attention over several sources at once, softmax in float32.

    The sources are joined at their scores, not at their keys and values: a source that
    is shared by many streams is read where it lies.

    **Arguments:**

    - `query`: rotated queries.
    - `sources`: keys, values and visible columns, at least one column visible in all.
        Keys and values are floats of `dtype`, or the bits of such.
    - `dtype`: of the operands of both products.

    **Returns:** `Float[chunk head·head_dim]`, float32.
    """
    chunk, heads, head_dim = query.shape
    kv_heads = sources[0][0].shape[0]
    repeats = heads // kv_heads
    query = (query * head_dim**-0.5).reshape(chunk, kv_heads, repeats, head_dim)
    # All that one head's keys meet are rows of one matrix, on the left: other orders
    # of axes leave the fast products of XLA's CPU backend.
    query = jnp.moveaxis(query, 1, 0).reshape(kv_heads, chunk * repeats, head_dim)
    scores = [
        jnp.where(
            jnp.repeat(mask, repeats * chunk // mask.shape[0], axis=0)[None],
            _contract("kqd,kds->kqs", query, keys, dtype),
            -jnp.inf,
        )
        for keys, _, mask in sources
    ]
    # The maximum is a constant of the softmax: its gradient cancels.
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    peak = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, peaks))
    weights = [jnp.exp(s - peak) for s in scores]
    sums = [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
    mixed = [
        _contract("kqs,ksd->kqd", w, values, dtype)
        for w, (_, values, _) in zip(weights, sources, strict=True)
    ]
    mixed = jax.tree.reduce(jnp.add, mixed) / jax.tree.reduce(jnp.add, sums)
    mixed = mixed.reshape(kv_heads, chunk, repeats * head_dim)
    return jnp.moveaxis(mixed, 0, 1).reshape(chunk, heads * head_dim)


def _contract(
    formula: str, x: Float[Array, "..."], cached: Shaped[Array, "..."], dtype: DTypeLike
) -> Float[Array, "..."]:
    """A product with keys or values, accumulated in float32."""
    if jnp.dtype(dtype) == jnp.float32:
        return jnp.einsum(formula, x, cached, precision=jax.lax.Precision.HIGHEST)

    def narrow(x, cached):
        x, cached = x.astype(dtype), from_bits(cached, dtype)
        return jnp.einsum(formula, x, cached, preferred_element_type=jnp.float32)

    def wide(x, cached):
        x = x.astype(dtype).astype(jnp.float32)
        return jnp.einsum(formula, x, from_bits(cached, dtype).astype(jnp.float32))

    # Small batched products of 16-bit floats are slower on a CPU than wider ones.
    return jax.lax.platform_dependent(x, cached, cpu=wide, default=narrow)


def to_bits(x: Float[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """The bits of 16-bit floats; wider ones as they are."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.itemsize == 2 else x


def from_bits(x: Shaped[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """The floats that `to_bits` was given, or floats as they are."""
    return jax.lax.bitcast_convert_type(x, dtype) if x.dtype == jnp.uint16 else x
