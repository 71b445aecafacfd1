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
from ._blocks import BLOCK, copy_block


def pad_prompts(prompts: Prompt) -> Prompt:
    """Prompts whose width is a whole number of blocks, if it is more than one."""
    width = prompts.tokens.shape[1]
    if width <= BLOCK:
        return prompts
    return Prompt(
        jnp.pad(prompts.tokens, ((0, 0), (0, -width % BLOCK))), prompts.length
    )


def prefill_batch(policy: AbstractPolicy, prompts: Prompt) -> PyTree:
    """The prompts' caches, stacked on axis 1.

    **Arguments:**

    - `policy`: computes them.
    - `prompts`: as `pad_prompts` returns them; their last tokens may be left out.
    """
    count, width = prompts.tokens.shape
    if width <= BLOCK:
        return jax.vmap(ft.partial(prefill, policy), out_axes=1)(prompts)
    empty = lambda x: jnp.repeat(x[:, None], count, axis=1)
    column = jnp.arange(width)

    def one(positions, visible, tokens, cache):
        return policy.extend(tokens, positions, Past(cache, visible))[1]

    def add(block: Int[Array, ""], cache: PyTree) -> PyTree:
        start = block * BLOCK
        tokens = jax.lax.dynamic_slice_in_dim(prompts.tokens, start, BLOCK, axis=1)
        positions = start + jnp.arange(BLOCK, dtype=jnp.int32)
        every = jax.vmap(
            ft.partial(one, positions, (column < start)[None]), (0, 1), out_axes=1
        )
        return policy.write(cache, every(tokens, cache), start)

    longest = jnp.max(prompts.length).astype(jnp.int32) - 1
    start = jax.tree.map(empty, empty_cache(policy, width))
    return jax.lax.fori_loop(0, -(-longest // BLOCK), add, start)


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
    if width <= BLOCK:
        put = lambda all, prompts: all.at[:, slot].set(prompts[:, prompt])
        return jax.tree.map(put, caches, context)

    def add(block: Int[Array, ""], caches: PyTree) -> PyTree:
        both = (width, width), (block, block), (prompt, slot)
        return copy_block(policy, context, caches, *both)

    return jax.lax.fori_loop(0, -(-length // BLOCK), add, caches)
