"""Groups that are named row by row, not laid out along an axis."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..types import Rewards
from ._statistics import Advantages, map_rows


class ByGroupId(eqx.Module):
    """Any estimator, for rows whose groups are numbered and need not be of one size.

    Rows are dealt into a grid `[groups size]` by their ids, the estimator sees the grid
    (its empty cells are not `valid`), and each row takes its own number back.

    **Fields:**

    - `estimator`: Rewards -> Advantages.
    - `ids`: the group of each row, from 0, in any order.
    - `groups`: how many groups there may be.
    - `size`: the largest group; as many as there are rows when `None`, which is always
        enough.

    **Returns**, when called with rewards of as many rows as there are ids, in any
    layout: their advantages in that layout. A valid row that fits nowhere, since its id
    is not below `groups` or its group is full, gets NaN: `update.improve` takes no step
    on it.

    **Raises:** `ValueError` if there are not as many rows as ids.

    !!! example

        ```python
        flat = Rewards.of(jnp.array([1.0, 10.0, 3.0, 2.0, 20.0])[:, None])
        ids = jnp.array([0, 1, 0, 0, 1])
        ByGroupId(leave_one_out, ids, groups=2)(flat)  # -1.5, -10, 1.5, 0, 10
        ```
    """

    estimator: Callable[[Rewards], Advantages]
    ids: Int[Array, "..."]
    groups: int = eqx.field(static=True, kw_only=True)
    size: int | None = eqx.field(static=True, kw_only=True, default=None)

    def __check_init__(self):
        for name, value in (("groups", self.groups), ("size", self.size)):
            if value is not None and value < 1:
                raise ValueError(
                    f"advantage.ByGroupId: {name} must be at least 1. Received {value}."
                )

    def __call__(self, rewards: Rewards) -> Advantages:
        rows = rewards.total.size
        if self.ids.size != rows:
            raise ValueError(
                "advantage.ByGroupId needs the group of every row. Received "
                f"{self.ids.size} ids for {rows} rows."
            )
        size = rows if self.size is None else self.size
        cells = self.groups * size
        cell = self._cells(size)

        def deal(x: Array) -> Array:
            empty = jnp.zeros(cells, x.dtype)
            dealt = empty.at[cell].set(x.reshape(-1), mode="drop")
            return dealt.reshape(self.groups, size)

        grid = map_rows(deal, rewards)
        own = self.estimator(grid).reshape(-1).at[cell]
        taken = own.get(mode="fill", fill_value=jnp.nan).reshape(rewards.total.shape)
        return jnp.where(rewards.valid, taken, 0)

    def _cells(self, size: int) -> Int[Array, " row"]:
        """Where in the flat grid each row goes; past its end where it fits nowhere."""
        ids = self.ids.reshape(-1)
        row = jnp.arange(ids.size)
        before = (ids[:, None] == ids) & (row[:, None] > row)
        place = jnp.sum(before, axis=1, dtype=ids.dtype)
        fits = (ids >= 0) & (ids < self.groups) & (place < size)
        return jnp.where(fits, ids * size + place, self.groups * size)
