"""Selection: Rewards -> keep, which rows of the batch are trained on."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..types import Rewards, Trajectory
from ._statistics import equal, map_rows


def keep_all(rewards: Rewards) -> Bool[Array, "prompt group"]:
    """Every row that the reward phase keeps."""
    return rewards.keep


def nonzero_variance(rewards: Rewards) -> Bool[Array, "prompt group"]:
    """Rows of groups whose valid rewards differ; equal ones have no gradient to give.

    DAPO's dynamic sampling at a static shape: the weight then counts kept tokens alone.
    Equality is tested as max == min, which rounding cannot blur.

    Source: DAPO, arXiv:2503.14476, section 3.2.
    """
    return rewards.keep & ~equal(rewards.total, rewards.valid, 1)


class FirstNonzeroVariance(eqx.Module):
    """`nonzero_variance` rows of the first `count` prompts that have any.

    Rolling out more prompts than `count` makes it likely that this many are found. It
    is a mask: the loss is that of the smaller batch, and the update computes as much
    as without it. `take_nonzero_variance` makes the batch itself smaller.

    **Fields:**

    - `count`: prompts.

    **Raises:** `ValueError` if `count` is below 1.
    """

    count: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count(self.count)

    def __call__(self, rewards: Rewards) -> Bool[Array, "prompt group"]:
        rows = nonzero_variance(rewards)
        found = jnp.any(rows, axis=1)
        return rows & (found & (jnp.cumsum(found) <= self.count))[:, None]


def take_nonzero_variance(
    trajectory: Trajectory, rewards: Rewards, *, count: int
) -> tuple[Trajectory, Rewards]:
    """The groups of `count` prompts, those with `nonzero_variance` rows first.

    Oversampling at a static shape: what comes back is a batch of `count` prompts, so
    the update computes that much and no more. If fewer have informative rows the batch
    is filled up with others, which `nonzero_variance` then keeps out of the loss. Statistics
    over the batch, as in `BatchNormalized`, are those of the smaller one.

    **Arguments:**

    - `trajectory`, `rewards`: of more prompts.
    - `count`: prompts to go on with.

    **Returns:** both, for `count` prompts; among equals, in their order.

    **Raises:** `ValueError` if `count` is below 1, or more than there are.
    """
    _check_count(count)
    prompts = rewards.total.shape[0]
    if count > prompts:
        raise ValueError(
            "take_nonzero_variance takes its prompts from those of the trajectory. Received "
            f"count={count} for {prompts} prompts: roll out more, or lower it."
        )
    found = jnp.any(nonzero_variance(rewards), axis=1).astype(jnp.int32)
    _, chosen = jax.lax.top_k(found, count)
    return trajectory.take(chosen), map_rows(lambda x: x[chosen], rewards)


def _check_count(count: int):
    if count < 1:
        raise ValueError(f"`count` of prompts must be at least 1. Received {count}.")
