"""What is subtracted from the surrogate: the distance to a reference policy."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_at_least
from ._scores import Scores
from ._surrogate import Number


Tokens = Float[Array, "*rows time"]
Estimator = Callable[[Tokens, Tokens], Tokens]
"""(log π, log π_ref) of tokens that π sampled -> estimates of KL(π ‖ π_ref)."""


def k1(log_prob: Tokens, reference: Tokens) -> Tokens:
    """log π - log π_ref: unbiased, noisy; as a loss its expected gradient is 0."""
    return log_prob - reference


def absolute(log_prob: Tokens, reference: Tokens) -> Tokens:
    """|log π - log π_ref|: no estimate of the KL, but verl's `abs`."""
    return jnp.abs(log_prob - reference)


def k2(log_prob: Tokens, reference: Tokens) -> Tokens:
    """(log π - log π_ref)² / 2: biased, with the gradient of the reverse KL."""
    return jnp.square(log_prob - reference) / 2


def k3(log_prob: Tokens, reference: Tokens) -> Tokens:
    """e^x - x - 1, x = log π_ref - log π: unbiased and never negative (GRPO).

    As a loss it descends the forward KL, not the one that it estimates. Source:
    Schulman, "Approximating KL divergence" (2020).
    """
    x = reference - log_prob
    return jnp.exp(x) - x - 1


def k3_with_k2_gradient(log_prob: Tokens, reference: Tokens) -> Tokens:
    """k3's value and k2's gradient: both are those of the reverse KL (verl's `k3+`)."""
    gradient = k2(log_prob, reference)
    value = k3(log_prob, reference)
    return gradient + jax.lax.stop_gradient(value - gradient)


class KL(eqx.Module):
    """A penalty coefficient · estimate of KL(π ‖ π_ref), token by token.

    **Fields:**

    - `coefficient`: β, 0.04 in the GRPO paper.
    - `estimator`: `k1`, `k2`, `k3` ...
    - `ratio`: weighs each estimate by a differentiable ratio, which corrects for tokens
        that an older policy sampled (arXiv:2512.02556); `token_ratio` is the right one,
        `sequence_ratio` is what TRL 1.16 does at the sequence level. `None` leaves the
        estimate alone.
    """

    coefficient: Number = 0.04
    estimator: Estimator = k3
    ratio: Callable[[Scores], Tokens] | None = None

    def __check_init__(self):
        check_at_least("KL", 0, coefficient=self.coefficient)

    def __call__(self, scores: Scores) -> Tokens:
        """The estimate itself; the objective multiplies it by the coefficient."""
        if scores.frozen.reference is None:
            raise ValueError(
                "A KL penalty needs the log-probabilities of a reference policy. "
                "Received none. Start with `grpojax.init(..., reference=policy)`, or "
                "drop the penalty."
            )
        # Outside the mask both are 0: no estimate may overflow there.
        reference = jnp.where(scores.mask, scores.frozen.reference, 0)
        log_prob = jnp.where(scores.mask, scores.log_prob, 0)
        estimate = self.estimator(log_prob, reference)
        return estimate if self.ratio is None else self.ratio(scores) * estimate
