"""What a transformer layer is made of, for one stream."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


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
