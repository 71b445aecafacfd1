"""Shapings: (Trajectory, Rewards) -> Rewards."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from ..types import FloatLike, Rewards, Trajectory


def zero_truncated(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """Sets the total of truncated rows to 0; they are trained on."""
    total = jnp.where(trajectory.terminated, rewards.total, 0)
    return dataclasses.replace(rewards, total=total)


def drop_truncated(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """Masks truncated rows out of the loss, but not out of their group's statistics.

    Equals TRL's `mask_truncated_completions`; the divisor of the loss excludes them.
    """
    return dataclasses.replace(rewards, keep=rewards.keep & trajectory.terminated)


def exclude_truncated(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """Masks truncated rows out of the loss and out of all statistics."""
    return dataclasses.replace(
        rewards,
        valid=rewards.valid & trajectory.terminated,
        keep=rewards.keep & trajectory.terminated,
    )


class ClipTotal(eqx.Module):
    """The total, clipped to [low, high].

    **Fields:**

    - `low`, `high`: the bounds.
    """

    low: FloatLike
    high: FloatLike

    def __call__(self, trajectory: Trajectory, rewards: Rewards) -> Rewards:
        del trajectory
        total = jnp.clip(rewards.total, self.low, self.high)
        return dataclasses.replace(rewards, total=total)
