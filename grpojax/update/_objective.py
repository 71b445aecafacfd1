"""The loss as a value made of small parts."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import masked
from ._correction import Importance, OffPolicySequenceMask, TopEntropy
from ._penalty import KL
from ._ratio import token_ratio
from ._scores import Frozen, Scores
from ._surrogate import AbstractSurrogate, Clip, Number
from ._weight import Mask, token_mean, Weight


class Objective(eqx.Module):
    """The loss that `improve` descends.

        loss = -Σ weight · (surrogate(r, A) · filters · importance - Σ β KL)
               - entropy_bonus · Σ bonus_weight · H

    **Fields:**

    - `ratio`: `token_ratio` or `sequence_ratio`.
    - `surrogate`: such as `Clip(low, high)`.
    - `weight`: `token_mean`, `sequence_mean`, `Constant(length)` ...
    - `penalties`: KL penalties; neither filtered nor reweighed.
    - `importance`: corrects for a sampler that is not the old policy.
    - `entropy_filter`: keeps the least certain tokens.
    - `off_policy_filter`: drops rows that the policy has moved away from.
    - `entropy_bonus`: coefficient of the mean entropy, over tokens that are kept.
    """

    ratio: Callable[[Scores], Float[Array, "*rows time"]] = token_ratio
    surrogate: AbstractSurrogate = Clip()
    weight: Callable[[Mask], Weight] = token_mean
    penalties: tuple[KL, ...] = ()
    importance: Importance | None = None
    entropy_filter: TopEntropy | None = None
    off_policy_filter: OffPolicySequenceMask | None = None
    entropy_bonus: Number | None = None

    def prepare(self, frozen: Frozen) -> Frozen:
        """Fixes, on the whole batch, what its microbatches must agree on.

        A field that is already there is left as it is.
        """
        kept, importance = frozen.kept, frozen.importance
        if kept is None and self.entropy_filter is not None:
            kept = self.entropy_filter(frozen)
        if importance is None and self.importance is not None:
            importance = self.importance(frozen)
        weight = frozen.weight
        bonus_mask = frozen.mask if kept is None else frozen.mask & kept
        return dataclasses.replace(
            frozen,
            kept=kept,
            importance=importance,
            weight=self.weight(frozen.mask) if weight is None else weight,
            bonus_weight=None if self.entropy_bonus is None else token_mean(bonus_mask),
        )

    def __call__(
        self, scores: Scores
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, "*rows time"]]]:
        """The loss of prepared scores, and what is worth measuring of each token.

        **Arguments:**

        - `scores`: with `frozen` from `prepare`, of a batch or of a part of it: the
            losses of a batch's parts add up to the batch's.

        **Returns:** the loss, and per-token values, 0 outside the mask.
        """
        frozen = scores.frozen
        if frozen.weight is None:
            raise ValueError(
                "The weight of each token belongs to the whole batch. Received scores "
                "without one. Pass `frozen=objective.prepare(frozen)`."
            )
        mask = scores.mask
        dtype = scores.log_prob.dtype
        ratio = self.ratio(scores)
        value = self.surrogate(ratio, scores)
        if self.off_policy_filter is not None:
            value = jnp.where(self.off_policy_filter(scores), value, 0)
        if frozen.kept is not None:
            value = jnp.where(frozen.kept, value, 0)
        if frozen.importance is not None and not self.surrogate.absorbs_importance:
            value = value * jnp.broadcast_to(frozen.importance, value.shape)
        estimate = jnp.zeros_like(value)
        for penalty in self.penalties:
            kl = penalty(scores)
            value = value - penalty.coefficient * kl
            estimate = estimate + kl
        weight = frozen.weight.astype(dtype)
        loss = -jnp.sum(weight * masked.fill(value, mask))
        if frozen.bonus_weight is not None:
            entropy = masked.fill(scores.entropy, mask)
            bonus = jnp.sum(frozen.bonus_weight.astype(dtype) * entropy)
            loss = loss - self.entropy_bonus * bonus
        low, high = self.surrogate.clipped(ratio, scores)
        measured = {
            "entropy": scores.entropy,
            "kl": estimate,
            "ratio": ratio,
            "clip_low": low.astype(dtype),
            "clip_high": high.astype(dtype),
        }
        measured = {name: masked.fill(x, mask) for name, x in measured.items()}
        return loss, jax.lax.stop_gradient(measured)
