"""Prefill of a batch of prompts, in blocks of columns.

Prompts are as wide as the longest of a data set, and cost follows the longest of the
batch. A slot copies the first columns of its prompt, which attention reads in place,
and reads the others in blocks where they are.
"""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ...policy import AbstractPolicy, empty_cache, Past, prefill
from ...sharding import spmd
from ...types import Prompt
from ._blocks import block_columns, first_columns


class PromptCache(eqx.Module):
    """Keys and values of prompts, stacked over them on axis 1.

    **Fields:**

    - `first`: the first columns.
    - `every`: all of them; `None` if the first ones are all.
    - `width`: how many there are.
    """

    first: PyTree
    every: PyTree | None
    width: int = eqx.field(static=True)

    @staticmethod
    def of(policy: AbstractPolicy, prompts: Prompt) -> "PromptCache":
        """Computes them.

        **Arguments:**

        - `policy`: what computes them.
        - `prompts`: as `pad_prompts` returns them; their last tokens may be left out.
        """
        every, width = _prefill_batch(policy, prompts), prompts.tokens.shape[1]
        first = 2 * block_columns()
        # A GPU's kernel reads any range of columns in place.
        in_place = width <= first or spmd.platform() == "gpu"
        if in_place or not policy.reads_pages:
            return PromptCache(every, None, width)
        return PromptCache(first_columns(policy, every, first, width), every, width)

    def past(
        self, first: PyTree, prompt: Int[Array, ""], length: Int[Array, ""]
    ) -> list[Past]:
        """What one slot's token attends to.

        **Arguments:**

        - `first`: the first columns of its prompt.
        - `prompt`: which one that is.
        - `length`: how many of its columns are seen.
        """
        visible = (jnp.arange(self.width) < length)[None]
        if self.every is None:
            return [Past(first, visible)]
        size = block_columns()
        blocks = self.width // size
        pages = prompt * blocks + jnp.arange(2, blocks, dtype=jnp.int32)
        return [
            Past(first, visible[:, : 2 * size]),
            Past(self.every, visible[:, 2 * size :], pages),
        ]

    def copy(
        self, slots: PyTree, chosen: Bool[Array, " slot"], prompt: Int[Array, " slot"]
    ) -> PyTree:
        """The slots' first columns, with those of their prompts in the chosen slots.

        **Arguments:**

        - `slots`: stacked on axis 1.
        - `prompt`: of each slot.
        """

        def copy_one(carry):
            pending, slots = carry
            slot = jnp.argmax(pending).astype(jnp.int32)
            put = lambda slots, first: slots.at[:, slot].set(first[:, prompt[slot]])
            return pending.at[slot].set(False), jax.tree.map(put, slots, self.first)

        # One slice for each slot: a `where` over all would move every cache.
        return jax.lax.while_loop(
            lambda carry: jnp.any(carry[0]), copy_one, (chosen, slots)
        )[1]

    def insert(self, new: "PromptCache", place: Int[Array, " new"]) -> "PromptCache":
        """With the caches of other prompts in some places.

        **Arguments:**

        - `new`: of equally wide prompts.
        - `place`: of each of them; those out of bounds are left out.
        """
        put = lambda old, new: old.at[:, place].set(new, mode="drop")
        return jax.tree.map(put, self, new)


def pad_prompts(prompts: Prompt) -> Prompt:
    """Prompts whose width is a whole number of blocks, if it is more than one."""
    width = prompts.tokens.shape[1]
    if width <= block_columns():
        return prompts
    padding = -width % block_columns()
    return Prompt(jnp.pad(prompts.tokens, ((0, 0), (0, padding))), prompts.length)


def _prefill_batch(policy: AbstractPolicy, prompts: Prompt) -> PyTree:
    """The prompts' caches, stacked on axis 1."""
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
