"""What the estimators share."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import masked
from ..types import Rewards


Advantages = Float[Array, "prompt group"]
Rows = Bool[Array, "prompt group"]


def check_group(rewards: Rewards, name: str):
    """Raises a `ValueError` for groups of one."""
    size = rewards.total.shape[1]
    if size < 2:
        raise ValueError(
            f"advantage.{name} compares the members of a group, so a group needs at "
            f"least 2 of them: a group of one has no baseline. Received group={size}. "
            "Raise it, or use `advantage.BatchNormalized`."
        )


def equal(values: Advantages, valid: Rows, axis: int | tuple[int, ...]) -> Rows:
    """Where all valid values along an axis are one: max == min, free of rounding."""
    high = jnp.max(jnp.where(valid, values, -jnp.inf), axis=axis, keepdims=True)
    low = jnp.min(jnp.where(valid, values, jnp.inf), axis=axis, keepdims=True)
    return jnp.broadcast_to(high <= low, values.shape)


def subtract_baseline(
    values: Advantages, baseline: Array, valid: Rows, axis
) -> Advantages:
    """values - baseline; exactly 0 where all values are equal, and where not valid."""
    centered = masked.fill(values - baseline, valid)
    return jnp.where(equal(values, valid, axis), 0, centered)


def subtract_mean(values: Advantages, valid: Rows, axis) -> Advantages:
    """values - mean along an axis."""
    return subtract_baseline(values, masked.mean(values, valid, axis), valid, axis)


def normalized(values: Advantages, valid: Rows, axis, *, eps, ddof: int) -> Advantages:
    """(values - mean) / (std + eps) along an axis."""
    spread = masked.std(values, valid, axis, ddof=ddof)
    return subtract_mean(values, valid, axis) / (spread + eps)


def map_rows(change: Callable[[Array], Array], rewards: Rewards) -> Rewards:
    """Changes every array of rewards that has rows; the weights have none."""
    rows = dataclasses.replace(rewards, weights={})
    return dataclasses.replace(jax.tree.map(change, rows), weights=rewards.weights)
