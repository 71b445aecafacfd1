"""Keys and values of the rows that are decoded, by column.

All slots write their newest keys and values to one column: a write is one slice. These
recent columns are a ring of their own, which attention reads in place. Before a block
of them is overwritten, each row that is so long copies it to a page of a pool that the
slots share. Short rows neither read nor write what a long horizon needs, and memory is
what rows have sampled, not what they might: in a pool that is too small the last rows
start again, with the same tokens, when their turn comes.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ...policy import AbstractPolicy, empty_cache, Past
from ...sharding import spmd
from ._blocks import block_columns, copy_to_page, join_pages


class SlotColumns(NamedTuple):
    """Columns of keys and values that slots hold.

    **Fields:**

    - `recent`: of each slot.
    - `older`: of all slots together, in pages of a block.
    - `pages`: the most that one row may need.
    """

    recent: int
    older: int
    pages: int

    @staticmethod
    def of(time: int, slots: int, cache_tokens: int | None = None) -> "SlotColumns":
        """For rows of at most `time` tokens.

        **Arguments:**

        - `time`: the horizon, tokens.
        - `slots`: rows that are decoded at a time.
        - `cache_tokens`: as in `RolloutConfig`.

        !!! example

            ```python
            assert rollout.SlotColumns.of(100, slots=8).recent == 100
            ```
        """
        block = block_columns()
        # A GPU's kernel reads any range of columns in place.
        in_place = spmd.platform() == "gpu" and cache_tokens is None
        recent = time if in_place else min(time, 2 * block)
        if recent == time:
            return SlotColumns(recent, 0, 0)
        # A block moves when its first column is as old as the ring is long.
        pages = -(-(time - recent + block) // block)
        every = pages * slots
        if cache_tokens is not None:
            every = min(every, cache_tokens // block)
        if every < pages:
            raise ValueError(
                "rollout: the slots of a shard must hold at least one row of "
                f"max_completion_length={time} tokens, which takes {pages * block} "
                f"besides the last {recent}. Received cache_tokens={cache_tokens} for "
                "each shard: raise it, or leave it out."
            )
        return SlotColumns(recent, every * block, pages)


class Seen(NamedTuple):
    """Which columns a slot's token attends to."""

    recent: Bool[Array, "slot column"]
    older: Bool[Array, "slot older"] | None


