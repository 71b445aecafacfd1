"""Row selection: Rewards -> mask of the rows of a batch that are trained on."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._checks import check_at_least
from ..types import Rewards, Trajectory
from ._statistics import equal, map_rows


def keep_all(rewards: Rewards) -> Bool[Array, "prompt group"]:
    """All rows that the reward phase keeps."""
    return rewards.keep


def nonzero_variance(rewards: Rewards) -> Bool[Array, "prompt group"]:
    """Rows of groups whose valid rewards have nonzero variance.

    DAPO's dynamic sampling at a static shape: the other groups have advantage 0 and are
    masked out of the loss and of its divisor. Variance is tested as max > min, free of
    rounding.

    Source: DAPO, arXiv:2503.14476, section 3.2.
    """
    return rewards.keep & ~equal(rewards.total, rewards.valid, 1)


class NonzeroVariancePrompts(eqx.Module):
    """Rows of the first `count` prompts whose rewards have nonzero variance.

    Roll out more prompts than `count`, so that this many are likely to be found. It is
    a mask: the loss is that of the smaller batch at the cost of the full one.
    `take_nonzero_variance` makes the batch itself smaller.

    **Fields:**

    - `count`: the number of prompts.

    **Raises:** `ValueError` if `count` is below 1.
    """

    count: int = eqx.field(static=True)

    def __check_init__(self):
        check_at_least("NonzeroVariancePrompts", 1, count=self.count)

    def __call__(self, rewards: Rewards) -> Bool[Array, "prompt group"]:
        rows = nonzero_variance(rewards)
        found = jnp.any(rows, axis=1)
        return rows & (found & (jnp.cumsum(found) <= self.count))[:, None]


def take_nonzero_variance(
    trajectory: Trajectory, rewards: Rewards, *, count: int
) -> tuple[Trajectory, Rewards]:
    """A batch of `count` prompts, those with nonzero variance first.

    Oversampling at a static shape: the update computes `count` prompts and no more. If
    fewer have nonzero variance the batch is filled up with others, which
    `nonzero_variance` then masks out of the loss. Statistics over the batch, as in
    `BatchNormalized`, are those of the smaller one.

    **Arguments:**

    - `trajectory`, `rewards`: of at least `count` prompts.
    - `count`: the number of prompts of the new batch.

    **Returns:** both, for `count` prompts; the order is stable.

    **Raises:** `ValueError` if `count` is below 1 or above the number of prompts.
    """
    check_at_least("take_nonzero_variance", 1, count=count)
    prompts = rewards.total.shape[0]
    if count > prompts:
        raise ValueError(
            "take_nonzero_variance(count) is at most the number of prompts. Received "
            f"count={count} for {prompts} prompts: roll out more, or lower it."
        )
    found = jnp.any(nonzero_variance(rewards), axis=1).astype(jnp.int32)
    _, prompt = jax.lax.top_k(found, count)
    return trajectory.take(prompt), map_rows(lambda x: x[prompt], rewards)
