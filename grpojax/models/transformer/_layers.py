"""RMS norms and rotary position embeddings, of one sequence."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..matrix import row_products


def rms_norm(
    x: Float[Array, "*batch features"], scale: Float[Array, " features"], eps: float
) -> Float[Array, "*batch features"]:
    """x / sqrt(mean(x²) + eps) · scale, in float32 (arXiv:1910.07467)."""
    return jnp.asarray(_norm(x, scale, eps))


@ft.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _norm(x: Array, scale: Array, eps: float) -> Array:
    return _fwd(x, scale, eps)[0]


def _fwd(x: Array, scale: Array, eps: float):
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalized = x * jax.lax.rsqrt(variance + eps)
    scaled = normalized * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)
    return scaled, (x, scale)


def _bwd(eps: float, residuals: tuple[Array, Array], gradient: Array):
    """With y = x r and r = 1 / sqrt(mean(x²) + eps):

    dx = r (g scale - y mean(g scale y)),    dscale = Σ g y
    """
    x, scale = residuals
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    d_normalized = gradient * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)
    shared = row_products(d_normalized, x)[..., None] / x.shape[-1]
    d_x = inverse * (d_normalized - x * (jnp.square(inverse) * shared))
    d_scale = jnp.sum(gradient * x * inverse, axis=tuple(range(x.ndim - 1)))
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype)


_norm.defvjp(_fwd, _bwd)


RotaryCosSin = tuple[Float[Array, "chunk half"], Float[Array, "chunk half"]]
"""Cosines and sines of the rotary angles."""


def rotary_cos_sin(
    positions: Int[Array, " chunk"], inverse_frequency: Float[np.ndarray, " half"]
) -> RotaryCosSin:
    """cos/sin of the rotary angles, position · frequency_i; shared by all layers."""
    angle = positions.astype(jnp.float32)[:, None] * inverse_frequency[None, :]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _prevent_rematerialization(cos), _prevent_rematerialization(sin)


def _prevent_rematerialization(
    x: Float[Array, "chunk half"],
) -> Float[Array, "chunk half"]:
    """Identity that keeps XLA:CPU from rematerializing cos/sin in unrolled layers.

    It considers them cheap and computes them again for every head of every layer; a
    product with the identity matrix it does not repeat.
    """
    identity = jnp.eye(x.shape[1])
    product = lambda x: jnp.matmul(x, identity, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x)


def apply_rotary(
    x: Float[Array, "chunk head head_dim"], cos_sin: RotaryCosSin
) -> Float[Array, "chunk head head_dim"]:
    """Rotary position embedding of queries or keys.

    The feature pairs (i, i + half) are rotated by position · frequency_i.

    Source: arXiv:2104.09864, in the half-split layout of Hugging Face checkpoints.
    """
    cos, sin = (x[:, None, :] for x in cos_sin)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
