"""What a transformer layer is made of, for one stream."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int


def product(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "inputs outputs"],
    dtype: DTypeLike,
) -> Float[Array, "*batch outputs"]:
    """A matrix product with operands in `dtype`, accumulated and returned in float32.

    bfloat16 operands with a float32 result are what matrix units are made for;
    float32 operands ask for the highest precision, which accelerators would lower.
    """
    exact = jnp.dtype(dtype) == jnp.float32
    return jnp.matmul(
        x.astype(dtype),
        weight.astype(dtype),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )


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
    Float[Array, "_ kv_head head_dim"],
    Float[Array, "_ kv_head head_dim"],
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
    - `dtype`: of the operands of both products.

    **Returns:** `Float[chunk head·head_dim]`, float32.
    """
    chunk, heads, head_dim = query.shape
    kv_heads = sources[0][0].shape[1]
    exact = jnp.dtype(dtype) == jnp.float32
    einsum = lambda formula, *operands: jnp.einsum(
        formula,
        *operands,
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )
    query = (query * head_dim**-0.5).astype(dtype)
    query = query.reshape(chunk, kv_heads, heads // kv_heads, head_dim)
    scores = [
        jnp.where(mask[None, None], einsum("tkrd,skd->krts", query, keys), -jnp.inf)
        for keys, _, mask in sources
    ]
    # The maximum is a constant of the softmax: its gradient cancels.
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    peak = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, peaks))
    weights = [jnp.exp(s - peak) for s in scores]
    total = sum(jnp.sum(w, axis=-1) for w in weights)
    mixed = sum(
        einsum("krts,skd->tkrd", w.astype(dtype), values)
        for w, (_, values, _) in zip(weights, sources, strict=True)
    )
    mixed = mixed / jnp.transpose(total, (2, 0, 1))[..., None]
    return mixed.reshape(chunk, heads * head_dim)
