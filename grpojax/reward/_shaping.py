"""Shapings: what becomes of rewards that the environment has paid."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Rewards, Trajectory


def zero_truncated(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """A row that was cut short is paid nothing, and is trained on."""
    total = jnp.where(trajectory.terminated, rewards.total, 0)
    return dataclasses.replace(rewards, total=total)


def drop_truncated(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """A row that was cut short stands in its group's statistics, but not in the loss.

    This is TRL's `mask_truncated_completions`; the loss counts tokens after it.
    """
    return dataclasses.replace(rewards, keep=rewards.keep & trajectory.terminated)


def exclude_truncated(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """A row that was cut short counts nowhere: in no statistic, and not in the loss."""
    return dataclasses.replace(
        rewards,
        valid=rewards.valid & trajectory.terminated,
        keep=rewards.keep & trajectory.terminated,
    )


class ClipTotal(eqx.Module):
    """Bounds the total between `low` and `high`."""

    low: float | Float[Array, ""]
    high: float | Float[Array, ""]

    def __call__(self, trajectory: Trajectory, rewards: Rewards) -> Rewards:
        del trajectory
        total = jnp.clip(rewards.total, self.low, self.high)
        return dataclasses.replace(rewards, total=total)
