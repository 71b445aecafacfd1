"""Penalties, and those of the KL divergence to a reference policy."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._checks import check_at_least, check_parts
from ...types import FloatLike
from ._inputs import LossInputs, PerToken


Estimator = Callable[[PerToken, PerToken], PerToken]
"""(log π, log π_ref) of tokens that π sampled -> estimates of KL(π ‖ π_ref)."""


def k1(log_prob: PerToken, reference: PerToken) -> PerToken:
    """log π - log π_ref: unbiased, noisy; as a loss its expected gradient is 0."""
    return log_prob - reference


def absolute(log_prob: PerToken, reference: PerToken) -> PerToken:
    """|log π - log π_ref|: no estimate of the KL, but verl's `abs`."""
    return jnp.abs(log_prob - reference)


def k2(log_prob: PerToken, reference: PerToken) -> PerToken:
    """(log π - log π_ref)² / 2: biased, with the gradient of the reverse KL."""
    return jnp.square(log_prob - reference) / 2


def k3(log_prob: PerToken, reference: PerToken) -> PerToken:
    """e^x - x - 1, x = log π_ref - log π: unbiased and never negative (GRPO).

    As a loss it descends the forward KL, not the one that it estimates. Source:
    Schulman, "Approximating KL divergence" (2020).
    """
    x = reference - log_prob
    return jnp.exp(x) - x - 1


def k3_with_k2_gradient(log_prob: PerToken, reference: PerToken) -> PerToken:
    """k3's value and k2's gradient: both are those of the reverse KL (verl's `k3+`)."""
    gradient = k2(log_prob, reference)
    value = k3(log_prob, reference)
    return gradient + jax.lax.stop_gradient(value - gradient)


class AbstractPenalty(eqx.Module):
    """A number for every token, whose mean is added to the loss."""

    coefficient: eqx.AbstractVar[FloatLike]

    @abc.abstractmethod
    def __call__(self, inputs: LossInputs) -> PerToken:
        """The number of every token, before the coefficient."""


class KL(AbstractPenalty):
    """A penalty coefficient · estimate of KL(π ‖ π_ref), token by token.

    **Fields:**

    - `coefficient`: β, 0.04 in the GRPO paper.
    - `estimator`: `k1`, `k2`, `k3` ...
    - `ratio`: a differentiable ratio that multiplies each estimate, which corrects for
        tokens that an older policy sampled (arXiv:2512.02556); `token_ratio` is the
        right one, `sequence_ratio` is what TRL 1.16 does at the sequence level. `None`
        does not reweight.

    Source: GRPO, arXiv:2402.03300, equation 4.
    """

    coefficient: FloatLike = 0.04
    estimator: Estimator = k3
    ratio: Callable[[LossInputs], PerToken] | None = None

    def __check_init__(self):
        check_at_least("KL", 0, coefficient=self.coefficient)
        check_parts("KL", estimator=self.estimator, ratio=self.ratio)

    def __call__(self, inputs: LossInputs) -> PerToken:
        """The estimate of every token, before the coefficient."""
        if inputs.batch.reference is None:
            raise ValueError(
                "A KL penalty needs the log-probabilities of a reference policy. "
                "Received none. Start with `grpojax.init(..., reference=policy)`, or "
                "drop the penalty."
            )
        estimate = _estimate(self.estimator, inputs, inputs.batch.reference)
        return estimate if self.ratio is None else self.ratio(inputs) * estimate


class Distill(AbstractPenalty):
    """A penalty coefficient · estimate of KL(π ‖ teacher): on-policy distillation.

    The student π samples, and a frozen teacher of the same tokenizer, which may be of
    another size, scores each token: `TrainStep.teacher`. With `k2` the gradient of the
    loss is the policy gradient with the advantage log π_T(y[t]) - log π(y[t]) of each
    token.

    **Fields:**

    - `coefficient`: relative to the surrogate; 1 beside `advantage.zero`.
    - `estimator`: `k2`, `k3_with_k2_gradient` ...; those with the gradient of the
        reverse KL.
    - `ratio`: as in `KL`, for several updates on one rollout.

    Source: Gu et al., "MiniLLM" (arXiv:2306.08543), and Agarwal et al., "On-policy
    distillation of language models" (arXiv:2306.13649), reverse KL on the student's
    own samples.
    """

    coefficient: FloatLike = 1.0
    estimator: Estimator = k2
    ratio: Callable[[LossInputs], PerToken] | None = None

    def __check_init__(self):
        check_at_least("Distill", 0, coefficient=self.coefficient)
        check_parts("Distill", estimator=self.estimator, ratio=self.ratio)

    def __call__(self, inputs: LossInputs) -> PerToken:
        """The estimate of every token, before the coefficient."""
        estimate = _estimate(self.estimator, inputs, _teacher(inputs))
        return estimate if self.ratio is None else self.ratio(inputs) * estimate

    @staticmethod
    def gap(inputs: LossInputs) -> PerToken:
        """log π - log π_T of every token: unbiased for the reverse KL."""
        return _estimate(k1, inputs, _teacher(inputs))


def _teacher(inputs: LossInputs) -> PerToken:
    if inputs.batch.teacher is None:
        raise ValueError(
            "A distillation needs the log-probabilities of a teacher. Received none: "
            "pass `TrainStep(..., teacher=policy)` (`teacher.path` in a recipe), or "
            "drop the penalty."
        )
    return inputs.batch.teacher


def _estimate(estimator: Estimator, inputs: LossInputs, other: PerToken) -> PerToken:
    """An estimate of KL(π ‖ other) of every token."""
    # Outside the mask both are 0: no estimate may overflow there.
    other = jnp.where(inputs.mask, other, 0)
    return estimator(jnp.where(inputs.mask, inputs.log_prob, 0), other)
