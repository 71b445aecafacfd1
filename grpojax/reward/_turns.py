"""Rewards of single turns: their weighted totals, and a discount over turns."""

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import FloatLike, Rewards, Trajectory, TurnTotals


def turn_totals(
    trajectory: Trajectory,
    weights: Mapping[str, Float[Array, ""]],
    total: Float[Array, "prompt group"],
    others: Float[Array, "prompt group"],
) -> TurnTotals | None:
    """The weighted rewards of each turn; `None` for conversations of a single turn.

    **Arguments:**

    - `weights`: of the components.
    - `total`: of the conversations.
    - `others`: the part of it that the environment has not paid.
    """
    turns = trajectory.turns
    if turns is None:
        return None
    number = jnp.arange(turns.ends.shape[-1], dtype=jnp.int32)
    taken = (turns.ends > 0) | (number == 0)
    each = jnp.zeros(taken.shape, total.dtype)
    for name, reward in turns.rewards.items():
        if name in weights:
            weighted = weights[name] * reward.astype(total.dtype)
            each = each + jnp.where(jnp.isnan(weighted), 0, weighted)
    place = jnp.arange(trajectory.tokens.shape[-1], dtype=jnp.int32)
    ended = (turns.ends > 0)[..., None, :] & (
        turns.ends[..., None, :] <= place[:, None]
    )
    last = jnp.sum(taken, axis=-1, keepdims=True, dtype=jnp.int32) - 1
    of_token = jnp.minimum(jnp.sum(ended, axis=-1, dtype=jnp.int32), last)
    totals = TurnTotals(each, total, taken, of_token)
    return dataclasses.replace(totals, total=totals.with_last(others))


class DiscountTurns(eqx.Module):
    """The discounted sum of the rewards of turns, as a shaping.

        total = Σ discount^t · r[t],   t = 0, 1, ...

    A reward that is paid at the end alone is worth `discount^(turns - 1)` of itself:
    shorter conversations are better. Conversations of a single turn keep their total.

    **Fields:**

    - `discount`: of each turn after the first, between 0 and 1.

    !!! example

        ```python
        reward = Chain(WeightedSum({"correct": 1.0}), DiscountTurns(0.9))
        ```

    Source: `turn_discount` of AReaL's `MultiTurnWorkflow`.
    """

    discount: FloatLike

    def __call__(self, trajectory: Trajectory, rewards: Rewards) -> Rewards:
        del trajectory
        turns = rewards.turns
        if turns is None:
            return rewards
        each = turns.with_last(rewards.total - turns.sum)
        number = jnp.arange(each.shape[-1]).astype(each.dtype)
        each = each * jnp.asarray(self.discount, each.dtype) ** number
        total = jnp.sum(each, axis=-1)
        turns = dataclasses.replace(turns, total=each, sum=total)
        return dataclasses.replace(rewards, total=total, turns=turns)
