"""Estimators in which long rows count for more: their statistics are over tokens."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import masked
from ..types import Rewards
from ._statistics import Advantages, check_group, subtract_baseline, subtract_mean


class ReinforcePlusPlus(eqx.Module):
    """Rewards whitened over all tokens of the batch.

        x = r, or with `group_baseline` x = r - mean of the group
        A = (x - mean) / √(var + eps)
        mean = Σ n x / N,   var = Σ n (x - mean)² / (N - 1),   N = Σ n

    where `n` is the length of a row. This is verl's `reinforce_plus_plus` without a
    discount (gamma = 1), and `reinforce_plus_plus_baseline`: a row's tokens then all
    have one return, so lengths are all that whitening over tokens needs. The KL
    penalty of the paper goes into the reward, as a component.

    **Fields:**

    - `group_baseline`: subtract the mean of the group first. The mean over tokens is
        subtracted all the same, so a group of equal rewards need not get 0.
    - `eps`: keeps a nearly flat batch finite.

    **Raises:** `ValueError` for a group of one with `group_baseline`.

    Source: REINFORCE++, arXiv:2501.03262.
    """

    group_baseline: bool = eqx.field(static=True, default=False)
    eps: float | Float[Array, ""] = 1e-8

    def __call__(self, rewards: Rewards) -> Advantages:
        x, valid = rewards.total, rewards.valid
        if self.group_baseline:
            check_group(rewards, "ReinforcePlusPlus(group_baseline=True)")
            x = subtract_mean(x, valid, 1)
        tokens = masked.fill(rewards.lengths.astype(x.dtype), valid)
        count = jnp.sum(tokens)
        mean = jnp.sum(tokens * masked.fill(x, valid)) / jnp.maximum(count, 1)
        deviation = subtract_baseline(x, mean, valid, (0, 1))
        variance = jnp.sum(tokens * deviation**2) / jnp.maximum(count - 1, 1)
        return deviation * jax.lax.rsqrt(variance + self.eps)


def opo(rewards: Rewards) -> Advantages:
    """A = r - Σ n r / Σ n, over the members of each group, where n is a row's length.

    The baseline of least variance, if a row's squared gradient grows with its length.

    **Raises:** `ValueError` for a group of one.

    Source: OPO, arXiv:2505.23585.
    """
    check_group(rewards, "opo")
    r, valid = rewards.total, rewards.valid
    tokens = masked.fill(rewards.lengths.astype(r.dtype), valid)
    paid = jnp.sum(tokens * masked.fill(r, valid), axis=1, keepdims=True)
    count = jnp.sum(tokens, axis=1, keepdims=True)
    return subtract_baseline(r, paid / jnp.maximum(count, 1), valid, 1)
