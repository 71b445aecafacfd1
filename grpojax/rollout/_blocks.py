"""Blocks of columns of stacked caches, and copies of them."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..policy import AbstractPolicy, empty_cache
from ..sharding import spmd


def block_columns() -> int:
    """Columns of a block.

    A CPU's products are fast from so many rows on, and a multiple of the columns that a
    cache may store together. Elsewhere arrays are padded to more.
    """
    return 64 if spmd.platform() == "cpu" else 128


def copy_block(
    policy: AbstractPolicy,
    source: PyTree,
    target: PyTree,
    columns: tuple[int, int],
    blocks: tuple[Int[Array, ""], Int[Array, ""]],
    streams: tuple[Int[Array, ""], Int[Array, ""]],
) -> PyTree:
    """The target with one block of the source's columns.

    **Arguments:**

    - `policy`: to which the caches belong.
    - `source`, `target`: caches, stacked over streams on axis 1.
    - `columns`: of both, multiples of a block.
    - `blocks`, `streams`: where the block is read, and where it is written.
    """

    def copy(source: Array, target: Array, axis: int) -> Array:
        # An array may hold several columns in one element of that axis.
        size = source.shape[axis] * block_columns() // columns[0]
        sizes = list(source.shape)
        sizes[1], sizes[axis] = 1, size
        places = []
        for block, stream in zip(blocks, streams, strict=True):
            place = [jnp.zeros_like(block)] * source.ndim
            place[1], place[axis] = stream.astype(block.dtype), block * size
            places.append(place)
        new = jax.lax.dynamic_slice(source, places[0], sizes)
        return jax.lax.dynamic_update_slice(target, new, places[1])

    return jax.tree.map(copy, source, target, _column_axes(policy))


def first_columns(
    policy: AbstractPolicy, caches: PyTree, count: int, width: int
) -> PyTree:
    """The first columns of caches with `width` columns, stacked on axis 1."""

    def take(x: Array, axis: int) -> Array:
        return jax.lax.slice_in_dim(x, 0, x.shape[axis] * count // width, axis=axis)

    return jax.tree.map(take, caches, _column_axes(policy))


def join_pages(
    policy: AbstractPolicy, pool: PyTree, pages: Int[Array, " page"]
) -> PyTree:
    """The cache whose columns are in these pages, which `pool` has on axis 1."""

    def join(x: Array, axis: int) -> Array:
        found = jnp.moveaxis(x[:, pages], 1, axis - 1)
        return found.reshape(*x.shape[:1], *x.shape[2:axis], -1, *x.shape[axis + 1 :])

    return jax.tree.map(join, pool, _column_axes(policy))


def _column_axes(policy: AbstractPolicy) -> PyTree[int]:
    """Which axis of each array of a stack of caches grows with the columns."""

    def axis(one, two) -> int:
        grows = [a != b for a, b in zip(one.shape, two.shape, strict=True)]
        return grows.index(True) + 1  # Behind the axis of streams.

    shapes = [
        jax.eval_shape(ft.partial(empty_cache, policy, columns))
        for columns in (2 * block_columns(), 4 * block_columns())
    ]
    return jax.tree.map(axis, *shapes)
