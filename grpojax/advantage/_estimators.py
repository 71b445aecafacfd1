"""Phase 3, advantage: Rewards -> Advantages. The only baseline is the group or batch.

A row whose reward does not apply (`valid` false) stands outside every statistic and
gets 0, and so does a group whose rewards are all equal: exactly, not to rounding.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import masked
from ..types import Rewards


Advantages = Float[Array, "prompt group"]


def _check_group(rewards: Rewards, name: str):
    if rewards.total.shape[1] < 2:
        raise ValueError(
            f"advantage.{name} compares the members of a group, so a group needs at "
            f"least 2 of them: a group of one has no baseline. Received group="
            f"{rewards.total.shape[1]}. Raise it, or use `advantage.batch_normalized`."
        )


def _flat(total: Advantages, valid, axis) -> Array:
    """Where all valid rewards along an axis are equal: max == min, free of rounding."""
    high = jnp.max(jnp.where(valid, total, -jnp.inf), axis=axis, keepdims=True)
    low = jnp.min(jnp.where(valid, total, jnp.inf), axis=axis, keepdims=True)
    return jnp.broadcast_to(high <= low, total.shape)


def _centered(rewards: Rewards, axis) -> Advantages:
    total, valid = rewards.total, rewards.valid
    centered = masked.fill(total - masked.mean(total, valid, axis), valid)
    return jnp.where(_flat(total, valid, axis), 0, centered)


class group_normalized(eqx.Module):
    """A = (r - mean) / (std + eps), over the members of each group.

    **Fields:**

    - `eps`: keeps a nearly flat group finite; 1e-4 in TRL, 1e-6 in verl and Tunix.
    - `ddof`: 1 for the sample's standard deviation (TRL, verl, Tunix), 0 for the
        population's.

    **Raises:** `ValueError` for a group of one.

    Source: GRPO, arXiv:2402.03300, section 4.1.2.
    """

    eps: float | Float[Array, ""] = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        _check_group(rewards, "group_normalized")
        spread = masked.std(rewards.total, rewards.valid, axis=1, ddof=self.ddof)
        return _centered(rewards, axis=1) / (spread + self.eps)


def group_centered(rewards: Rewards) -> Advantages:
    """A = r - mean, over the members of each group.

    Leaves out the division that weighs easy and hard prompts more than others.

    **Raises:** `ValueError` for a group of one.

    Source: Dr. GRPO, arXiv:2503.20783.
    """
    _check_group(rewards, "group_centered")
    return _centered(rewards, axis=1)


class batch_normalized(eqx.Module):
    """A = (r - mean) / (std + eps), over the whole batch: REINFORCE with a baseline.

    **Fields:** as `group_normalized`.
    """

    eps: float | Float[Array, ""] = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        both = (0, 1)
        spread = masked.std(rewards.total, rewards.valid, both, ddof=self.ddof)
        return _centered(rewards, axis=both) / (spread + self.eps)
