"""Statistics that the estimators share."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import masked
from ..types import Rewards


Advantages = Float[Array, "prompt group"]
TokenAdvantages = Float[Array, "prompt group *time"]
RowMask = Bool[Array, "prompt group"]


def check_group(rewards: Rewards, name: str):
    """Raises a `ValueError` for groups of one."""
    size = rewards.total.shape[1]
    if size < 2:
        raise ValueError(
            f"advantage.{name} compares the members of a group, so a group has at "
            f"least 2: a group of one has no baseline. Received group={size}. Raise "
            "it, or use `advantage.BatchNormalized`."
        )


def equal(values: Advantages, valid: RowMask, axis: int | tuple[int, ...]) -> RowMask:
    """Mask where all valid values along an axis are equal: max == min, exactly."""
    high = jnp.max(jnp.where(valid, values, -jnp.inf), axis=axis, keepdims=True)
    low = jnp.min(jnp.where(valid, values, jnp.inf), axis=axis, keepdims=True)
    return jnp.broadcast_to(high <= low, values.shape)


def subtract_baseline(
    values: Advantages, baseline: Array, valid: RowMask, axis
) -> Advantages:
    """values - baseline; exactly 0 where all values are equal or not valid."""
    centered = masked.fill(values - baseline, valid)
    return jnp.where(equal(values, valid, axis), 0, centered)


def subtract_mean(values: Advantages, valid: RowMask, axis) -> Advantages:
    """values - mean along an axis."""
    return subtract_baseline(values, masked.mean(values, valid, axis), valid, axis)


def normalized(
    values: Advantages, valid: RowMask, axis, *, eps, ddof: int
) -> Advantages:
    """(values - mean) / (std + eps) along an axis."""
    spread = masked.std(values, valid, axis, ddof=ddof)
    return subtract_mean(values, valid, axis) / (spread + eps)


def map_rows(change: Callable[[Array], Array], rewards: Rewards) -> Rewards:
    """Maps a function over all arrays of rewards that have rows; weights have none."""
    rows = dataclasses.replace(rewards, weights={})
    return dataclasses.replace(jax.tree.map(change, rows), weights=rewards.weights)
