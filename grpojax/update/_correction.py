"""Corrections for tokens that the old policy did not sample, or that teach nothing."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import masked
from ._scores import Frozen, Scores
from ._surrogate import Number


class Importance(eqx.Module):
    """Weighs tokens by π_old / π_behavior, without a gradient.

    The behavior policy, which sampled, may be an older one or another program's. The
    ratio is taken against the old policy, scored again before the first update
    (`improve(..., recompute=True)`), and this weight leads from there to the behavior
    policy: truncated importance sampling, and AReaL's decoupled objective.

        token:     w[t] = exp(log π_old - log π_behavior)
        sequence:  w    = exp(Σ_t log π_old - log π_behavior)

    **Fields:**

    - `cap`, `floor`: the bounds of the weight.
    - `level`: `"token"` or `"sequence"`.
    - `outside`: `"truncate"` moves a weight to its bound, `"mask"` drops the tokens;
        they still count in the loss's divisor.
    """

    cap: Number = 3.0
    floor: Number = 0.0
    level: Literal["token", "sequence"] = eqx.field(static=True, default="sequence")
    outside: Literal["truncate", "mask"] = eqx.field(static=True, default="mask")

    def __check_init__(self):
        for name, value, known in (
            ("level", self.level, ("token", "sequence")),
            ("outside", self.outside, ("truncate", "mask")),
        ):
            if value not in known:
                raise ValueError(
                    f"Importance({name}=...) must be one of {known}. "
                    f"Received {name}={value!r}."
                )

    def __call__(self, scores: Scores) -> Float[Array, "*rows #time"]:
        """The weight of every token, or of every row."""
        if scores.frozen.behavior is None:
            raise ValueError(
                "An importance correction compares the old policy with the sampler's "
                "log-probabilities. Received none. Pass `Frozen(behavior=...)`."
            )
        gap = masked.fill(scores.old - scores.frozen.behavior, scores.mask)
        if self.level == "sequence":
            gap = jnp.sum(gap, axis=-1, keepdims=True)
        weight = jnp.exp(gap)
        if self.outside == "truncate":
            weight = jnp.clip(weight, self.floor, self.cap)
        else:
            inside = (weight >= self.floor) & (weight <= self.cap)
            weight = jnp.where(inside, weight, 0)
        return jax.lax.stop_gradient(weight)


class TopEntropy(eqx.Module):
    """Trains only the share of tokens at which the policy was least certain.

    Keeps H >= quantile(H over the batch's tokens, 1 - share). The entropies are the old
    policy's, so that the choice is one for the whole batch.

    Source: "Beyond the 80/20 rule", arXiv:2506.01939.
    """

    share: Number = 0.2

    def __call__(self, frozen: Frozen) -> Bool[Array, "*rows time"]:
        if frozen.entropy is None:
            raise ValueError(
                "An entropy filter needs the old policy's entropies. Received none. "
                "Pass `Frozen(entropy=...)`."
            )
        values = jnp.where(frozen.mask, frozen.entropy, jnp.nan)
        threshold = jnp.nanquantile(values, 1 - jnp.asarray(self.share, values.dtype))
        return frozen.mask & (frozen.entropy >= threshold)


class OffPolicySequenceMask(eqx.Module):
    """Drops rows of negative advantage that the policy has moved away from.

        keep = (A >= 0) or mean_t(log π_behavior - log π) <= threshold

    Source: DeepSeek-V3.2, arXiv:2512.02556.
    """

    threshold: Number

    def __call__(self, scores: Scores) -> Bool[Array, "*rows time"]:
        sampled = scores.frozen.behavior
        sampled = scores.old if sampled is None else sampled
        gap = sampled - jax.lax.stop_gradient(scores.log_prob)
        distance = masked.mean(gap, scores.mask, axis=-1)
        return (scores.advantage >= 0) | (distance <= self.threshold)
