"""Keys and values of the rows that are decoded, by column.

All slots write their newest keys and values to one column: a write is one slice. The
recent columns are a ring of their own, which attention reads in place; a block of them
moves to the older ones before it is overwritten, if any row is so long. Short rows
neither read nor write what a long horizon needs.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..policy import AbstractPolicy, empty_cache
from ..sharding import spmd
from ._blocks import BLOCK, copy_block


RECENT = 2 * BLOCK


def slot_columns(time: int) -> tuple[int, int]:
    """Recent and older columns of keys and values that a slot holds.

    **Arguments:**

    - `time`: the horizon, tokens.

    !!! example

        ```python
        assert sum(rollout.slot_columns(100)) == 100
        ```
    """
    # A GPU's kernel reads any range of columns in place.
    recent = time if spmd.platform() == "gpu" else min(time, RECENT)
    if recent == time:
        return recent, 0
    # A block moves when its first column is as old as the ring is long.
    return recent, -(-(time - recent + BLOCK) // BLOCK) * BLOCK


class Seen(NamedTuple):
    """Which columns a slot's token attends to."""

    recent: Bool[Array, "slot column"]
    older: Bool[Array, "slot older"] | None


class SlotCache(eqx.Module):
    """Keys and values of the slots' completions; slots are on axis 1.

    **Fields:**

    - `recent`: a ring of the last columns.
    - `older`: a ring of the blocks before those; `None` if the recent ones are all.
    - `columns`: of both rings.
    """

    recent: PyTree
    older: PyTree | None
    columns: tuple[int, int] = eqx.field(static=True)

    @staticmethod
    def empty(policy: AbstractPolicy, time: int, slots: int) -> "SlotCache":
        """For rows of at most `time` tokens; never read before it is written."""

        def zeros(columns: int) -> PyTree:
            repeat = lambda x: jnp.repeat(x[:, None], slots, axis=1)
            return jax.tree.map(repeat, empty_cache(policy, columns))

        recent, older = slot_columns(time)
        return SlotCache(
            zeros(recent), zeros(older) if older else None, (recent, older)
        )

    @property
    def has_older(self) -> bool:
        return self.older is not None

    def seen(self, iteration: Int[Array, ""], age: Int[Array, " slot"]) -> Seen:
        """The columns of each slot's own row, the last `age` ones."""
        recent, older = self.columns
        age = age[:, None]
        # The token itself is not in the cache yet: its column holds what it replaces.
        distance = (iteration - jnp.arange(recent, dtype=jnp.int32)) % recent
        seen = (distance > 0) & (distance <= age)
        if not self.has_older:
            return Seen(seen, None)
        begin = iteration - iteration % BLOCK - recent + BLOCK
        last = begin - 1
        number = jnp.arange(older, dtype=jnp.int32)
        older_distance = iteration - last + (last - number) % older
        return Seen(seen & (distance <= iteration - begin), older_distance <= age)

    def move_block(
        self, policy: AbstractPolicy, iteration: Int[Array, ""]
    ) -> "SlotCache":
        """With the block that is overwritten from `iteration` on among the older ones.

        **Arguments:**

        - `iteration`: a multiple of a block's columns.
        """
        recent, older = self.columns
        start = iteration % recent // BLOCK
        end = (iteration - recent) % older // BLOCK
        moved = copy_block(policy, self.recent, self.older, self.columns, (start, end))
        return SlotCache(self.recent, moved, self.columns)

    def write(
        self, policy: AbstractPolicy, written: PyTree, iteration: Int[Array, ""]
    ) -> "SlotCache":
        """With the newest column of every slot, which `extend` returned for a token."""
        column = iteration % self.columns[0]
        recent = policy.write(self.recent, written, column)
        return SlotCache(recent, self.older, self.columns)
