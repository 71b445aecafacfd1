"""The loss as a value made of small parts."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ... import masked
from ..._checks import check_numbers, check_parts
from ...types import FloatLike
from ._balance import LoadBalance
from ._correction import Importance, OffPolicySequenceMask, TopEntropy
from ._inputs import Batch, LossInputs, LossWeights, PerToken
from ._penalty import AbstractPenalty, Distill, KL
from ._ratio import sequence_ratio, sequence_token_ratio, token_ratio
from ._surrogate import AbstractSurrogate, Clip
from ._weight import Mask, token_mean, Weight


class Objective(eqx.Module):
    """The loss that `improve` minimizes.

        loss = -Σ weight · (surrogate(r, A) · filters · importance - Σ β KL)
               - entropy_bonus · Σ bonus_weight · H + Σ β load balance

    **Fields:**

    - `ratio`: `token_ratio`, `sequence_ratio` ...
    - `surrogate`: such as `Clip(low, high)`.
    - `weight`: `token_mean`, `sequence_mean`, `Constant(length)` ...
    - `penalties`: `KL` and `Distill`, neither filtered nor reweighted, and
        `LoadBalance`.
    - `importance`: corrects for a sampler that is not the old policy.
    - `entropy_filter`: keeps the tokens of highest entropy.
    - `off_policy_filter`: drops rows that the policy has moved away from.
    - `entropy_bonus`: coefficient of the mean entropy over the tokens that are kept.
    """

    ratio: Callable[[LossInputs], PerToken] = token_ratio
    surrogate: AbstractSurrogate = Clip()
    weight: Callable[[Mask], Weight] = token_mean
    penalties: tuple[AbstractPenalty, ...] = ()
    importance: Importance | None = None
    entropy_filter: TopEntropy | None = None
    off_policy_filter: OffPolicySequenceMask | None = None
    entropy_bonus: FloatLike | None = None

    def __check_init__(self):
        if not isinstance(self.penalties, tuple):
            raise TypeError(
                "`Objective.penalties` must be a tuple. Received "
                f"{self.penalties!r:.80}: write `(KL(...),)`."
            )
        check_numbers("Objective", entropy_bonus=self.entropy_bonus)
        check_parts(
            "Objective",
            ratio=self.ratio,
            surrogate=self.surrogate,
            weight=self.weight,
            penalties=self.penalties,
            importance=self.importance,
            entropy_filter=self.entropy_filter,
            off_policy_filter=self.off_policy_filter,
        )

    @property
    def clips_rows(self) -> bool:
        """Whether the ratio is one of a whole row, so that rows are clipped."""
        return self.ratio in (sequence_ratio, sequence_token_ratio)

    @property
    def compares(self) -> bool:
        """Whether a penalty compares the policy with a reference."""
        return any(isinstance(penalty, KL) for penalty in self.penalties)

    @property
    def distills(self) -> bool:
        """Whether a penalty compares the policy with a teacher."""
        return any(isinstance(penalty, Distill) for penalty in self.penalties)

    @property
    def balances(self) -> bool:
        """Whether a penalty needs the use of experts."""
        return any(isinstance(penalty, LoadBalance) for penalty in self.penalties)

    def loss_weights(self, batch: Batch) -> LossWeights:
        """Per-token weights over the full batch: microbatch losses sum to its loss.

        **Arguments:**

        - `batch`: all rows.
        """
        keep, bonus = None, None
        if self.entropy_filter is not None:
            keep = self.entropy_filter(batch)
        if self.entropy_bonus is not None:
            bonus = token_mean(batch.mask if keep is None else batch.mask & keep)
        balance = token_mean(batch.mask) if self.balances else None
        return LossWeights(self.weight(batch.mask), bonus, keep, balance=balance)

    def __call__(
        self, inputs: LossInputs
    ) -> tuple[Float[Array, ""], dict[str, PerToken]]:
        """The loss, and per-token values for the metrics.

        **Arguments:**

        - `inputs`: of a batch, or of some of its rows: the losses of disjoint rows add
            up to the batch's.

        **Returns:** the loss, and values by name, 0 outside the mask.
        """
        inputs = self._with_importance(inputs)
        weights = inputs.weights
        ratio = self.ratio(inputs)
        low, high = self.surrogate.clipped(ratio, inputs)
        dtype = inputs.log_prob.dtype
        measured = {
            "entropy": inputs.entropy,
            "ratio": ratio,
            "clip_low": low.astype(dtype),
            "clip_high": high.astype(dtype),
        }
        value = self._filtered(self.surrogate(ratio, inputs), inputs)
        kls = [penalty for penalty in self.penalties if isinstance(penalty, KL)]
        if kls:
            estimates = [penalty(inputs) for penalty in kls]
            for penalty, estimate in zip(kls, estimates, strict=True):
                value = value - penalty.coefficient * estimate
            measured["kl"] = sum(estimates[1:], estimates[0])
        for penalty in self.penalties:
            if isinstance(penalty, Distill):
                value = value - penalty.coefficient * penalty(inputs)
                measured["teacher"] = penalty.gap(inputs)
        if weights.importance is not None:
            measured["importance"] = jnp.broadcast_to(weights.importance, value.shape)
        loss = -jnp.sum(weights.token.astype(dtype) * masked.fill(value, inputs.mask))
        if self.entropy_bonus is not None and weights.bonus is not None:
            entropy = masked.fill(inputs.entropy, inputs.mask)
            bonus = jnp.sum(weights.bonus.astype(dtype) * entropy)
            loss = loss - self.entropy_bonus * bonus
        for penalty in self.penalties:
            if isinstance(penalty, LoadBalance) and weights.balance is not None:
                measured["balance"] = masked.fill(penalty(inputs), inputs.mask)
                mean = jnp.sum(weights.balance.astype(dtype) * measured["balance"])
                loss = loss + penalty.coefficient * mean
        measured = {name: masked.fill(x, inputs.mask) for name, x in measured.items()}
        return loss, jax.lax.stop_gradient(measured)

    def _with_importance(self, inputs: LossInputs) -> LossInputs:
        if self.importance is None or inputs.weights.importance is not None:
            return inputs
        importance = self.importance(inputs)
        weights = dataclasses.replace(inputs.weights, importance=importance)
        return dataclasses.replace(inputs, weights=weights)

    def _filtered(self, value: PerToken, inputs: LossInputs) -> PerToken:
        """The surrogate after filters and the importance weight."""
        weights = inputs.weights
        if self.off_policy_filter is not None:
            value = jnp.where(self.off_policy_filter(inputs), value, 0)
        if weights.entropy_mask is not None:
            value = jnp.where(weights.entropy_mask, value, 0)
        if weights.importance is not None and not self.surrogate.absorbs_importance:
            value = value * weights.importance
        return value
