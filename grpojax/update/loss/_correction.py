"""Importance weights and filters of tokens and rows."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ... import masked
from ..._checks import check_at_least
from ...types import FloatLike
from ._inputs import Batch, LossInputs


class Importance(eqx.Module):
    """The importance weight π_old / π_behavior, without a gradient.

    The behavior policy, which sampled, may be an older one or run in another program.
    The ratio is taken against the old policy, whose log-probs `improve` then recomputes
    before the first update, and this weight corrects from the behavior policy to it:
    truncated importance sampling, and AReaL's decoupled objective.

        token:     w[t] = exp(log π_old - log π_behavior)
        sequence:  w    = exp(Σ_t log π_old - log π_behavior)

    **Fields:**

    - `cap`, `floor`: bounds of the weight.
    - `level`: `"token"` or `"sequence"`.
    - `outside`: `"truncate"` clips a weight to its bound, `"mask"` drops the tokens,
        which still count in the loss's divisor.

    **Raises:** `ValueError` for another `level` or `outside`.

    Source: AReaL, arXiv:2505.24298, section 5.2; TRL's
    `vllm_importance_sampling_correction`.
    """

    cap: FloatLike = 3.0
    floor: FloatLike = 0.0
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
        check_at_least("Importance", 0, cap=self.cap, floor=self.floor)

    def __call__(self, inputs: LossInputs) -> Float[Array, "*rows #time"]:
        """The weight of every token, or of every row."""
        if inputs.batch.behavior is None:
            raise ValueError(
                "An importance correction compares the old policy with the sampler's "
                "log-probabilities. Received none. Pass `Batch(behavior=...)`."
            )
        gap = masked.fill(inputs.old - inputs.batch.behavior, inputs.mask)
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
    """A filter that keeps the tokens of highest entropy.

        keep = H >= quantile(H over the batch's tokens, 1 - share)

    The entropies are the old policy's, so that the filter is the same for all updates.

    **Fields:**

    - `share`: of the tokens that are kept, in [0, 1].

    Source: "Beyond the 80/20 rule", arXiv:2506.01939.
    """

    share: FloatLike = 0.2

    def __call__(self, batch: Batch) -> Bool[Array, "*rows time"]:
        if batch.entropy is None:
            raise ValueError(
                "An entropy filter needs the old policy's entropies. Received none. "
                "Pass `Batch(entropy=...)`."
            )
        values = jnp.where(batch.mask, batch.entropy, jnp.nan)
        threshold = jnp.nanquantile(values, 1 - jnp.asarray(self.share, values.dtype))
        return batch.mask & (batch.entropy >= threshold)


class OffPolicySequenceMask(eqx.Module):
    """A filter that drops rows of negative advantage with a large KL from the sampler.

        keep = (A >= 0) or mean_t(log π_behavior - log π) <= threshold

    **Fields:**

    - `threshold`: nats per token.

    Source: DeepSeek-V3.2, arXiv:2512.02556.
    """

    threshold: FloatLike

    def __call__(self, inputs: LossInputs) -> Bool[Array, "*rows time"]:
        sampled = inputs.batch.behavior
        sampled = inputs.old if sampled is None else sampled
        gap = sampled - jax.lax.stop_gradient(inputs.log_prob)
        distance = masked.mean(gap, inputs.mask, axis=-1)
        return (inputs.advantage >= 0) | (distance <= self.threshold)
