"""Attention masks that know which blocks have nothing to attend to."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ...sharding import spmd


_T = TypeVar("_T")


class BlockSize(NamedTuple):
    """Tokens and columns of a block of the mask."""

    tokens: int
    columns: int


def block_size(tokens: int) -> BlockSize:
    """The size of a block for a chunk of `tokens`.

    A CPU's smallest fast product is 64 rows wide, and it may store 64 columns together;
    a TPU's matrix unit takes 128.
    """
    size = {"cpu": 64, "tpu": 256}.get(spmd.platform(), 128)
    return BlockSize(min(tokens, size), size)


class BlockMask(eqx.Module):
    """The mask of a chunk's columns, and the blocks of it that are not empty.

    **Fields:**

    - `mask`: the columns that each token attends to, padded to whole blocks of tokens;
        one row is shared by all tokens.
    - `blocks`: for each block of tokens, the blocks of columns that any of its tokens
        attends to, in front of the others; `None` if all columns are read at once.
    - `count`: how many those are, in the member of a batch that has most.
    - `tokens`: of the chunk.
    - `size`: of a block.
    """

    mask: Bool[Array, "#chunk column"]
    blocks: Int[Array, "token_block column_block"] | None
    count: Int[Array, " token_block"] | None
    tokens: int = eqx.field(static=True)
    size: BlockSize = eqx.field(static=True)

    @property
    def rows(self) -> Bool[Array, "#chunk column"]:
        """The mask without padding."""
        return self.mask[: self.tokens]

    @property
    def columns(self) -> int:
        return self.mask.shape[1]

    @property
    def width(self) -> int:
        """Columns of a block; all of them if there is one block."""
        return self.columns if self.blocks is None else self.size.columns

    def fold(self, block: Int[Array, ""], function: Callable[..., _T], carry: _T) -> _T:
        """Folds the nonempty blocks of columns of one block of tokens.

        **Arguments:**

        - `block`: of tokens.
        - `function`: maps the first column, the mask, and the carry to the next carry.
        - `carry`: the initial one.
        """
        if self.blocks is None or self.count is None:
            return function(jnp.zeros_like(block), self.rows_of(block), carry)

        def step(index: Int[Array, ""], carry: _T) -> _T:
            assert self.blocks is not None
            first = self.blocks[block, index] * self.width
            # The last block is moved to the left until it ends with the columns, and
            # masks those of the block before it.
            start = jnp.minimum(first, self.columns - self.width)
            rows = self.rows_of(block)
            mask = jax.lax.dynamic_slice_in_dim(rows, start, self.width, axis=1)
            mask = mask & (start + jnp.arange(self.width) >= first)
            return function(start, mask, carry)

        return jax.lax.fori_loop(0, self.count[block], step, carry)

    def rows_of(self, block: Int[Array, ""]) -> Bool[Array, "#token column"]:
        """The mask of one block of tokens."""
        if self.mask.shape[0] == 1:
            return self.mask
        height = min(self.size.tokens, self.mask.shape[0])
        return jax.lax.dynamic_slice_in_dim(self.mask, block * height, height, axis=0)


def block_mask(
    mask: Bool[Array, "#chunk column"],
    tokens: int,
    width: int | None = None,
    *,
    slides: bool = False,
) -> BlockMask:
    """The mask of a chunk of tokens, with its nonempty blocks.

    Under `vmap` these are the blocks that are nonempty for any member of the batch, so
    that one loop visits them for all.

    **Arguments:**

    - `mask`: the columns that each token attends to.
    - `tokens`: of the chunk.
    - `width`: columns of a page, where the cache is in pages.
    - `slides`: whether some layers attend to a window. Members of a batch attend to
        different pages then, and each reads its own; where one token reads two blocks
        at once, they are not read while nobody attends to any of them.
    """
    size, most = block_size(tokens), 1
    rows, columns = mask.shape
    if width is not None:
        size = size._replace(columns=width)
    elif tokens == 1:
        most = 2  # Two blocks at once are faster than a loop over them.
    # Padded, so that no block of tokens is clamped into another one's rows.
    if rows > 1:
        mask = jnp.pad(mask, ((0, -rows % size.tokens), (0, 0)))
    if columns <= most * size.columns:
        if not slides or tokens > 1 or columns < 2 * size.columns:
            return BlockMask(mask, None, None, tokens, size)
        size = size._replace(columns=columns)
    wide = jnp.pad(mask, ((0, 0), (0, -columns % size.columns)))
    height = 1 if rows == 1 else size.tokens
    shape = (wide.shape[0] // height, height, -1, size.columns)
    nonempty = jnp.any(wide.reshape(shape), axis=(1, 3))
    has_own = slides and width is not None
    nonempty = nonempty if has_own else _any_of_batch(nonempty)
    blocks = jnp.argsort(~nonempty, axis=1, stable=True).astype(jnp.int32)
    count = jnp.sum(nonempty, axis=1, dtype=jnp.int32)
    count = _most_of_batch(count) if has_own else count
    if rows == 1:
        token_blocks = -(-tokens // size.tokens)
        blocks = jnp.broadcast_to(blocks, (token_blocks, blocks.shape[1]))
        count = jnp.broadcast_to(count, (token_blocks,))
    return BlockMask(mask, blocks, count, tokens, size)


@jax.custom_batching.custom_vmap
def _any_of_batch(x: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """`x`, or its disjunction over every axis that `vmap` adds."""
    return x


@_any_of_batch.def_vmap
def _any_over_axis(axis_size: int, is_batched: list[bool], x: Array):
    del axis_size
    # Called again for the next `vmap` outside.
    return (_any_of_batch(jnp.any(x, axis=0)) if is_batched[0] else x), False


@jax.custom_batching.custom_vmap
def _most_of_batch(x: Int[Array, "..."]) -> Int[Array, "..."]:
    """`x`, or its maximum over every axis that `vmap` adds."""
    return x


@_most_of_batch.def_vmap
def _most_over_axis(axis_size: int, is_batched: list[bool], x: Array):
    del axis_size
    return (_most_of_batch(jnp.max(x, axis=0)) if is_batched[0] else x), False
