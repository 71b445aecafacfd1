"""Ratios r = π / π_old: functions of `LossInputs`.

Surrogates that need none, such as `Reinforce`, ignore it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ... import masked
from ...types import FloatLike
from ._inputs import LossInputs


def token_ratio(inputs: LossInputs) -> Float[Array, "*rows time"]:
    """r[t] = exp(log π(y[t]) - log π_old(y[t])): PPO's ratio (arXiv:1707.06347)."""
    return jnp.exp(inputs.log_ratio)


class ClampedTokenRatio(eqx.Module):
    """`token_ratio` with its logarithm clipped to ±bound, without a gradient beyond.

        r[t] = exp(clip(log π(y[t]) - log π_old(y[t]), ±bound))

    This is verl's and Tunix's guard against the overflow of exp, at 20. Without it such
    a token makes the gradient infinite, and `improve` skips the update.

    **Fields:**

    - `bound`: nats.
    """

    bound: FloatLike = 20.0

    def __call__(self, inputs: LossInputs) -> Float[Array, "*rows time"]:
        return jnp.exp(jnp.clip(inputs.log_ratio, -self.bound, self.bound))


def _row_mean(inputs: LossInputs) -> Float[Array, "*rows time"]:
    mean = masked.mean(inputs.log_ratio, inputs.mask, axis=-1)
    return jnp.broadcast_to(mean, inputs.log_ratio.shape)


def sequence_ratio(inputs: LossInputs) -> Float[Array, "*rows time"]:
    """r = exp(mean over the row's tokens of log π - log π_old), for all its tokens.

    The gradient flows through every token of the row. Source: GSPO, arXiv:2507.18071,
    equation 7.
    """
    return jnp.exp(_row_mean(inputs))


def sequence_token_ratio(inputs: LossInputs) -> Float[Array, "*rows time"]:
    """r[t] = sg(row's r) · π(y[t]) / sg(π(y[t])): the row's value, t's own gradient.

    For advantages that differ within a row; where they do not, and neither do the
    weights, its gradient is `sequence_ratio`'s. Source: GSPO-token, arXiv:2507.18071,
    equation 14; it is what verl's and Tunix's `gspo` compute.
    """
    own = masked.fill(inputs.log_prob, inputs.mask)
    return jnp.exp(own - jax.lax.stop_gradient(own - _row_mean(inputs)))
