"""Parts of a user's own, named in recipes, each with one fault."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from envs.addition import Addition
from grpojax.rollout import Categorical
from grpojax.update import token_mean


def late_nan(trajectory, rewards):
    """A shaping whose rewards are NaN from the second step on."""
    late = jnp.max(trajectory.version) >= 1
    total = jnp.where(late, jnp.nan, rewards.total)
    return dataclasses.replace(rewards, total=total)


def negative_weight(mask):
    """A weight of tokens that must not be negative."""
    return -token_mean(mask)


class PositiveLogProb(Categorical):
    """Records minus the log-probability."""

    def __call__(self, logits, *, key):
        token, log_prob = super().__call__(logits, key=key)
        return token, -log_prob


class NanAddition(Addition):
    """Rewards that are NaN."""

    def step(self, state, turn):
        state, answer = super().step(state, turn)
        where = lambda x: x.rewards["format"]
        return state, eqx.tree_at(where, answer, jnp.full((), jnp.nan))


def nan_task(options, tokenizer, *, horizon, held_out):
    del options, held_out
    return NanAddition(tokenizer, max_completion_length=horizon), None, []
