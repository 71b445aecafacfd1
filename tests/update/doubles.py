"""The cheapest policy that learns, and a trajectory for it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from grpojax.policy import AbstractPolicy
from grpojax.types import Prompt, Trajectory


class Bigram(AbstractPolicy[None]):
    """Each token depends on the one before it, through one row of a table."""

    table: Float[Array, "vocab vocab"]

    @property
    def vocab_size(self) -> int:
        return self.table.shape[0]

    def write(self, cache, chunk, column):
        del cache, chunk, column

    def extend(self, tokens, positions, *_: Any, **__: Any):
        del positions
        return self.table[tokens], None

    def logits(self, hidden):
        return hidden.astype(jnp.float32)

    def for_decoding(self, rows=None):
        del rows
        return self


def bigram(seed: int = 0, vocab: int = 12) -> Bigram:
    return Bigram(2 * jr.normal(jr.key(seed), (vocab, vocab)))


def log_probs(table, trajectory: Trajectory):
    """Log-probabilities and entropies of the completions, from the table itself.

    At the temperature of the trajectory.
    """
    table = table / trajectory.temperature
    table = table - jnp.log(jnp.sum(jnp.exp(table), axis=-1, keepdims=True))
    entropy = -jnp.sum(jnp.exp(table) * table, axis=-1)
    tokens = trajectory.tokens
    last = trajectory.prompt.tokens[:, None, -1:]
    last = jnp.broadcast_to(last, tokens[..., :1].shape)
    before = jnp.concatenate([last, tokens[..., :-1]], axis=-1)
    return table[before, tokens], entropy[before]


def random_trajectory(
    policy: Bigram,
    prompts: int = 4,
    group: int = 4,
    time: int = 7,
    *,
    gap: float = 0.0,
    temperature: float = 1.0,
) -> Trajectory:
    """Random tokens, in rows of 0 to `time`; one row is empty.

    **Arguments:**

    - `gap`: how far, in nats, the recorded log-probabilities are from the policy's, as
        if an older one had sampled.
    - `temperature`: that they were recorded at.
    """
    keys = jr.split(jr.key(prompts * group * time), 4)
    shape = prompts, group, time
    tokens = jr.randint(keys[0], shape, 0, policy.vocab_size)
    length = jr.randint(keys[1], shape[:2], 1, time + 1).at[0, 1].set(0)
    sampled = jnp.arange(time) < length[..., None]
    prompt = jr.randint(keys[2], (prompts, 3), 0, policy.vocab_size)
    trajectory = Trajectory(
        prompt=Prompt(prompt, jnp.full((prompts,), 3)),
        tokens=jnp.where(sampled, tokens, 0),
        sampled=sampled,
        log_prob=jnp.zeros(shape),
        version=jnp.where(sampled, 0, -1),
        terminated=(length < time) & (length > 0),
        rewards={"correct": jr.bernoulli(keys[3], 0.5, shape[:2]).astype(float)},
        temperature=jnp.asarray(temperature, jnp.float32),
    )
    log_prob, _ = log_probs(policy.table, trajectory)
    log_prob = jnp.minimum(log_prob + gap * jr.normal(keys[3], shape), 0)
    log_prob = jnp.where(sampled, log_prob, 0)
    return dataclasses.replace(trajectory, log_prob=log_prob)
