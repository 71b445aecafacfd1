"""What a projection multiplies with: an array, or a module that stands for one.

Every product with a weight goes through `product`, whatever the matrix is made of.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Float32, Int8

from ..types import Axes
from ._product import product, tiled, untiled


class Int8Matrix(eqx.Module):
    """A matrix in 8 bits, with a scale for each output; it is never trained.

    W[i, o] = values[i, o] · scale[o],   scale[o] = max_i |W[i, o]| / 127
    """

    values: Int8[Array, "*layer inputs outputs"]
    scale: Float32[Array, "*layer outputs"]


class TiledMatrix(eqx.Module):
    """A matrix in tiles of its columns, as a CPU reads it quickest for a few rows."""

    tiles: Float[Array, "*layer tile inputs width"]


class LowRankMatrix(eqx.Module):
    """A frozen matrix and what is learned on top of it (LoRA, arXiv:2106.09685).

        x W + (alpha / rank) · (x A) B

    The two are never added up, neither to train nor to decode: what is learned is
    small, and a sum in 16 bits would round most of it away.
    """

    base: Float[Array, "*layer inputs outputs"] | Int8Matrix | TiledMatrix
    a: Float[Array, "*layer inputs rank"]
    b: Float[Array, "*layer rank outputs"]
    alpha: float = eqx.field(static=True)

    @property
    def rank(self) -> int:
        return self.a.shape[-1]


Matrix = (
    Float[Array, "*layer inputs outputs"] | Int8Matrix | LowRankMatrix | TiledMatrix
)


def multiply(
    x: Float[Array, "*batch inputs"],
    matrix: Matrix,
    dtype: DTypeLike,
    axes: Axes | None = None,
    result: DTypeLike | None = None,
) -> Float[Array, "*batch outputs"]:
    """`product`, of any matrix; `axes` are those of the array that it stands for."""
    if result is not None and isinstance(matrix, LowRankMatrix | Int8Matrix):
        return multiply(x, matrix, dtype, axes).astype(result)
    if isinstance(matrix, LowRankMatrix):
        a, b = (axes and axes_of(part, axes) for part in ("a", "b"))
        learned = product(product(x, matrix.a, dtype, a), matrix.b, dtype, b)
        whole = multiply(x, matrix.base, dtype, axes)
        return whole + matrix.alpha / matrix.rank * learned
    if isinstance(matrix, Int8Matrix):
        # 8 bits are exact in every dtype; the scale is applied to the float32 result.
        y = product(x, matrix.values, dtype, axes)
        return y * jnp.broadcast_to(matrix.scale, y.shape)
    if isinstance(matrix, TiledMatrix):
        return product(x, matrix.tiles, dtype, None, result)
    return product(x, matrix, dtype, axes, result)


def axes_of(part: str, axes: Axes) -> Axes:
    """The axes of one array of a matrix, by its field; `axes` are the matrix's."""
    if part not in ("a", "b", "scale", "tiles"):
        return axes
    *layer, inputs, outputs = zip(*axes, strict=True)
    short = (None, 1)  # Too short to be cut.
    kept = {
        "a": (inputs, short),
        "b": (short, outputs),
        "scale": (outputs,),
        "tiles": (short, inputs, short),
    }[part]
    return Axes(*zip(*layer, *kept, strict=True))


def shape_of(matrix: Matrix) -> tuple[int, ...]:
    """Of the array that a matrix is, or stands for."""
    if isinstance(matrix, LowRankMatrix):
        return shape_of(matrix.base)
    if isinstance(matrix, TiledMatrix):
        return jax.eval_shape(untiled, matrix.tiles).shape
    return matrix.values.shape if isinstance(matrix, Int8Matrix) else matrix.shape


def cast(matrix: Matrix, dtype: DTypeLike) -> Matrix:
    """A matrix whose products need no more casts; 8 bits and their scales stay."""
    is_quantized = lambda x: isinstance(x, Int8Matrix)
    narrow = lambda x: x if is_quantized(x) else x.astype(dtype)
    return jax.tree.map(narrow, matrix, is_leaf=is_quantized)


def in_tiles(matrix: Matrix) -> Matrix:
    """A matrix in tiles, if it is wide enough for them to be of use."""
    if isinstance(matrix, LowRankMatrix):
        return dataclasses.replace(matrix, base=in_tiles(matrix.base))
    if isinstance(matrix, Int8Matrix | TiledMatrix):
        return matrix
    outputs = matrix.shape[-1]
    wide = outputs > _READ_AS_IT_IS and outputs % _TILE == 0
    return TiledMatrix(tiled(matrix, _TILE)) if wide else matrix


_TILE, _READ_AS_IT_IS = 64, 128
"""Columns of a tile; and of a matrix that XLA's CPU library reads where it lies."""


def dense(matrix: Matrix, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
    """The matrix as one array, added up in float32; an array stays as it is."""
    if isinstance(matrix, LowRankMatrix):
        a, b = matrix.a.astype(jnp.float32), matrix.b.astype(jnp.float32)
        learned = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        whole = dense(matrix.base, jnp.float32).astype(jnp.float32)
        return (whole + matrix.alpha / matrix.rank * learned).astype(dtype)
    if isinstance(matrix, Int8Matrix):
        values = matrix.values.astype(jnp.float32)
        return (values * matrix.scale[..., None, :]).astype(dtype)
    return untiled(matrix.tiles) if isinstance(matrix, TiledMatrix) else matrix


def to_int8(weight: Float[Array, "*layer inputs outputs"]) -> Int8Matrix:
    """Each output's weights as the nearest of 255 evenly spaced values."""
    weight = weight.astype(jnp.float32)
    scale = jnp.max(jnp.abs(weight), axis=-2) / 127
    # A column of zeros has the scale 0, and nothing to divide.
    steps = weight / jnp.where(scale > 0, scale, 1)[..., None, :]
    return Int8Matrix(jnp.round(steps).astype(jnp.int8), scale)
