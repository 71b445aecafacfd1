"""A reward that tells the rows of a random model apart."""

import jax.numpy as jnp

from grpojax import masked
from grpojax.types import Rewards, Trajectory


def high(trajectory: Trajectory) -> Rewards:
    """The mean of a row's token ids, in thousands."""
    tokens = trajectory.tokens.astype(jnp.float32) / 1000
    mean = masked.mean(tokens, trajectory.sampled, axis=-1)[..., 0]
    return Rewards.of(mean, name="high", lengths=trajectory.lengths)
