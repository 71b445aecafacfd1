"""Advantage estimators, Rewards -> Advantages, with the group or batch as baseline.

A row whose reward does not apply (`valid` false) is excluded from every statistic and
gets advantage 0. Where all rewards that a row is compared with are equal its advantage
is 0 as well: exactly, not up to rounding.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import masked
from ..types import FloatLike, Rewards
from ._statistics import Advantages, check_group, normalized, subtract_mean


_BATCH = (0, 1)


class GroupNormalized(eqx.Module):
    """Rewards normalized over the members of each group: GRPO's advantage.

        A = (r - mean) / (std + eps)

    **Fields:**

    - `eps`: bounds the advantages of a group whose std is nearly 0; 1e-4 in TRL, 1e-6
        in verl and Tunix.
    - `ddof`: 1 for the sample standard deviation (TRL, verl, Tunix), 0 for that of the
        population.

    **Raises:** `ValueError` for a group of one.

    Source: GRPO, arXiv:2402.03300, section 4.1.2.
    """

    eps: FloatLike = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "GroupNormalized")
        r, valid = rewards.total, rewards.valid
        return normalized(r, valid, 1, eps=self.eps, ddof=self.ddof)


def group_centered(rewards: Rewards) -> Advantages:
    """Rewards minus the mean of their group: Dr. GRPO's advantage.

        A = r - mean

    There is no division by the std, which weighs easy and hard prompts more than
    others.

    **Raises:** `ValueError` for a group of one.

    Source: Dr. GRPO, arXiv:2503.20783.
    """
    check_group(rewards, "group_centered")
    return subtract_mean(rewards.total, rewards.valid, 1)


def leave_one_out(rewards: Rewards) -> Advantages:
    """Rewards minus the mean of the other members of their group: RLOO's advantage.

        A = r - mean of the others = n / (n - 1) · (r - mean)

    where `n` counts the rows whose reward applies; a row without others gets 0.

    **Raises:** `ValueError` for a group of one.

    Source: RLOO, arXiv:2402.14740.
    """
    check_group(rewards, "leave_one_out")
    r, valid = rewards.total, rewards.valid
    members = masked.count(valid, axis=1).astype(r.dtype)
    return subtract_mean(r, valid, 1) * (members / jnp.maximum(members - 1, 1))


def zero(rewards: Rewards) -> Advantages:
    """No advantage of any row: for an update by penalties alone, as a distillation."""
    return jnp.zeros_like(rewards.total)


class BatchNormalized(eqx.Module):
    """Rewards normalized over the batch: REINFORCE with a baseline.

        A = (r - mean) / (std + eps)

    **Fields:** as `GroupNormalized`.
    """

    eps: FloatLike = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        r, valid = rewards.total, rewards.valid
        return normalized(r, valid, _BATCH, eps=self.eps, ddof=self.ddof)


class BatchScaled(eqx.Module):
    """Rewards centered by their group and scaled by the batch: LitePPO's advantage.

        A = (r - mean of the group) / (std of the batch + eps)

    All prompts share one scale, so easy and hard ones keep their weights. Equals TRL's
    `scale_rewards="batch"`.

    **Fields:** as `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: LitePPO, arXiv:2508.08221.
    """

    eps: FloatLike = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "BatchScaled")
        r, valid = rewards.total, rewards.valid
        spread = masked.std(r, valid, _BATCH, ddof=self.ddof)
        return subtract_mean(r, valid, 1) / (spread + self.eps)


class BestOfGroup(eqx.Module):
    """The margin of the best member of each group; 0 for the other members.

        A = (best - second best) / (std + eps)

    Maximizes pass@k rather than pass@1; a tie for the best has advantage 0. Equals
    verl's `grpo_passk`.

    **Fields:** as `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: arXiv:2503.19595.
    """

    eps: FloatLike = 1e-6
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "BestOfGroup")
        r, valid = rewards.total, rewards.valid
        ranked, index = jax.lax.top_k(jnp.where(valid, r, -jnp.inf), 2)
        second = jnp.isfinite(ranked[:, 1:])  # One valid row has nobody to beat.
        lead = jnp.where(second, ranked[:, :1] - ranked[:, 1:], 0)
        spread = masked.std(r, valid, 1, ddof=self.ddof)
        best = jnp.arange(r.shape[1]) == index[:, :1]
        return jnp.where(best & valid, lead / (spread + self.eps), 0)


class DapoMix(eqx.Module):
    """A sum of the group's and the batch's normalized rewards.

        A = A_group + alpha · A_batch

    with `GroupNormalized` and `BatchNormalized`. The second term is nonzero in groups
    whose rewards are all equal.

    **Fields:**

    - `alpha`: the weight of the batch term.
    - `eps`, `ddof`: as in `GroupNormalized`, of both terms.

    **Raises:** `ValueError` for a group of one.

    Source: MLLM-JAX, which calls it `dapo`; the paper of that name (arXiv:2503.14476)
    has no such term.
    """

    alpha: FloatLike = 0.2
    eps: FloatLike = 1e-4
    ddof: int = eqx.field(static=True, default=0)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "DapoMix")
        r, valid = rewards.total, rewards.valid
        within = normalized(r, valid, 1, eps=self.eps, ddof=self.ddof)
        across = normalized(r, valid, _BATCH, eps=self.eps, ddof=self.ddof)
        return within + self.alpha * across


class Gdpo(eqx.Module):
    """Components normalized over their group, summed, and normalized over the batch.

        z[k] = (r[k] - mean[k]) / (std[k] + eps)     over each group
        s = Σ weight[k] · z[k]
        A = (s - mean) / (std + eps)                 over the batch

    A component counts by its weight, whatever its std. Components are read before
    weighting, so a shaping of the total has no effect. Equals TRL's
    `multi_objective_aggregation="normalize_then_sum"`.

    **Fields:** as `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: GDPO, arXiv:2601.05242.
    """

    eps: FloatLike = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "Gdpo")
        eps, ddof = self.eps, self.ddof
        total = jnp.zeros_like(rewards.total)
        for name, component in rewards.components.items():
            component = component.astype(total.dtype)
            applies = rewards.valid & ~jnp.isnan(component)
            z = normalized(component, applies, 1, eps=eps, ddof=ddof)
            total = total + rewards.weights[name] * z
        return normalized(total, rewards.valid, _BATCH, eps=eps, ddof=ddof)
