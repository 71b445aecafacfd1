"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

import dataclasses
import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Int, Key, PyTree

from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import Prompt, Trajectory
from ._config import check_sampler, check_shards, check_sizes, RolloutConfig
from ._engine import Engine
from ._prefill import pad_prompts, PromptCache
from ._sample import AbstractSampler, Categorical
from ._state import Completions


def complete(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    states: PyTree,
    prompts: Prompt,
    *,
    group: int = 1,
    slots: int | None = None,
    cache_tokens: int | None = None,
    limits: Int[ArrayLike, "prompt group"] | None = None,
    sampler: AbstractSampler = Categorical(),
    first: Int[ArrayLike, ""] = 0,
    key: Key[Array, ""],
) -> Trajectory:
    """Completions of given prompts, with the environment's rewards.

    Tokens from `env.vocab_size` on are never sampled.

    **Arguments:**

    - `policy`: the policy to sample from.
    - `env`: replies to each turn and computes rewards.
    - `states`, `prompts`: results of `env.reset` or `env.problem`, stacked by `vmap`.
    - `group`, `slots`, `cache_tokens`, `limits`, `sampler`: as in `RolloutConfig`.
    - `first`: global index of the first prompt. Prompts split over several calls, each
        with its own `first`, get the same completions as in a single call.
    - `key`: row `(p, g)` uses `fold_in(key, (first + p) · group + g)`; the key is
        consumed.

    **Returns:** the trajectory, of version 0.

    **Raises:** `ValueError` for sizes below 1 or too small for one row, or an
    environment whose tokens exceed the policy's vocabulary.
    """
    check_sizes(group=group, slots=slots, cache_tokens=cache_tokens)
    check_sampler(sampler)
    _check_vocabulary(policy, env)
    count = prompts.length.shape[0]
    shape = (count, group)
    check_shards(count, slots)
    time = env.max_completion_length
    if limits is None:
        limits = jnp.full(shape, time)
    limits = jnp.clip(jnp.asarray(limits, jnp.int32), 1, time)
    limits = jnp.minimum(limits, jax.vmap(env.horizon)(states)[:, None])
    num_slots = count * group if slots is None else min(slots, count * group)
    # Converted to the decoding layout once, outside the decode loop.
    num_slots = num_slots // spmd.shards()
    if cache_tokens is not None:
        cache_tokens = cache_tokens // spmd.shards()
    replicated = policy.for_decoding(num_slots), env, sampler
    rows = spmd.shard_map_batch(
        ft.partial(_decode, num_slots, cache_tokens),
        replicated,
        states,
        pad_prompts(prompts),
        _row_keys(key, shape, first),
        limits,
    )
    rows = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
    return Trajectory(
        prompt=prompts,
        tokens=rows.tokens,
        sampled=rows.sampled,
        log_prob=rows.log_prob,
        version=_versions(rows.sampled, 0),
        terminated=rows.terminated,
        rewards=rows.rewards,
        temperature=jnp.asarray(sampler.temperature, jnp.float32),
        states=states,
        vocab_size=env.vocab_size,
        rows=env.rows if isinstance(env, AbstractDatasetEnvironment) else None,
    )


def _versions(
    sampled: Bool[Array, "prompt group time"], version: Int[ArrayLike, ""]
) -> Int[Array, "prompt group time"]:
    return jnp.where(sampled, jnp.asarray(version, jnp.int32), -1)


def _decode(
    num_slots: int,
    cache_tokens: int | None,
    replicated,
    states,
    prompts,
    keys,
    limits,
) -> Completions:
    """Decodes the rows of one shard."""
    policy, env, sampler = replicated
    with jax.named_scope("prefill"):
        context = PromptCache.of(policy, prompts)
    engine = Engine(
        policy=policy,
        env=env,
        states=states,
        prompts=prompts,
        keys=keys,
        context=context,
        sampler=sampler,
        max_lengths=limits,
        num_slots=num_slots,
        cache_tokens=cache_tokens,
    )
    return engine.run()[0]


def _row_keys(
    key: Key[Array, ""], shape: tuple[int, int], first: Int[ArrayLike, ""]
) -> Key[Array, "prompt group"]:
    """A key for each row, by its global index."""
    count, group = shape
    row = jnp.arange(count * group, dtype=jnp.uint32).reshape(shape)
    row = row + jnp.asarray(first).astype(jnp.uint32) * group
    return jax.vmap(jax.vmap(lambda row: jr.fold_in(key, row)))(row)


def generate(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    config: RolloutConfig,
    *,
    problems: Int[Array, " prompt"] | None = None,
    version: Int[ArrayLike, ""] = 0,
    key: Key[Array, ""],
) -> Trajectory:
    """Completions of prompts drawn from the environment.

    The members of a group share one problem and differ only in their sampling keys.

    **Arguments:**

    - `policy`: the trained policy, which `config.behavior` may change.
    - `env`: draws prompts, replies to turns and computes rewards.
    - `config`: sizes, sampler and behavior policy.
    - `problems`: numbers of the problems to ask, `config.prompts` of them; drawn by the
        environment when `None`.
    - `version`: policy version, recorded with every sampled token.
    - `key`: split into one for the resets and one for the rows; consumed.

    **Returns:** the trajectory of all `config.prompts` prompts.

    **Raises:** as `complete`.
    """
    reset_key, row_key = jr.split(key)
    fold = jax.vmap(lambda prompt: jr.fold_in(reset_key, prompt))
    keys = fold(jnp.arange(config.prompts, dtype=jnp.uint32))
    if isinstance(env, AbstractDatasetEnvironment):
        if problems is None:
            problems = jax.vmap(env.draw)(keys)
        states, prompts = jax.vmap(env.problem)(problems)
    else:
        states, prompts = jax.vmap(env.reset)(keys)
    made = complete(
        config.behavior_policy(policy),
        env,
        states,
        prompts,
        group=config.group,
        slots=config.slots,
        cache_tokens=config.cache_tokens,
        limits=config.limits,
        sampler=config.sampler,
        key=row_key,
    )
    versions = _versions(made.sampled, version)
    return dataclasses.replace(made, version=versions, problems=problems)


def _check_vocabulary(policy: AbstractPolicy, env: AbstractEnvironment):
    if env.vocab_size > policy.vocab_size:
        raise ValueError(
            "The environment's tokens must be below the policy's vocabulary size. "
            f"Received env.vocab_size={env.vocab_size} and policy.vocab_size="
            f"{policy.vocab_size}. Use the tokenizer that belongs to the model."
        )
