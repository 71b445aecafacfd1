"""Test doubles with known answers, and small policies and environments."""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jaxtyping import Array, Int

from grpojax.env import AbstractEnvironment, TimeStep
from grpojax.models import Transformer, TransformerConfig
from grpojax.policy import AbstractPolicy
from grpojax.types import Prompt


CONFIGS = {
    "llama": TransformerConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
    ),
    "qwen2": TransformerConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=32,
        num_layers=3,
        num_heads=3,
        num_kv_heads=1,
        head_dim=8,
        qkv_bias=True,
        tied=True,
    ),
    "qwen3": TransformerConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
        qk_norm=True,
        tied=True,
    ),
}


def transformer(
    family: str = "llama",
    seed: int = 0,
    sharpen: float = 20.0,
    vocab_size: int = 50,
    **settings: str,
):
    """A tiny random model; sharpened, so that its samples are far from uniform."""
    config = dataclasses.replace(CONFIGS[family], vocab_size=vocab_size)
    policy = Transformer(config, **settings, key=jr.key(seed))
    grown = lambda x: x * sharpen
    if policy.head is not None:
        return eqx.tree_at(lambda p: p.head, policy, replace_fn=lambda x: x * 2)
    return eqx.tree_at(lambda p: p.embedding, policy, replace_fn=grown)


class UniformPolicy(AbstractPolicy[None]):
    """Every token has log-probability -log(vocab), whatever came before."""

    vocab_size: int = eqx.field(static=True, default=4)

    def write(self, cache, chunk, column):
        del cache, chunk, column

    def extend(self, tokens, positions, *_: Any, **__: Any):
        del positions
        return jnp.zeros((tokens.shape[0], 1)), None

    def logits(self, hidden):
        return jnp.zeros((*hidden.shape[:-1], self.vocab_size))

    def for_decoding(self, rows=None):
        del rows
        return self


class CountEnv(AbstractEnvironment[Int[Array, ""]]):
    """Random prompts of random length; the reward counts `target` tokens.

    With `max_turns > 1` it replies with `reply_length` tokens that count up from the
    turn's number, so that a forced token is recognized.
    """

    end_tokens: Int[Array, " end"]
    target: Int[Array, ""]
    vocab_size: int = eqx.field(static=True, default=50)
    max_prompt_length: int = eqx.field(static=True, default=6)
    max_completion_length: int = eqx.field(static=True, default=12)
    max_turns: int = eqx.field(static=True, default=1)
    reply_length: int = eqx.field(static=True, default=0)

    def reset(self, key):
        token_key, length_key = jr.split(key)
        width = self.max_prompt_length
        tokens = jr.randint(token_key, (width,), 0, self.vocab_size)
        length = jr.randint(length_key, (), 1, width + 1)
        return jnp.zeros((), jnp.int32), Prompt(tokens, length)

    def step(self, state, turn):
        sampled = jnp.arange(self.max_completion_length) < turn.length
        is_target = (turn.tokens == self.target) & sampled
        count = jnp.sum(is_target, dtype=jnp.float32)
        reply = state + jnp.arange(self.reply_length, dtype=jnp.int32)
        answer = TimeStep(
            reply=reply,
            reply_length=jnp.asarray(self.reply_length, jnp.int32),
            rewards={"target": count, "turns": jnp.ones(())},
            done=state + 1 >= self.max_turns,
        )
        return state + 1, answer


def count_env(ends=(1, 2, 3, 4, 5), target: int = 7, **sizes) -> CountEnv:
    return CountEnv(jnp.asarray(ends), jnp.asarray(target), **sizes)


def mostly_slow(values: Iterable, fast: Collection) -> list:
    """Values for `pytest.mark.parametrize`: those that are not in `fast` are slow.

    A tuple is a value of several parameters.
    """
    of = lambda value: value if isinstance(value, tuple) else (value,)
    slow = lambda value: pytest.param(*of(value), marks=pytest.mark.slow)
    return [value if value in fast else slow(value) for value in values]


def leaves(tree) -> list[Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def distance(a, b) -> float:
    """The largest difference of floats: for lower bounds, which chex has not."""
    floats = lambda t: jax.tree.leaves(eqx.filter(t, eqx.is_inexact_array))
    pairs = zip(floats(a), floats(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)


def learned(policy, size: float = 0.05, seed: int = 7):
    """A policy with every array that is trained moved at random."""
    params, rest = eqx.partition(policy, policy.trainable())
    leaves, structure = jax.tree.flatten(params)
    keys = jr.split(jr.key(seed), len(leaves))
    moved = [
        x + size * jr.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(structure, moved), rest)
