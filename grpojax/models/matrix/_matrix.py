"""Kinds of matrices: dense, in 8 bits, low-rank and tiled."""

import dataclasses
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Float32, Int8, Num, PyTree

from ...types import Axes
from ._abstract import AbstractMatrix, Matrix, part_axes, REPLICATED
from ._int8 import quantize_int8
from ._product import product
from ._tiles import from_tiles, to_tiles


class DenseMatrix(AbstractMatrix):
    """An array, with the methods of a matrix; trees hold the array itself.

    **Fields:**

    - `values`: the array.
    """

    values: Float[Array, "*layer inputs outputs"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def bits(self) -> int:
        return 8 * self.values.dtype.itemsize

    def dense(self, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
        return self.values.astype(dtype)

    def field_axes(self, axes: Axes) -> Mapping[str, Axes]:
        return {"values": axes}

    def multiply(
        self,
        x: Float[Array, "*batch inputs"],
        dtype: DTypeLike,
        axes: Axes | None = None,
        result: DTypeLike | None = None,
    ) -> Float[Array, "*batch outputs"]:
        return product(x, self.values, dtype, axes, result)

    def cast(self, dtype: DTypeLike) -> Matrix:
        return self.dense(dtype)

    def tiled(self) -> Matrix:
        outputs = self.shape[-1]
        if outputs > _MAX_UNTILED_WIDTH and outputs % _TILE_WIDTH == 0:
            return TiledMatrix(to_tiles(self.values, _TILE_WIDTH))
        return self.values


def as_matrix(matrix: Matrix) -> AbstractMatrix:
    """A matrix with its methods: an array becomes a `DenseMatrix`."""
    return matrix if isinstance(matrix, AbstractMatrix) else DenseMatrix(matrix)


_TILE_WIDTH = 64  # Columns of a tile.
_MAX_UNTILED_WIDTH = 128  # XLA's CPU library reads matrices up to this width in place.


class TiledMatrix(AbstractMatrix):
    """A matrix in tiles of its columns: the layout a CPU reads fastest for few rows.

    **Fields:**

    - `tiles`: the columns, `width` at a time.
    """

    tiles: Float[Array, "*layer tile inputs width"]

    @property
    def shape(self) -> tuple[int, ...]:
        return jax.eval_shape(from_tiles, self.tiles).shape

    @property
    def bits(self) -> int:
        return 8 * self.tiles.dtype.itemsize

    def dense(self, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
        return from_tiles(self.tiles).astype(dtype)

    def field_axes(self, axes: Axes) -> Mapping[str, Axes]:
        return {"tiles": part_axes(axes, REPLICATED, -2, REPLICATED)}

    def multiply(
        self,
        x: Float[Array, "*batch inputs"],
        dtype: DTypeLike,
        axes: Axes | None = None,
        result: DTypeLike | None = None,
    ) -> Float[Array, "*batch outputs"]:
        del axes  # Only a decoder on one device has tiles.
        return product(x, self.tiles, dtype, None, result)

    def cast(self, dtype: DTypeLike) -> Matrix:
        return TiledMatrix(self.tiles.astype(dtype))


class Int8Matrix(AbstractMatrix):
    """A frozen matrix in 8 bits with a scale for each output.

        W[i, o] = values[i, o] · scale[o],   scale[o] = max_i |W[i, o]| / 127

    **Fields:**

    - `values`: integers from -127 to 127.
    - `scale`: one float32 for each output.
    """

    values: Int8[Array, "*layer inputs outputs"]
    scale: Float32[Array, "*layer outputs"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def bits(self) -> int:
        return 8

    def dense(self, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
        values = self.values.astype(jnp.float32)
        return (values * self.scale[..., None, :]).astype(dtype)

    def field_axes(self, axes: Axes) -> Mapping[str, Axes]:
        return {"values": axes, "scale": part_axes(axes, -1)}

    def multiply(
        self,
        x: Float[Array, "*batch inputs"],
        dtype: DTypeLike,
        axes: Axes | None = None,
        result: DTypeLike | None = None,
    ) -> Float[Array, "*batch outputs"]:
        # 8 bits are exact in every dtype; the scale is applied to the float32 result.
        y = product(x, self.values, dtype, axes)
        y = y * jnp.broadcast_to(self.scale, y.shape)
        return y if result is None else y.astype(result)

    def values_and_scale(
        self, dtype: DTypeLike
    ) -> tuple[Num[Array, "*layer inputs outputs"], Float[Array, "*layer outputs"]]:
        del dtype
        return self.values, self.scale


def to_int8(weight: Float[Array, "*layer inputs outputs"]) -> Int8Matrix:
    """A weight quantized to 8 bits, with a scale for each output."""
    return Int8Matrix(*quantize_int8(weight, axis=-2))


class LowRankMatrix(AbstractMatrix):
    """A frozen matrix with a trained low-rank adapter (LoRA, arXiv:2106.09685).

        x W + (alpha / rank) · (x A) B

    The two are never added up, neither to train nor to decode: the adapter is small,
    and a sum in 16 bits would round most of it away.

    **Fields:**

    - `base`: the frozen matrix `W`.
    - `a`, `b`: the trained factors `A` and `B`.
    - `alpha`: scales the adapter.
    """

    base: Matrix
    a: Float[Array, "*layer inputs rank"]
    b: Float[Array, "*layer rank outputs"]
    alpha: float = eqx.field(static=True)

    @property
    def rank(self) -> int:
        """The number of columns of `A`."""
        return self.a.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        return as_matrix(self.base).shape

    @property
    def bits(self) -> int:
        return as_matrix(self.base).bits

    @property
    def expands(self) -> bool:
        return as_matrix(self.base).expands

    def dense(self, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
        a, b = self.a.astype(jnp.float32), self.b.astype(jnp.float32)
        adapter = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        base = as_matrix(self.base).dense(jnp.float32)
        return (base + self.alpha / self.rank * adapter).astype(dtype)

    def field_axes(self, axes: Axes) -> Mapping[str, Axes]:
        return {
            "base": axes,
            "a": part_axes(axes, -2, REPLICATED),
            "b": part_axes(axes, REPLICATED, -1),
        }

    def multiply(
        self,
        x: Float[Array, "*batch inputs"],
        dtype: DTypeLike,
        axes: Axes | None = None,
        result: DTypeLike | None = None,
    ) -> Float[Array, "*batch outputs"]:
        parts = self.field_axes(axes) if axes is not None else {}
        inner = product(x, self.a, dtype, parts.get("a"))
        adapted = product(inner, self.b, dtype, parts.get("b"))
        base = as_matrix(self.base).multiply(x, dtype, axes)
        y = base + self.alpha / self.rank * adapted
        return y if result is None else y.astype(result)

    def cast(self, dtype: DTypeLike) -> Matrix:
        base, a, b = as_matrix(self.base).cast(dtype), self.a, self.b
        return LowRankMatrix(base, a.astype(dtype), b.astype(dtype), self.alpha)

    def tiled(self) -> Matrix:
        return self.map_base(lambda base: base.tiled())

    def map_base(self, function: Callable[[AbstractMatrix], Matrix]) -> Matrix:
        base = as_matrix(self.base).map_base(function)
        return dataclasses.replace(self, base=base)

    def trainable(self) -> PyTree[bool]:
        frozen = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda x: (x.a, x.b), frozen, (True, True))