class SlotCache(eqx.Module):
    """Keys and values of the slots' completions.

    **Fields:**

    - `recent`: a ring of the last columns; slots are on axis 1.
    - `pool`: pages of older columns, on axis 1; `None` if the recent ones are all.
    - `pages`: those of each slot's row, in order.
    - `columns`: how many there are.
    """

    recent: PyTree
    pool: PyTree | None
    pages: Int[Array, "slot page"]
    columns: SlotColumns = eqx.field(static=True)

    @staticmethod
    def empty(policy: AbstractPolicy, slots: int, columns: SlotColumns) -> "SlotCache":
        """Never read before it is written."""

        def zeros(count: int, columns: int) -> PyTree:
            repeat = lambda x: jnp.repeat(x[:, None], count, axis=1)
            return jax.tree.map(repeat, empty_cache(policy, columns))

        block = block_columns()
        pool = zeros(columns.older // block, block) if columns.older else None
        pages = jnp.zeros((slots, columns.pages), jnp.int32)
        return SlotCache(zeros(slots, columns.recent), pool, pages, columns)

    @property
    def has_older(self) -> bool:
        return self.pool is not None

    @property
    def may_run_out(self) -> bool:
        """Whether the pool may be too small for the rows that are decoded."""
        return self.columns.older < self.pages.size * block_columns()

    def seen(self, iteration: Int[Array, ""], age: Int[Array, " slot"]) -> Seen:
        """The columns of each slot's own row, the last `age` ones."""
        recent, block = self.columns.recent, block_columns()
        age = age[:, None]
        # The token itself is not in the cache yet: its column holds what it replaces.
        distance = (iteration - jnp.arange(recent, dtype=jnp.int32)) % recent
        seen = (distance > 0) & (distance <= age)
        if not self.has_older:
            return Seen(seen, None)
        # By the iteration that wrote a column: older ones come before `end`, and the
        # first page begins with the block of the row's first column.
        end = iteration - iteration % block - recent + block
        first = iteration - age
        column = jnp.arange(self.columns.pages * block, dtype=jnp.int32)
        column = first - first % block + column
        older = (column >= first) & (column < end)
        return Seen(seen & (distance <= iteration - end), older)

    def past(
        self,
        policy: AbstractPolicy,
        recent: PyTree,
        seen: Seen,
        pages: Int[Array, " page"],
    ) -> list[Past]:
        """What one slot's token attends to.

        **Arguments:**

        - `recent`, `seen`, `pages`: of that slot.
        """
        past = [Past(recent, seen.recent[None])]
        if seen.older is None:
            return past
        if policy.reads_pages:
            return [Past(self.pool, seen.older[None], pages), *past]
        older = join_pages(policy, self.pool, pages)
        return [Past(older, seen.older[None]), *past]

    def move_block(
        self,
        policy: AbstractPolicy,
        iteration: Int[Array, ""],
        row: Int[Array, " slot"],
        age: Int[Array, " slot"],
    ) -> tuple["SlotCache", Bool[Array, " slot"]]:
        """Copies the block that is overwritten from `iteration` on to pages.

        The first rows are served first, so that the first of all is never without.

        **Arguments:**

        - `iteration`: a multiple of a block's columns; else nothing is copied.
        - `row`: of each slot.
        - `age`: tokens of each row so far; 0 for an idle slot.

        **Returns:** the cache, and the slots for whose rows there is no page.
        """
        recent, block = self.columns.recent, block_columns()
        pages = self.columns.older // block
        slot = jnp.arange(row.shape[0], dtype=jnp.int32)
        moved = iteration - recent
        first = iteration - age
        # Elsewhere than at the beginning of a block nothing moves.
        asks = (first < moved + block) & (iteration % block == 0)
        held = jnp.where(asks, (moved - (first - first % block)) // block, 0)
        order = jnp.argsort(jnp.where(asks, row, jnp.iinfo(row.dtype).max))
        asked = jnp.cumsum(jnp.where(asks, held + 1, 0)[order])
        gets = asks & (asked <= pages)[jnp.argsort(order)]
        kept = gets[:, None] & (jnp.arange(self.columns.pages) < held[:, None])
        taken = jnp.zeros(pages, bool)
        taken = taken.at[jnp.where(kept, self.pages, pages)].set(True, mode="drop")
        free = jnp.argsort(taken, stable=True).astype(jnp.int32)
        page = free[jnp.cumsum(gets, dtype=jnp.int32) - 1]
        place = slot, jnp.where(gets, held, self.columns.pages)
        table = self.pages.at[place].set(page, mode="drop")
        pool = self._copied(policy, iteration, gets, page)
        return SlotCache(self.recent, pool, table, self.columns), asks & ~gets

    def with_own_pages(self) -> "SlotCache":
        """With as many pages for every slot as a row may need, in a pool of all."""
        slots, each = self.pages.shape
        pages = jnp.arange(slots * each, dtype=jnp.int32).reshape(slots, each)
        return SlotCache(self.recent, self.pool, pages, self.columns)

    def move_again(
        self,
        policy: AbstractPolicy,
        iteration: Int[Array, ""],
        age: Int[Array, " slot"],
    ) -> "SlotCache":
        """Copies a block to the pages that it has since it was moved.

        **Arguments:**

        - `iteration`: at which that was, a multiple of a block's columns.
        - `age`: tokens of each row at that time, or less than 1.
        """
        block, first = block_columns(), iteration - age
        moved = iteration - self.columns.recent
        held = (moved - (first - first % block)) // block
        has = (first < moved + block) & (age > 0)
        held = jnp.clip(held, 0, self.columns.pages - 1)
        page = jnp.take_along_axis(self.pages, held[:, None], axis=1)[:, 0]
        pool = self._copied(policy, iteration, has, page)
        return SlotCache(self.recent, pool, self.pages, self.columns)

    def _copied(
        self,
        policy: AbstractPolicy,
        iteration: Int[Array, ""],
        chosen: Bool[Array, " slot"],
        page: Int[Array, " slot"],
    ) -> PyTree:
        """The pool with the block that is overwritten from `iteration` on."""
        recent = self.columns.recent
        start = iteration % recent // block_columns()

        def copy_one(carry):
            pending, pool = carry
            slot = jnp.argmax(pending).astype(jnp.int32)
            streams = slot, page[slot]
            pool = copy_to_page(policy, self.recent, pool, recent, start, streams)
            return pending.at[slot].set(False), pool

        return jax.lax.while_loop(
            lambda carry: jnp.any(carry[0]), copy_one, (chosen, self.pool)
        )[1]

    def write(
        self, policy: AbstractPolicy, written: PyTree, iteration: Int[Array, ""]
    ) -> "SlotCache":
        """With the newest column of every slot, which `extend` returned for a token."""
        column = iteration % self.columns.recent
        recent = policy.write(self.recent, written, column)
        return SlotCache(recent, self.pool, self.pages, self.columns)
