"""Parts of a user's own, named in recipes, each with one fault."""

import dataclasses

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


class Paying(Addition):
    """Components with one value, whatever was said."""

    value: float

    def __init__(self, tokenizer, value, horizon):
        super().__init__(tokenizer, max_completion_length=horizon)
        self.value = value

    def step(self, state, turn):
        state, answer = super().step(state, turn)
        rewards = {name: jnp.full((), self.value) for name in answer.rewards}
        return state, dataclasses.replace(answer, rewards=rewards)


def infinite_task(options, tokenizer, *, horizon, held_out):
    del options, held_out
    return Paying(tokenizer, jnp.inf, horizon), None, []


def nan_task(options, tokenizer, *, horizon, held_out):
    """No component applies to any row."""
    del options, held_out
    return Paying(tokenizer, jnp.nan, horizon), None, []
