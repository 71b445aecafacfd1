"""Blocks of columns of stacked caches, and copies of them."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ...policy import AbstractPolicy, empty_cache
from ...sharding import spmd


def block_columns() -> int:
    """Columns of a block.

    A CPU's products are fast from so many rows on, and a multiple of the columns that a
    cache may store together. Elsewhere arrays are padded to more.
    """
    return 64 if spmd.platform() == "cpu" else 128


def copy_to_page(
    policy: AbstractPolicy,
    source: PyTree,
    pool: PyTree,
    columns: int,
    block: Int[Array, ""],
    streams: tuple[Int[Array, ""], Int[Array, ""]],
) -> PyTree:
    """The pool with one block of the source's columns in a page.

    **Arguments:**

    - `policy`: to which the caches belong.
    - `source`, `pool`: caches, and pages of one block, stacked on axis 1.
    - `columns`: of the source, a multiple of a block.
    - `block`: which one.
    - `streams`: the cache that it is in, and the page.
    """
    start, end = streams

    def copy(source: Array, pool: Array, axis: int) -> Array:
        # An array may hold several columns in one element of that axis, or in a page.
        size = source.shape[axis] * block_columns() // columns
        place, sizes = [jnp.zeros_like(block)] * source.ndim, list(source.shape)
        place[1], place[axis] = start.astype(block.dtype), block * size
        sizes[1], sizes[axis] = 1, size
        page = jax.lax.dynamic_slice(source, place, sizes)
        page = page.reshape(pool.shape[0], 1, *pool.shape[2:])
        return jax.lax.dynamic_update_slice_in_dim(pool, page, end, axis=1)

    pages, tree = jax.tree.flatten(pool)
    every = zip(
        jax.tree.leaves(source),
        pages,
        jax.tree.leaves(_column_axes(policy, 2 * block_columns())),
        strict=True,
    )
    return jax.tree.unflatten(tree, [copy(*each) for each in every])


def first_columns(
    policy: AbstractPolicy, caches: PyTree, count: int, width: int
) -> PyTree:
    """The first columns of caches with `width` columns, stacked on axis 1."""

    def take(x: Array, axis: int) -> Array:
        return jax.lax.slice_in_dim(x, 0, x.shape[axis] * count // width, axis=axis)

    return jax.tree.map(take, caches, _column_axes(policy, 2 * block_columns()))


def join_pages(
    policy: AbstractPolicy, pool: PyTree, pages: Int[Array, " page"]
) -> PyTree:
    """The cache whose columns are in these pages, which `pool` has on axis 1."""

    def join(x: Array, axis: int) -> Array:
        found = jnp.moveaxis(x[:, pages], 1, axis - 1)
        return found.reshape(*x.shape[:1], *x.shape[2:axis], -1, *x.shape[axis + 1 :])

    return jax.tree.map(join, pool, _column_axes(policy, block_columns() // 2))


def _column_axes(policy: AbstractPolicy, columns: int) -> PyTree[int]:
    """Which axis of each array of a stack of caches grows with the columns.

    A cache of one block may be stored in another way than one of several.
    """

    def axis(one, two) -> int:
        grows = [a != b for a, b in zip(one.shape, two.shape, strict=True)]
        return grows.index(True) + 1  # Behind the axis of streams.

    shapes = [
        jax.eval_shape(ft.partial(empty_cache, policy, count))
        for count in (columns, 2 * columns)
    ]
    return jax.tree.map(axis, *shapes)
