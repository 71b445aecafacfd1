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


Tokens = Float[Array, "*rows time"]


class Objective(eqx.Module):
    """The loss that `improve` descends.

        loss = -Σ weight · (surrogate(r, A) · filters · importance - Σ β KL)
               - entropy_bonus · Σ bonus_weight · H

    **Fields:**

    - `ratio`: `token_ratio`, `sequence_ratio` ...
    - `surrogate`: such as `Clip(low, high)`.
    - `weight`: `token_mean`, `sequence_mean`, `Constant(length)` ...
    - `penalties`: KL penalties; neither filtered nor reweighed.
    - `importance`: corrects for a sampler that is not the old policy.
    - `entropy_filter`: keeps the least certain tokens.
    - `off_policy_filter`: drops rows that the policy has moved away from.
    - `entropy_bonus`: coefficient of the mean entropy, over tokens that are kept.
    """

    ratio: Callable[[Scores], Tokens] = token_ratio
    surrogate: AbstractSurrogate = Clip()
    weight: Callable[[Mask], Weight] = token_mean
    penalties: tuple[KL, ...] = ()
    importance: Importance | None = None
    entropy_filter: TopEntropy | None = None
    off_policy_filter: OffPolicySequenceMask | None = None
    entropy_bonus: Number | None = None

    def prepare(self, frozen: Frozen) -> Frozen:
        """Fixes, on the whole batch, what its microbatches must agree on.

        These are the weights and the entropy filter's choice. A field that is already
        there is left as it is.
        """
        kept, weight, bonus = frozen.kept, frozen.weight, frozen.bonus_weight
        if kept is None and self.entropy_filter is not None:
            kept = self.entropy_filter(frozen)
        if weight is None:
            weight = self.weight(frozen.mask)
        if bonus is None and self.entropy_bonus is not None:
            bonus = token_mean(frozen.mask if kept is None else frozen.mask & kept)
        return dataclasses.replace(frozen, kept=kept, weight=weight, bonus_weight=bonus)

    def __call__(self, scores: Scores) -> tuple[Float[Array, ""], dict[str, Tokens]]:
        """The loss of prepared scores, and what is worth measuring of each token.

        **Arguments:**

        - `scores`: with `frozen` from `prepare`, of a batch or of a part of it: the
            losses of a batch's parts add up to the batch's.

        **Returns:** the loss, and per-token values, 0 outside the mask.
        """
        weight, bonus_weight = scores.frozen.weight, scores.frozen.bonus_weight
        if weight is None:
            raise ValueError(
                "The weight of each token belongs to the whole batch. Received scores "
                "without one. Pass `frozen=objective.prepare(frozen)`."
            )
        scores = self._with_importance(scores)
        ratio = self.ratio(scores)
        low, high = self.surrogate.clipped(ratio, scores)
        dtype = scores.log_prob.dtype
        measured = {
            "entropy": scores.entropy,
            "ratio": ratio,
            "clip_low": low.astype(dtype),
            "clip_high": high.astype(dtype),
        }
        value = self._corrected(self.surrogate(ratio, scores), scores)
        if self.penalties:
            estimates = [penalty(scores) for penalty in self.penalties]
            for penalty, estimate in zip(self.penalties, estimates, strict=True):
                value = value - penalty.coefficient * estimate
            measured["kl"] = sum(estimates[1:], estimates[0])
        if scores.frozen.importance is not None:
            measured["importance"] = jnp.broadcast_to(
                scores.frozen.importance, value.shape
            )
        loss = -jnp.sum(weight.astype(dtype) * masked.fill(value, scores.mask))
        if self.entropy_bonus is not None and bonus_weight is not None:
            entropy = masked.fill(scores.entropy, scores.mask)
            bonus = jnp.sum(bonus_weight.astype(dtype) * entropy)
            loss = loss - self.entropy_bonus * bonus
        measured = {name: masked.fill(x, scores.mask) for name, x in measured.items()}
        return loss, jax.lax.stop_gradient(measured)

    def _with_importance(self, scores: Scores) -> Scores:
        if self.importance is None or scores.frozen.importance is not None:
            return scores
        importance = self.importance(scores)
        frozen = dataclasses.replace(scores.frozen, importance=importance)
        return dataclasses.replace(scores, frozen=frozen)

    def _corrected(self, value: Tokens, scores: Scores) -> Tokens:
        """Filters the surrogate and reweighs it."""
        frozen = scores.frozen
        if self.off_policy_filter is not None:
            value = jnp.where(self.off_policy_filter(scores), value, 0)
        if frozen.kept is not None:
            value = jnp.where(frozen.kept, value, 0)
        if frozen.importance is not None and not self.surrogate.absorbs_importance:
            value = value * frozen.importance
        return value
