"""Prefill of a batch of prompts, in blocks of columns.

Prompts are as wide as the longest of a data set. Cost follows the longest of the batch,
and copies of a prompt's cache follow its own length.
"""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..policy import AbstractPolicy, empty_cache, Past, prefill
from ..types import Prompt


_BLOCK = 64
"""Columns of a block: a CPU's products are fast from so many rows on, and a multiple of
the columns that a cache may store together."""


def pad_prompts(prompts: Prompt) -> Prompt:
    """Prompts whose width is a whole number of blocks, if it is more than one."""
    width = prompts.tokens.shape[1]
    if width <= _BLOCK:
        return prompts
    return Prompt(
        jnp.pad(prompts.tokens, ((0, 0), (0, -width % _BLOCK))), prompts.length
    )


def prefill_batch(policy: AbstractPolicy, prompts: Prompt) -> PyTree:
    """The prompts' caches, stacked on axis 1.

    **Arguments:**

    - `policy`: computes them.
    - `prompts`: as `pad_prompts` returns them; their last tokens may be left out.
    """
    count, width = prompts.tokens.shape
    if width <= _BLOCK:
        return jax.vmap(ft.partial(prefill, policy), out_axes=1)(prompts)
    empty = lambda x: jnp.repeat(x[:, None], count, axis=1)
    column = jnp.arange(width)

    def one(positions, visible, tokens, cache):
        return policy.extend(tokens, positions, Past(cache, visible))[1]

    def add(block: Int[Array, ""], cache: PyTree) -> PyTree:
        start = block * _BLOCK
        tokens = jax.lax.dynamic_slice_in_dim(prompts.tokens, start, _BLOCK, axis=1)
        positions = start + jnp.arange(_BLOCK, dtype=jnp.int32)
        every = jax.vmap(
            ft.partial(one, positions, (column < start)[None]), (0, 1), out_axes=1
        )
        return policy.write(cache, every(tokens, cache), start)

    longest = jnp.max(prompts.length).astype(jnp.int32) - 1
    start = jax.tree.map(empty, empty_cache(policy, width))
    return jax.lax.fori_loop(0, -(-longest // _BLOCK), add, start)


def copy_prompt(
    policy: AbstractPolicy,
    caches: PyTree,
    context: PyTree,
    slot: Int[Array, ""],
    prompt: Int[Array, ""],
    width: int,
    length: Int[Array, ""],
) -> PyTree:
    """The slots' caches with a prompt's cache copied into one of them.

    **Arguments:**

    - `policy`: to which the caches belong.
    - `caches`, `context`: stacked over slots, and over prompts, on axis 1.
    - `slot`, `prompt`: from where to where.
    - `width`: columns of both.
    - `length`: how many of them are copied, at least.
    """
    if width <= _BLOCK:
        put = lambda all, prompts: all.at[:, slot].set(prompts[:, prompt])
        return jax.tree.map(put, caches, context)
    axes = _column_axes(policy, width)

    def add(block: Int[Array, ""], caches: PyTree) -> PyTree:
        def put(all, prompts, axis):
            # An array may hold several columns in one element of that axis.
            size = all.shape[axis] * _BLOCK // width
            at = [jnp.zeros_like(slot)] * all.ndim
            at[axis], at[1] = block * size, prompt
            sizes = list(all.shape)
            sizes[axis], sizes[1] = size, 1
            new = jax.lax.dynamic_slice(prompts, at, sizes)
            at[1] = slot
            return jax.lax.dynamic_update_slice(all, new, at)

        return jax.tree.map(put, caches, context, axes)

    return jax.lax.fori_loop(0, -(-length // _BLOCK), add, caches)


def _column_axes(policy: AbstractPolicy, width: int) -> PyTree[int]:
    """Which axis of each array of a stack of caches grows with the columns."""

    def axis(one, two) -> int:
        grows = [a != b for a, b in zip(one.shape, two.shape, strict=True)]
        return grows.index(True) + 1  # Behind the axis of slots.

    shapes = [
        jax.eval_shape(ft.partial(empty_cache, policy, columns))
        for columns in (width, 2 * width)
    ]
    return jax.tree.map(axis, *shapes)
