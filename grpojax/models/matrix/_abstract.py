"""The contract of a matrix of weights that is stored in a form of its own."""

import abc
import functools as ft
from collections.abc import Callable, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Num, PyTree

from ...sharding import spmd
from ...types import Axes
from ._product import product


class AbstractMatrix(eqx.Module):
    """A matrix `W` of weights, `[inputs outputs]`, stored in a form of its own.

    A policy's tree holds it in the place of an array. Its arrays have the axes of
    layers, and of experts, in front: a scan over layers slices them, and gives each
    layer a matrix of two axes.

    A kind of one's own implements `shape`, `bits`, `dense` and `field_axes`. It is then
    multiplied, adapted, merged, sharded and kept in checkpoints as the library's kinds
    are, and is frozen. Everything else may be overridden for speed.

    !!! example

        ```python
        class Float8(models.AbstractMatrix):
            values: jax.Array

            bits = 8
            shape = property(lambda self: self.values.shape)

            def dense(self, dtype):
                return self.values.astype(dtype)

            def field_axes(self, axes):
                return {"values": axes}
        ```
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that it represents, `*layer inputs outputs`."""

    @property
    @abc.abstractmethod
    def bits(self) -> int:
        """Bits of each frozen weight, without those that several weights share."""

    @abc.abstractmethod
    def dense(self, dtype: DTypeLike) -> Float[Array, "*layer inputs outputs"]:
        """The array that the matrix represents."""

    @abc.abstractmethod
    def field_axes(self, axes: Axes) -> Mapping[str, Axes]:
        """The logical axes of each field's array, or of a field that is a matrix.

        **Arguments:**

        - `axes`: those of the array that the matrix represents.
        """

    def multiply(
        self,
        x: Float[Array, "*batch inputs"],
        dtype: DTypeLike,
        axes: Axes | None = None,
        result: DTypeLike | None = None,
    ) -> Float[Array, "*batch outputs"]:
        """x W, with a gradient of `x`; by default with the dense array, made for it.

        The gradient makes the dense array again: it is never stored. The matrix has no
        gradient by default.

        **Arguments:**

        - `x`: the rows.
        - `dtype`: of the operands; products accumulate in float32.
        - `axes`: the logical axes of the array that the matrix represents.
        - `result`: dtype of the result; float32 by default.
        """
        result = None if result is None else jnp.dtype(result).name
        settings = _Settings(jnp.dtype(dtype).name, axes, result, x.dtype.name)
        return jnp.asarray(_frozen_product(settings, x, self))

    @property
    def expands(self) -> bool:
        """Whether a product makes the dense array, as it does by default."""
        return type(self).multiply is AbstractMatrix.multiply

    def values_and_scale(
        self, dtype: DTypeLike
    ) -> tuple[
        Num[Array, "*layer inputs outputs"], Float[Array, "*layer outputs"] | None
    ]:
        """An array, and what multiplies its outputs; experts are multiplied by these.

        **Arguments:**

        - `dtype`: of the operands of the product.
        """
        return self.dense(dtype), None

    def cast(self, dtype: DTypeLike) -> "Matrix":
        """The matrix for many products in `dtype`; by default as it is stored."""
        del dtype
        return self

    def tiled(self) -> "Matrix":
        """The matrix in tiles, if it is one that a CPU multiplies faster so."""
        return self

    def map_base(self, function: "Callable[[AbstractMatrix], Matrix]") -> "Matrix":
        """`function` of the matrix, or with an adapter of the base alone."""
        return function(self)

    def trainable(self) -> PyTree[bool]:
        """The matrix's tree with, for every array, whether it is trained."""
        return jax.tree.map(lambda _: False, self)

    def logical_axes(self, axes: Axes) -> PyTree[Axes]:
        """The matrix's tree with the logical axes of every array.

        **Arguments:**

        - `axes`: those of the array that the matrix represents.
        """

        def of_array(path: tuple, _: object) -> Axes:
            matrix, known = self, axes
            for key in path:
                known = matrix.field_axes(known)[key.name]
                matrix = getattr(matrix, key.name)
            return known

        return jax.tree_util.tree_map_with_path(of_array, self)


Matrix = Float[Array, "*layer inputs outputs"] | AbstractMatrix
"""Any matrix: an array, or a module that represents one."""


REPLICATED = (None, 1)
"""The name and the pieces of an axis that is never sharded."""


def part_axes(axes: Axes, *last: int | tuple[str | None, int]) -> Axes:
    """The logical axes of a matrix with others in the place of the last two.

    **Arguments:**

    - `axes`: of the matrix.
    - `last`: each an axis of the matrix by its number, or a name and pieces.
    """
    known = list(zip(*axes, strict=True))
    chosen = [known[x] if isinstance(x, int) else x for x in last]
    return Axes(*zip(*known[:-2], *chosen, strict=True))


class _Settings(NamedTuple):
    dtype: str
    axes: Axes | None
    result: str | None
    x_dtype: str


# A rule of its own: differentiated through, it would store each layer's dense array.
@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _frozen_product(settings: _Settings, x: Array, matrix: AbstractMatrix) -> Array:
    weight = _dense_for(x, settings, matrix)
    return product(x, weight, settings.dtype, settings.axes, settings.result)


def _dense_for(x: Array, settings: _Settings, matrix: AbstractMatrix) -> Array:
    """The dense array, of arrays that are all-gathered in their stored form."""
    # Of arrays that depend on nothing in a loop, such as that over tokens, the compiler
    # would compute those of all layers before it, and keep them.
    _, matrix = jax.lax.optimization_barrier((x, matrix))
    if settings.axes is not None:
        axes = matrix.logical_axes(settings.axes)
        matrix = jax.tree.map(spmd.all_gather_weight, matrix, axes)
    return matrix.dense(settings.dtype)


def _forward(settings: _Settings, x: Array, matrix: AbstractMatrix):
    return _frozen_product(settings, x, matrix), matrix


def _backward(settings: _Settings, matrix: AbstractMatrix, cotangent: Array):
    weight, axes = _dense_for(cotangent, settings, matrix), settings.axes
    if axes is not None:
        axes = Axes(axes.names[::-1], axes.pieces[::-1])
    d_x = product(cotangent, weight.T, settings.dtype, axes, settings.x_dtype)
    return d_x, None


_frozen_product.defvjp(_forward, _backward)
