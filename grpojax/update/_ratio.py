"""How far the policy has moved from the old one: r = π / π_old."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import masked
from ._scores import Scores


def token_ratio(scores: Scores) -> Float[Array, "*rows time"]:
    """r[t] = exp(log π(y[t]) - log π_old(y[t])): PPO's ratio (arXiv:1707.06347)."""
    return jnp.exp(scores.log_ratio)


def sequence_ratio(scores: Scores) -> Float[Array, "*rows time"]:
    """r = exp(mean over the row's tokens of log π - log π_old), for all its tokens.

    The gradient flows through every token of the row. Source: GSPO, arXiv:2507.18071,
    equation 7.
    """
    row = masked.mean(scores.log_ratio, scores.mask, axis=-1)
    return jnp.broadcast_to(jnp.exp(row), scores.log_ratio.shape)
