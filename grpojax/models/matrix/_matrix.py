"""The kinds of matrices: an array, or a module that represents one.

Every product with a weight goes through `product`, whatever the kind of the matrix.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Float32, Int8

from ...types import Axes
from ._int8 import quantize_int8
from ._product import product
from ._tiles import from_tiles, to_tiles


class Int8Matrix(eqx.Module):
    """A frozen matrix in 8 bits with a scale for each output.

        W[i, o] = values[i, o] · scale[o],   scale[o] = max_i |W[i, o]| / 127

    **Fields:**

    - `values`: integers from -127 to 127.
    - `scale`: one float32 for each output.
    """

    values: Int8[Array, "*layer inputs outputs"]
    scale: Float32[Array, "*layer outputs"]


class TiledMatrix(eqx.Module):
    """A matrix in tiles of its columns: the layout a CPU reads fastest for few rows.

    **Fields:**

    - `tiles`: the columns, `width` at a time.
    """

    tiles: Float[Array, "*layer tile inputs width"]


class LowRankMatrix(eqx.Module):
    """A frozen matrix with a trained low-rank adapter (LoRA, arXiv:2106.09685).

        x W + (alpha / rank) · (x A) B

    The two are never added up, neither to train nor to decode: the adapter is small,
    and a sum in 16 bits would round most of it away.

    **Fields:**

    - `base`: the frozen matrix `W`.
    - `a`, `b`: the trained factors `A` and `B`.
    - `alpha`: scales the adapter.
    """

    base: Float[Array, "*layer inputs outputs"] | Int8Matrix | TiledMatrix
    a: Float[Array, "*layer inputs rank"]
    b: Float[Array, "*layer rank outputs"]
    alpha: float = eqx.field(static=True)

    @property
    def rank(self) -> int:
        """The number of columns of `A`."""
        return self.a.shape[-1]


Matrix = (
    Float[Array, "*layer inputs outputs"] | Int8Matrix | LowRankMatrix | TiledMatrix
)
"""Any kind of matrix."""


def multiply(
    x: Float[Array, "*batch inputs"],
    matrix: Matrix,
    dtype: DTypeLike,
    axes: Axes | None = None,
    result: DTypeLike | None = None,
) -> Float[Array, "*batch outputs"]:
    """`product` with any kind of matrix.

    **Arguments:**

    - `x`: the rows.
    - `matrix`: the matrix, without an axis of layers.
    - `dtype`: of the operands; products accumulate in float32.
    - `axes`: the logical axes of the array that the matrix represents.
    - `result`: dtype of the result; float32 by default.
    """
    if result is not None and isinstance(matrix, LowRankMatrix | Int8Matrix):
        return multiply(x, matrix, dtype, axes).astype(result)
    if isinstance(matrix, LowRankMatrix):
        a_axes, b_axes = (axes and part_axes(part, axes) for part in ("a", "b"))
        adapted = product(product(x, matrix.a, dtype, a_axes), matrix.b, dtype, b_axes)
        base = multiply(x, matrix.base, dtype, axes)
        return base + matrix.alpha / matrix.rank * adapted
    if isinstance(matrix, Int8Matrix):
        # 8 bits are exact in every dtype; the scale is applied to the float32 result.
        y = product(x, matrix.values, dtype, axes)
        return y * jnp.broadcast_to(matrix.scale, y.shape)
    if isinstance(matrix, TiledMatrix):
        return product(x, matrix.tiles, dtype, None, result)
    return product(x, matrix, dtype, axes, result)


def part_axes(part: str, axes: Axes) -> Axes:
    """The logical axes of one array of a matrix.

    **Arguments:**

    - `part`: the array's field; any other name is the matrix's own.
    - `axes`: the logical axes of the array that the matrix represents.
    """
    if part not in ("a", "b", "scale", "tiles"):
        return axes
    *layer, inputs, outputs = zip(*axes, strict=True)
    replicated = (None, 1)
    part_of = {
        "a": (inputs, replicated),
        "b": (replicated, outputs),
        "scale": (outputs,),
        "tiles": (replicated, inputs, replicated),
    }[part]
    return Axes(*zip(*layer, *part_of, strict=True))


def matrix_shape(matrix: Matrix) -> tuple[int, ...]:
    """The shape of the array that a matrix is or represents."""
    if isinstance(matrix, LowRankMatrix):
        return matrix_shape(matrix.base)
    if isinstance(matrix, TiledMatrix):
        return jax.eval_shape(from_tiles, matrix.tiles).shape
    return matrix.values.shape if isinstance(matrix, Int8Matrix) else matrix.shape


def cast(matrix: Matrix, dtype: DTypeLike) -> Matrix:
    """A matrix with its floats in `dtype`; 8-bit matrices are unchanged."""
    is_quantized = lambda x: isinstance(x, Int8Matrix)
    cast_array = lambda x: x if is_quantized(x) else x.astype(dtype)
    return jax.tree.map(cast_array, matrix, is_leaf=is_quantized)


_TILE_WIDTH = 64  # Columns of a tile.
_MAX_UNTILED_WIDTH = 128  # XLA's CPU library reads matrices up to this width in place.


def tile(matrix: Matrix) -> Matrix:
    """A matrix in tiles, if it is a wide array that tiles divide evenly."""
    if isinstance(matrix, LowRankMatrix):
        return dataclasses.replace(matrix, base=tile(matrix.base))
    if isinstance(matrix, Int8Matrix | TiledMatrix):
        return matrix
    outputs = matrix.shape[-1]
    if outputs > _MAX_UNTILED_WIDTH and outputs % _TILE_WIDTH == 0:
        return TiledMatrix(to_tiles(matrix, _TILE_WIDTH))
    return matrix


def dense(matrix: Matrix, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
    """The matrix as one array.

    **Arguments:**

    - `matrix`: an array is returned as it is.
    - `dtype`: of an adapter or of 8 bits, after a sum in float32.
    """
    if isinstance(matrix, LowRankMatrix):
        a, b = matrix.a.astype(jnp.float32), matrix.b.astype(jnp.float32)
        adapter = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        base = dense(matrix.base, jnp.float32).astype(jnp.float32)
        return (base + matrix.alpha / matrix.rank * adapter).astype(dtype)
    if isinstance(matrix, Int8Matrix):
        values = matrix.values.astype(jnp.float32)
        return (values * matrix.scale[..., None, :]).astype(dtype)
    return from_tiles(matrix.tiles) if isinstance(matrix, TiledMatrix) else matrix


def to_int8(weight: Float[Array, "*layer inputs outputs"]) -> Int8Matrix:
    """A weight quantized to 8 bits, with a scale for each output."""
    return Int8Matrix(*quantize_int8(weight, axis=-2))
