"""Prefill of a batch of prompts, in blocks of columns.

Prompts are as wide as the longest of a data set. Cost follows the longest of the batch,
and copies of a prompt's cache follow its own length.
"""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..policy import AbstractPolicy, empty_cache, Past, prefill
from ..types import Prompt
from ._blocks import block_columns, copy_block


def pad_prompts(prompts: Prompt) -> Prompt:
    """Prompts whose width is a whole number of blocks, if it is more than one."""
    width = prompts.tokens.shape[1]
    if width <= block_columns():
        return prompts
    padding = -width % block_columns()
    return Prompt(jnp.pad(prompts.tokens, ((0, 0), (0, padding))), prompts.length)


def prefill_batch(policy: AbstractPolicy, prompts: Prompt) -> PyTree:
    """The prompts' caches, stacked on axis 1.

    **Arguments:**

    - `policy`: computes them.
    - `prompts`: as `pad_prompts` returns them; their last tokens may be left out.
    """
    count, width = prompts.tokens.shape
    size = block_columns()
    if width <= size:
        return jax.vmap(ft.partial(prefill, policy), out_axes=1)(prompts)
    empty = lambda x: jnp.repeat(x[:, None], count, axis=1)
    column = jnp.arange(width)

    def one(positions, visible, tokens, cache):
        return policy.extend(tokens, positions, Past(cache, visible))[1]

    def add(block: Int[Array, ""], cache: PyTree) -> PyTree:
        start = block * size
        tokens = jax.lax.dynamic_slice_in_dim(prompts.tokens, start, size, axis=1)
        positions = start + jnp.arange(size, dtype=jnp.int32)
        every = jax.vmap(
            ft.partial(one, positions, (column < start)[None]), (0, 1), out_axes=1
        )
        return policy.write(cache, every(tokens, cache), start)

    longest = jnp.max(prompts.length).astype(jnp.int32) - 1
    start = jax.tree.map(empty, empty_cache(policy, width))
    return jax.lax.fori_loop(0, -(-longest // size), add, start)


def copy_prompts(
    policy: AbstractPolicy,
    caches: PyTree,
    context: PyTree,
    chosen: Bool[Array, " slot"],
    prompt: Int[Array, " slot"],
    lengths: Int[Array, " slot"],
    width: int,
) -> PyTree:
    """The slots' caches, with those of their prompts in the chosen slots.

    **Arguments:**

    - `policy`: to which the caches belong.
    - `caches`, `context`: stacked over slots, and over prompts, on axis 1.
    - `chosen`: slots.
    - `prompt`: of each slot.
    - `lengths`: how many columns of it are copied, at least.
    - `width`: columns of both.
    """

    def copy_one(carry):
        pending, caches = carry
        slot = jnp.argmax(pending).astype(jnp.int32)
        copied = slot, prompt[slot], lengths[slot], width
        return pending.at[slot].set(False), _copy(policy, caches, context, *copied)

    # One slice for each slot: a `where` over all would move every cache.
    return jax.lax.while_loop(
        lambda carry: jnp.any(carry[0]), copy_one, (chosen, caches)
    )[1]


def _copy(
    policy: AbstractPolicy,
    caches: PyTree,
    context: PyTree,
    slot: Int[Array, ""],
    prompt: Int[Array, ""],
    length: Int[Array, ""],
    width: int,
) -> PyTree:
    if width <= block_columns():
        put = lambda all, prompts: all.at[:, slot].set(prompts[:, prompt])
        return jax.tree.map(put, caches, context)

    def add(block: Int[Array, ""], caches: PyTree) -> PyTree:
        both = (width, width), (block, block), (prompt, slot)
        return copy_block(policy, context, caches, *both)

    return jax.lax.fori_loop(0, -(-length // block_columns()), add, caches)
