"""How far the policy has moved from the old one: r = π / π_old.

A ratio is any function of the scores. Surrogates that need none, such as `Reinforce`,
do not look at it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import masked
from ._scores import Scores
from ._surrogate import Number


def token_ratio(scores: Scores) -> Float[Array, "*rows time"]:
    """r[t] = exp(log π(y[t]) - log π_old(y[t])): PPO's ratio (arXiv:1707.06347)."""
    return jnp.exp(scores.log_ratio)


class ClampedTokenRatio(eqx.Module):
    """`token_ratio` with its logarithm held within ±bound, where the gradient stops.

    This is verl's and Tunix's guard against the overflow of exp, at 20. Without it such
    a token makes a gradient that is not finite, and `improve` counts the update as
    skipped.

    **Fields:**

    - `bound`: nats.
    """

    bound: Number = 20.0

    def __call__(self, scores: Scores) -> Float[Array, "*rows time"]:
        return jnp.exp(jnp.clip(scores.log_ratio, -self.bound, self.bound))


def _row_mean(scores: Scores) -> Float[Array, "*rows time"]:
    mean = masked.mean(scores.log_ratio, scores.mask, axis=-1)
    return jnp.broadcast_to(mean, scores.log_ratio.shape)


def sequence_ratio(scores: Scores) -> Float[Array, "*rows time"]:
    """r = exp(mean over the row's tokens of log π - log π_old), for all its tokens.

    The gradient flows through every token of the row. Source: GSPO, arXiv:2507.18071,
    equation 7.
    """
    return jnp.exp(_row_mean(scores))


def sequence_token_ratio(scores: Scores) -> Float[Array, "*rows time"]:
    """r[t] = sg(row's r) · π(y[t]) / sg(π(y[t])): the row's value, t's own gradient.

    For advantages that differ within a row; where they do not, and neither do the
    weights, its gradient is `sequence_ratio`'s. Source: GSPO-token, arXiv:2507.18071,
    equation 14; it is what verl's and Tunix's `gspo` compute.
    """
    own = masked.fill(scores.log_prob, scores.mask)
    return jnp.exp(own - jax.lax.stop_gradient(own - _row_mean(scores)))
