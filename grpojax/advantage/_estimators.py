"""Phase 3, advantage: Rewards -> Advantages. The only baseline is the group or batch.

A row whose reward does not apply (`valid` false) stands outside every statistic and
gets 0. Where all rewards that a row is compared with are equal it gets 0 as well:
exactly, not to rounding.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import masked
from ..types import Rewards
from ._statistics import Advantages, check_group, normalized, subtract_mean


Number = float | Float[Array, ""]
_BATCH = (0, 1)


class GroupNormalized(eqx.Module):
    """A = (r - mean) / (std + eps), over the members of each group.

    **Fields:**

    - `eps`: keeps a nearly flat group finite; 1e-4 in TRL, 1e-6 in verl and Tunix.
    - `ddof`: 1 for the sample's standard deviation (TRL, verl, Tunix), 0 for the
        population's.

    **Raises:** `ValueError` for a group of one.

    Source: GRPO, arXiv:2402.03300, section 4.1.2.
    """

    eps: Number = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "GroupNormalized")
        r, valid = rewards.total, rewards.valid
        return normalized(r, valid, 1, eps=self.eps, ddof=self.ddof)


def group_centered(rewards: Rewards) -> Advantages:
    """A = r - mean, over the members of each group.

    Leaves out the division that weighs easy and hard prompts more than others.

    **Raises:** `ValueError` for a group of one.

    Source: Dr. GRPO, arXiv:2503.20783.
    """
    check_group(rewards, "group_centered")
    return subtract_mean(rewards.total, rewards.valid, 1)


def leave_one_out(rewards: Rewards) -> Advantages:
    """A = r - mean of the other members of the group = n / (n - 1) · (r - mean).

    `n` counts the rows whose reward applies; a row without others gets 0.

    **Raises:** `ValueError` for a group of one.

    Source: RLOO, arXiv:2402.14740.
    """
    check_group(rewards, "leave_one_out")
    r, valid = rewards.total, rewards.valid
    members = masked.count(valid, axis=1).astype(r.dtype)
    return subtract_mean(r, valid, 1) * (members / jnp.maximum(members - 1, 1))


class BatchNormalized(eqx.Module):
    """A = (r - mean) / (std + eps), over the whole batch: REINFORCE with a baseline.

    **Fields:** as `GroupNormalized`.
    """

    eps: Number = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        r, valid = rewards.total, rewards.valid
        return normalized(r, valid, _BATCH, eps=self.eps, ddof=self.ddof)


class BatchScaled(eqx.Module):
    """A = (r - mean of the group) / (std of the batch + eps).

    One scale for all prompts: easy and hard ones keep their weights. This is TRL's
    `scale_rewards="batch"`.

    **Fields:** as `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: LitePPO, arXiv:2508.08221.
    """

    eps: Number = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "BatchScaled")
        r, valid = rewards.total, rewards.valid
        spread = masked.std(r, valid, _BATCH, ddof=self.ddof)
        return subtract_mean(r, valid, 1) / (spread + self.eps)


class BestOfGroup(eqx.Module):
    """A = (best - second best) / (std + eps) for the best of a group, 0 for the others.

    Rewards what a row adds to the best of its group, so that pass@k rather than pass@1
    goes up; a tie for the best is worth nothing. This is verl's `grpo_passk`.

    **Fields:** as `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: arXiv:2503.19595.
    """

    eps: Number = 1e-6
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "BestOfGroup")
        r, valid = rewards.total, rewards.valid
        ranked, index = jax.lax.top_k(jnp.where(valid, r, -jnp.inf), 2)
        second = jnp.isfinite(ranked[:, 1:])  # A row that is alone beats nobody.
        lead = jnp.where(second, ranked[:, :1] - ranked[:, 1:], 0)
        spread = masked.std(r, valid, 1, ddof=self.ddof)
        best = jnp.arange(r.shape[1]) == index[:, :1]
        return jnp.where(best & valid, lead / (spread + self.eps), 0)


class DapoMix(eqx.Module):
    """A = A_group + alpha · A_batch, each normalized as above.

    The part of the batch gives groups whose rewards are all equal something to learn
    from. It comes from MLLM-JAX, which calls it `dapo`; the paper of that name
    has nothing like it.

    **Fields:**

    - `alpha`: the weight of the batch's part.
    - `eps`, `ddof`: as in `GroupNormalized`, of both parts.

    **Raises:** `ValueError` for a group of one.
    """

    alpha: Number = 0.2
    eps: Number = 1e-4
    ddof: int = eqx.field(static=True, default=0)

    def __call__(self, rewards: Rewards) -> Advantages:
        check_group(rewards, "DapoMix")
        r, valid = rewards.total, rewards.valid
        within = normalized(r, valid, 1, eps=self.eps, ddof=self.ddof)
        across = normalized(r, valid, _BATCH, eps=self.eps, ddof=self.ddof)
        return within + self.alpha * across


class Gdpo(eqx.Module):
    """Normalizes each component in its group, adds them up, normalizes the sums.

        z[k] = (r[k] - mean[k]) / (std[k] + eps)     over each group
        s = Σ weight[k] · z[k]
        A = (s - mean) / (std + eps)                 over the batch

    Components of different spread have a say by their weights alone. They are read
    before weighting, so what a shaping does to the total does not reach them. This is
    TRL's `multi_objective_aggregation="normalize_then_sum"`.

    **Fields:** as `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: GDPO, arXiv:2601.05242.
    """

    eps: Number = 1e-4
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
