"""Groups of unequal size, given by an id for each row instead of an axis."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._checks import check_at_least, check_parts
from ..types import Rewards
from ._statistics import map_rows, TokenAdvantages


class ByGroupId(eqx.Module):
    """An estimator applied to groups of unequal size, given by group ids.

    Rows are scattered into a padded grid `[groups size]` by their ids, the estimator
    is called on the grid (empty cells are not `valid`), and the advantages are gathered
    back into the layout of the rows.

    **Fields:**

    - `estimator`: Rewards -> Advantages.
    - `ids`: the group of each row, from 0, in any order.
    - `groups`: the number of groups.
    - `size`: the capacity of a group, rows; the number of rows when `None`, which
        always suffices.

    **Returns:** when called with rewards of as many rows as ids, in any layout: their
    advantages in that layout. A valid row whose id is not below `groups`, or whose
    group is full, gets NaN: `update.improve` then skips the update.

    **Raises:** `ValueError` if the numbers of rows and ids differ, or for `groups` or
    `size` below 1; `TypeError` for a class in place of an estimator.

    !!! example

        ```python
        flat = Rewards.of(jnp.array([1.0, 10.0, 3.0, 2.0, 20.0])[:, None])
        ids = jnp.array([0, 1, 0, 0, 1])
        ByGroupId(leave_one_out, ids, groups=2)(flat)  # -1.5, -10, 1.5, 0, 10
        ```
    """

    estimator: Callable[[Rewards], TokenAdvantages]
    ids: Int[Array, "..."]
    groups: int = eqx.field(static=True, kw_only=True)
    size: int | None = eqx.field(static=True, kw_only=True, default=None)

    def __check_init__(self):
        check_parts("ByGroupId", estimator=self.estimator)
        check_at_least("ByGroupId", 1, groups=self.groups, size=self.size)

    def __call__(self, rewards: Rewards) -> TokenAdvantages:
        rows = rewards.total.size
        if self.ids.size != rows:
            raise ValueError(
                "`ByGroupId.ids` has the group of every row. Received "
                f"{self.ids.size} ids for {rows} rows: pass one id for each."
            )
        size = rows if self.size is None else self.size
        cells = self.groups * size
        cell = self._cells(size)

        def scatter(x: Array) -> Array:
            rest = x.shape[rewards.total.ndim :]  # Of turns or tokens.
            grid = jnp.zeros((cells, *rest), x.dtype)
            grid = grid.at[cell].set(x.reshape(-1, *rest), mode="drop")
            return grid.reshape(self.groups, size, *rest)

        advantages = self.estimator(map_rows(scatter, rewards))
        rest = advantages.shape[2:]
        advantages = advantages.reshape(cells, *rest)
        advantages = advantages.at[cell].get(mode="fill", fill_value=jnp.nan)
        valid = rewards.valid.reshape(*rewards.valid.shape, *(1,) * len(rest))
        return jnp.where(valid, advantages.reshape(*rewards.total.shape, *rest), 0)

    def _cells(self, size: int) -> Int[Array, " row"]:
        """Each row's index in the flattened grid; past its end if there is no room."""
        ids = self.ids.reshape(-1)
        row = jnp.arange(ids.size)
        before = (ids[:, None] == ids) & (row[:, None] > row)
        place = jnp.sum(before, axis=1, dtype=ids.dtype)
        fits = (ids >= 0) & (ids < self.groups) & (place < size)
        return jnp.where(fits, ids * size + place, self.groups * size)
