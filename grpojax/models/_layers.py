"""What a transformer layer is made of, for one stream."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def rms_norm(
    x: Float[Array, "*batch features"], scale: Float[Array, " features"], eps: float
) -> Float[Array, "*batch features"]:
    """x / sqrt(mean(x²) + eps) · scale, in float32 (arXiv:1910.07467)."""
    return jnp.asarray(_norm(x, scale, eps))


@ft.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _norm(x: Array, scale: Array, eps: float) -> Array:
    return _remember(x, scale, eps)[0]


def _remember(x: Array, scale: Array, eps: float):
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalized = x * jax.lax.rsqrt(variance + eps)
    scaled = normalized * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)
    return scaled, (x, scale)


def _pull(eps: float, residuals: tuple[Array, Array], gradient: Array):
    """With y = x r and r = 1 / sqrt(mean(x²) + eps):

    dx = r (g scale - y mean(g scale y)),    dscale = Σ g y
    """
    x, scale = residuals
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    of_normalized = gradient * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)
    shared = row_products(of_normalized, x)[..., None] / x.shape[-1]
    of_x = inverse * (of_normalized - x * (jnp.square(inverse) * shared))
    of_scale = jnp.sum(gradient * x * inverse, axis=tuple(range(x.ndim - 1)))
    return of_x.astype(x.dtype), of_scale.astype(scale.dtype)


_norm.defvjp(_remember, _pull)


def row_products(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """Σ x y over the last axis: of more than two axes, a sum takes XLA's CPU backend
    eight times as long as this product of rows."""
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("...d,...d->...", x, y, precision=precision)


Turns = tuple[Float[Array, "chunk half"], Float[Array, "chunk half"]]
"""The cosines and sines of rotary positions."""


def turns(
    positions: Int[Array, " chunk"], inverse_frequency: Float[np.ndarray, " half"]
) -> Turns:
    """Of every token's angles, position · frequency_i: the same in all layers."""
    angle = positions.astype(jnp.float32)[:, None] * inverse_frequency[None, :]
    return _once(jnp.cos(angle)), _once(jnp.sin(angle))


def _once(x: Float[Array, "chunk half"]) -> Float[Array, "chunk half"]:
    """The same: XLA's CPU backend takes cosines for cheap, and computes them again for
    every head of every layer that is written out. With a product it does not.
    """
    one = jnp.eye(x.shape[1])
    times_one = lambda x: jnp.matmul(x, one, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.platform_dependent(x, cpu=times_one, default=lambda x: x)


def rotate(
    x: Float[Array, "chunk head head_dim"], turns: Turns
) -> Float[Array, "chunk head head_dim"]:
    """Rotary positions: feature pairs (i, i + half) turn by position · frequency_i.

    Source: arXiv:2104.09864, in the half-split layout of Hugging Face checkpoints.
    """
    cos, sin = (turn[:, None, :] for turn in turns)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
