"""Blocks of columns of stacked caches, and copies of them."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..policy import AbstractPolicy, empty_cache


BLOCK = 64
"""Columns of a block: a CPU's products are fast from so many rows on, and a multiple of
the columns that a cache may store together."""


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
        size = source.shape[axis] * BLOCK // columns[0]
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


def _column_axes(policy: AbstractPolicy) -> PyTree[int]:
    """Which axis of each array of a stack of caches grows with the columns."""

    def axis(one, two) -> int:
        grows = [a != b for a, b in zip(one.shape, two.shape, strict=True)]
        return grows.index(True) + 1  # Behind the axis of streams.

    shapes = [
        jax.eval_shape(ft.partial(empty_cache, policy, columns))
        for columns in (2 * BLOCK, 4 * BLOCK)
    ]
    return jax.tree.map(axis, *shapes)
