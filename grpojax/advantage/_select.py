"""Selection: Rewards -> keep, which rows of the batch are trained on."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..types import Rewards


def everything(rewards: Rewards) -> Bool[Array, "prompt group"]:
    """Every row that the reward phase keeps."""
    return rewards.keep


def informative(rewards: Rewards) -> Bool[Array, "prompt group"]:
    """Rows of groups whose valid rewards differ; equal ones have no gradient to give.

    DAPO's dynamic sampling at a static shape: the weight then counts kept tokens alone.
    Equality is tested as max == min, which rounding cannot blur.

    Source: DAPO, arXiv:2503.14476, section 3.2.
    """
    high = jnp.max(jnp.where(rewards.valid, rewards.total, -jnp.inf), axis=1)
    low = jnp.min(jnp.where(rewards.valid, rewards.total, jnp.inf), axis=1)
    return rewards.keep & (high > low)[:, None]
