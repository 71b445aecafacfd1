"""Estimators whose statistics are over tokens, so that rows count by length."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import masked
from ..types import FloatLike, Rewards
from ._statistics import Advantages, check_group, subtract_baseline, subtract_mean


class ReinforcePlusPlus(eqx.Module):
    """Rewards whitened over all tokens of the batch.

        x = r, or with `group_baseline` x = r - mean of the group
        A = (x - mean) / √(var + eps)
        mean = Σ n x / N,   var = Σ n (x - mean)² / (N - 1),   N = Σ n

    where `n` is the length of a row, tokens. Equals verl's `reinforce_plus_plus` at
    gamma = 1, and `reinforce_plus_plus_baseline`: all tokens of a row then have one
    return, so whitening over tokens needs lengths only. The KL penalty of the paper is
    a component of the reward: `update.KLReward`.

    **Fields:**

    - `group_baseline`: subtract the mean of the group first. The mean over tokens is
        subtracted as well, so a group of equal rewards need not get 0.
    - `eps`: bounds the advantages of a batch whose variance is nearly 0.

    **Raises:** `ValueError` for a group of one with `group_baseline`.

    Source: REINFORCE++, arXiv:2501.03262.
    """

    group_baseline: bool = eqx.field(static=True, default=False)
    eps: FloatLike = 1e-8

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
    """Rewards minus the length-weighted mean of their group: OPO's advantage.

        A = r - Σ n r / Σ n

    where `n` is the length of a row: the baseline of least variance if the squared norm
    of a row's gradient is proportional to its length.

    **Raises:** `ValueError` for a group of one.

    Source: OPO, arXiv:2505.23585.
    """
    check_group(rewards, "opo")
    r, valid = rewards.total, rewards.valid
    tokens = masked.fill(rewards.lengths.astype(r.dtype), valid)
    total = jnp.sum(tokens * masked.fill(r, valid), axis=1, keepdims=True)
    count = jnp.sum(tokens, axis=1, keepdims=True)
    return subtract_baseline(r, total / jnp.maximum(count, 1), valid, 1)
