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
    streams: tuple[Int[Array, ""], Int[Array, ""]] | None = None,
) -> PyTree:
    """The target with one block of the source's columns.

    **Arguments:**

    - `policy`: to which the caches belong.
    - `source`, `target`: caches, stacked over streams on axis 1.
    - `columns`: of both, multiples of a block.
    - `blocks`: the block that is read, and the one that is written.
    - `streams`: the same of streams; all of them, side by side, when `None`.
    """

    def copy(source: Array, target: Array, axis: int) -> Array:
        # An array may hold several columns in one element of that axis.
        size = source.shape[axis] * block_columns() // columns[0]
        sizes = list(source.shape)
        sizes[axis] = size
        places = []
        for block in blocks:
            place = [jnp.zeros_like(block)] * source.ndim
            place[axis] = block * size
            places.append(place)
        if streams is not None:
            sizes[1] = 1
            for place, stream in zip(places, streams, strict=True):
                place[1] = stream.astype(place[1].dtype)
        new = jax.lax.dynamic_slice(source, places[0], sizes)
        return jax.lax.dynamic_update_slice(target, new, places[1])

    return jax.tree.map(copy, source, target, _column_axes(policy))


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
