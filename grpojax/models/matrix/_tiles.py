"""Tiles of a matrix's columns, which a CPU reads without a copy for a few rows.

XLA's CPU library first packs a wide matrix into an order of its own, which takes as
long as a product with a few rows; the matrices of a batched product it reads in place.
"""

import jax.numpy as jnp
from jaxtyping import Array, Num


def to_tiles(
    weight: Num[Array, "*layer inputs outputs"], width: int
) -> Num[Array, "*layer tile inputs width"]:
    """A weight in tiles of `width` columns, which must divide their number."""
    *layer, inputs, outputs = weight.shape
    split = weight.reshape(*layer, inputs, outputs // width, width)
    return jnp.swapaxes(split, -3, -2)


def from_tiles(
    tiles: Num[Array, "*layer tile inputs width"],
) -> Num[Array, "*layer inputs outputs"]:
    """The inverse of `to_tiles`."""
    *layer, count, inputs, width = tiles.shape
    return jnp.swapaxes(tiles, -3, -2).reshape(*layer, inputs, count * width)
