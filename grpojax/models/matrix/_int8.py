"""Symmetric quantization to 8 bits, of weights and of caches."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8


def quantize_int8(
    x: Float[Array, "..."], axis: int
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """Integers from -127 to 127, and one float32 scale for each slice along `axis`.

        scale = max |x| / 127,    |integer · scale - x| <= scale / 2

    **Arguments:**

    - `x`: the numbers.
    - `axis`: the axis that shares a scale.

    **Returns:** integers of `x`'s shape, and scales of that shape without `axis`.
    """
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axis) / 127
    # A slice of zeros has the scale 0, and nothing to divide.
    divisor = jnp.expand_dims(jnp.where(scale > 0, scale, 1), axis)
    return jnp.round(x / divisor).astype(jnp.int8), scale
