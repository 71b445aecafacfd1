"""Surrogates: what is maximized, from a token's ratio r and advantage A."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ... import masked
from ..._checks import check_at_least
from ...types import FloatLike
from ._inputs import LossInputs, PerToken


class AbstractSurrogate(eqx.Module):
    """A function of ratio and advantage that is maximized."""

    absorbs_importance: ClassVar[bool] = False
    """Whether the importance correction is already inside the surrogate."""

    @abc.abstractmethod
    def __call__(self, ratio: PerToken, inputs: LossInputs) -> PerToken:
        """The surrogate of every token; values outside the mask are ignored."""

    @abc.abstractmethod
    def clipped(
        self, ratio: PerToken, inputs: LossInputs
    ) -> tuple[Bool[Array, "*rows time"], Bool[Array, "*rows time"]]:
        """Where the trust region binds: r too low for A < 0, or too high for A > 0."""


def _outside(ratio: PerToken, low: FloatLike, high: FloatLike, inputs: LossInputs):
    advantage = inputs.advantage
    return (ratio < low) & (advantage < 0), (ratio > high) & (advantage > 0)


def _nowhere(ratio: PerToken):
    never = jnp.zeros(ratio.shape, bool)
    return never, never


class Clip(AbstractSurrogate):
    """PPO's clipped surrogate, with separate bounds below and above.

        min(min(r, delta) A, clip(r, 1 - low, 1 + high) A)
        and, with a dual clip, at least dual · A where A < 0

    **Fields:**

    - `low`, `high`: the trust region. DAPO's clip-higher is `high > low`.
    - `delta`: bounds the unclipped ratio (TRL's; INTELLECT-2, arXiv:2505.07291), or
        `None`.
    - `dual`: bounds the ratio where A < 0 (verl's `clip_ratio_c`, 3 there;
        arXiv:1912.09729), or `None`. For values from 1 + high up, `delta` is the
        same; below 1 + high, `delta` also clips positive-advantage tokens, while
        negative ones are clipped only at 1 + high.

    Source: PPO, arXiv:1707.06347, equation 7; DAPO, arXiv:2503.14476, equation 10.
    """

    low: FloatLike = 0.2
    high: FloatLike = 0.2
    delta: FloatLike | None = None
    dual: FloatLike | None = None

    def __call__(self, ratio, inputs):
        advantage = inputs.advantage
        free = ratio if self.delta is None else jnp.minimum(ratio, self.delta)
        bound = jnp.clip(ratio, 1 - self.low, 1 + self.high)
        value = jnp.minimum(free * advantage, bound * advantage)
        if self.dual is None:
            return value
        floor = jnp.maximum(value, self.dual * advantage)
        return jnp.where(advantage < 0, floor, value)

    def clipped(self, ratio, inputs):
        if self.delta is not None:  # As TRL counts: bounded by it first.
            ratio = jnp.minimum(ratio, self.delta)
        return _outside(ratio, 1 - self.low, 1 + self.high, inputs)

    def __check_init__(self):
        check_at_least("Clip", 0, low=self.low, high=self.high)
        check_at_least("Clip", 0, delta=self.delta, dual=self.dual)


class Cispo(AbstractSurrogate):
    """The ratio is a clipped weight without a gradient: no token loses its gradient.

        sg(clip(r, floor, cap)) · A · log π

    **Fields:**

    - `cap`: the largest weight, an absolute number, as TRL's `epsilon_high` is for this
        loss. open-instruct's cap is `1 + high`, and verl's form has two sides:
        `Cispo(cap=1 + high, floor=1 - low)`.
    - `floor`: the smallest weight.

    Source: MiniMax-M1, arXiv:2506.13585, equation 4.
    """

    cap: FloatLike = 5.0
    floor: FloatLike = 0.0

    def __call__(self, ratio, inputs):
        weight = jax.lax.stop_gradient(jnp.clip(ratio, self.floor, self.cap))
        return weight * inputs.advantage * inputs.log_prob

    def clipped(self, ratio, inputs):
        return _outside(ratio, self.floor, self.cap, inputs)

    def __check_init__(self):
        check_at_least("Cispo", 0, cap=self.cap, floor=self.floor)


class Sapo(AbstractSurrogate):
    """A soft gate instead of a clip.

        A · (4 / τ) · sigmoid(τ (r - 1)),   τ = positive if A > 0 else negative

    Source: SAPO, arXiv:2511.20347.
    """

    positive: FloatLike = 1.0
    negative: FloatLike = 1.05

    def __call__(self, ratio, inputs):
        advantage = inputs.advantage
        tau = jnp.where(advantage > 0, self.positive, self.negative)
        tau = tau.astype(ratio.dtype)
        return advantage * 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))

    def clipped(self, ratio, inputs):
        del inputs  # A gate never shuts.
        return _nowhere(ratio)


class Vespo(AbstractSurrogate):
    """A smooth weight of the whole sequence's ratio, without a gradient.

        s = clip(Σ_t clip(log r[t], ±20) + Σ_t log importance[t], ln 1e-8, 20)
        sg(exp(λ + k s - λ eˢ)) · A · log π,   (k, λ) by the sign of A

    The weight is 1 where the policy has not moved, and no token is clipped.

    Source: VESPO, arXiv:2602.10693, as TRL 1.16 computes it.
    """

    absorbs_importance: ClassVar[bool] = True

    k_positive: FloatLike = 2.0
    lambda_positive: FloatLike = 3.0
    k_negative: FloatLike = 3.0
    lambda_negative: FloatLike = 2.0

    def __call__(self, ratio, inputs):
        del ratio  # The sequence's own, summed rather than averaged.
        log_ratio = jnp.clip(inputs.log_ratio, -20, 20)
        total = jnp.sum(log_ratio, axis=-1, keepdims=True)
        importance = inputs.weights.importance
        lowest = math.log(1e-8)
        if importance is not None:
            log_weight = jnp.clip(jnp.log(importance), lowest, 20)
            if importance.shape[-1] == inputs.log_prob.shape[-1]:
                log_weight = masked.fill(log_weight, inputs.mask)
            total = total + jnp.sum(log_weight, axis=-1, keepdims=True)
        total = jnp.clip(total, lowest, 20)
        advantage = inputs.advantage
        pick = lambda yes, no: jnp.where(advantage >= 0, yes, no).astype(total.dtype)
        k = pick(self.k_positive, self.k_negative)
        lam = pick(self.lambda_positive, self.lambda_negative)
        weight = jnp.exp(lam + k * total - lam * jnp.exp(total))
        return jax.lax.stop_gradient(weight) * advantage * inputs.log_prob

    def clipped(self, ratio, inputs):
        del inputs  # Nothing is clipped.
        return _nowhere(ratio)


class Gmpo(AbstractSurrogate):
    """The geometric mean of token ratios, each clipped in log space.

        x[t] = sgn(A) min(sgn(A) d[t], sgn(A) clip(d[t], -low, high)),  d = log r
        A · exp(mean_t x[t])

    Meant for `weight=sequence_mean`. Source: GMPO, arXiv:2507.20673, equation 4.
    """

    low: FloatLike = 0.4
    high: FloatLike = 0.4

    def __call__(self, ratio, inputs):
        del ratio  # Clipped before the mean, so the tokens' own are needed.
        sign = jnp.sign(inputs.advantage)
        free = inputs.log_ratio
        bound = jnp.clip(free, -self.low, self.high)
        clipped = sign * jnp.minimum(sign * free, sign * bound)
        row = jnp.exp(masked.mean(clipped, inputs.mask, axis=-1))
        return inputs.advantage * jnp.broadcast_to(row, free.shape)

    def clipped(self, ratio, inputs):
        del ratio
        low, high = jnp.exp(-jnp.asarray(self.low)), jnp.exp(jnp.asarray(self.high))
        return _outside(jnp.exp(inputs.log_ratio), low, high, inputs)

    def __check_init__(self):
        check_at_least("Gmpo", 0, low=self.low, high=self.high)


class Reinforce(AbstractSurrogate):
    """A · log π: the policy gradient itself, with no ratio and no clip."""

    def __call__(self, ratio, inputs):
        del ratio
        return inputs.advantage * inputs.log_prob

    def clipped(self, ratio, inputs):
        del inputs  # Nothing is clipped.
        return _nowhere(ratio)
