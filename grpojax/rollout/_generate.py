"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from ..env import AbstractEnvironment
from ..policy import AbstractPolicy, prefill
from ..sharding import spmd
from ..types import Prompt, Trajectory
from ._engine import Engine
from ._loop import Rows
from ._sample import AbstractSampler, Categorical


def _check(policy: AbstractPolicy, env: AbstractEnvironment, **sizes: int | None):
    for name, size in sizes.items():
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(
                f"rollout: {name} must be a positive integer. Received {name}={size!r}."
            )
    if env.vocab_size > policy.vocab_size:
        raise ValueError(
            "The environment's tokens must be below the policy's vocabulary size. "
            f"Received env.vocab_size={env.vocab_size} and policy.vocab_size="
            f"{policy.vocab_size}. Use the tokenizer that belongs to the model."
        )


def _check_shards(prompts: int, slots: int | None):
    spmd.check_prompts("prompts", prompts)
    if slots is not None and slots % spmd.shards():
        raise ValueError(
            "rollout: slots are dealt out to the parts of a mesh as prompts are, so "
            f"they must be a multiple of data x fsdp = {spmd.shards()}. Received "
            f"slots={slots}."
        )


def complete(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    states: PyTree,
    prompts: Prompt,
    *,
    group: int = 1,
    slots: int | None = None,
    limits: Int[ArrayLike, "prompt group"] | None = None,
    sampler: AbstractSampler = Categorical(),
    version: Int[ArrayLike, ""] = 0,
    first: Int[ArrayLike, ""] = 0,
    key: Key[Array, ""],
) -> Trajectory:
    """Samples `group` completions of each prompt, and lets the environment pay them.

    **Arguments:**

    - `policy`: samples; every family of weights that meets `AbstractPolicy`.
    - `env`: answers each turn.
    - `states`, `prompts`: what `env.reset` or `env.problem` gave, stacked by `vmap`.
    - `group`: samples of each prompt.
    - `slots`: how many rows are decoded at a time. A slot whose row has ended takes the
        next row, so fewer slots than rows do less work when lengths differ, and the
        tokens are the same. All rows at once when `None`. On a mesh each part of the
        batch has its share of them.
    - `limits`: each row's own horizon in tokens, between 1 and the environment's, which
        is everybody's when `None`: budgets, or lengths imposed for a measurement.
    - `sampler`: draws the tokens, `Categorical(temperature)` or `Greedy()`.
    - `version`: of the policy, recorded with every sampled token.
    - `first`: the number of the first prompt. What is completed in several calls, each
        with the number of its first prompt, is completed as in one.
    - `key`: row `(p, g)` uses `fold_in(key, (first + p) · group + g)`; the key is
        consumed.

    **Returns:** the trajectory.

    **Raises:** `ValueError` for sizes below 1, or an environment whose tokens the
    policy does not know.
    """
    _check(policy, env, group=group, slots=slots)
    count = prompts.length.shape[0]
    shape = (count, group)
    row = jnp.arange(count * group, dtype=jnp.uint32).reshape(shape)
    row = row + jnp.asarray(first).astype(jnp.uint32) * group
    fold = jax.vmap(jax.vmap(lambda row: jr.fold_in(key, row)))
    _check_shards(count, slots)
    parts = spmd.shards()
    time = env.max_completion_length
    if limits is None:
        limits = jnp.full(shape, time)
    limits = jnp.clip(jnp.asarray(limits, jnp.int32), 1, time)
    most = count * group if slots is None else min(slots, count * group)

    def decode(whole, states, prompts, keys, limits) -> Rows:
        policy, env, sampler = whole
        engine = Engine(
            policy=policy,
            env=env,
            states=states,
            prompts=prompts,
            keys=keys,
            context=jax.vmap(ft.partial(prefill, policy), out_axes=1)(prompts),
            sampler=sampler,
            limits=limits,
            slots=most // parts,
        )
        return engine.run()[0]

    # Laid out once, so that no token pays for it.
    whole = policy.for_decoding(most // parts), env, sampler
    rows = spmd.shard_map_batch(decode, whole, states, prompts, fold(row), limits)
    shaped = lambda x: x.reshape(*shape, *x.shape[1:])
    sampled = shaped(rows.sampled)
    version = jnp.asarray(version, jnp.int32)
    return Trajectory(
        prompt=prompts,
        tokens=shaped(rows.tokens),
        sampled=sampled,
        log_prob=shaped(rows.log_prob),
        version=jnp.where(sampled, version, -1),
        terminated=shaped(rows.terminated),
        rewards={name: shaped(paid) for name, paid in rows.rewards.items()},
        states=states,
    )


def generate(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    *,
    prompts: int,
    group: int = 1,
    slots: int | None = None,
    limits: Int[ArrayLike, "prompt group"] | None = None,
    sampler: AbstractSampler = Categorical(),
    version: Int[ArrayLike, ""] = 0,
    key: Key[Array, ""],
) -> Trajectory:
    """Starts `prompts` conversations and samples `group` completions of each.

    The members of a group share one `env.reset` and differ by the policy's key alone.
    The arguments are those of `complete`; `key` is split into one for the resets
    and one for the rows.
    """
    _check(policy, env, prompts=prompts, group=group, slots=slots)
    reset_key, row_key = jr.split(key)
    fold = jax.vmap(lambda prompt: jr.fold_in(reset_key, prompt))
    keys = fold(jnp.arange(prompts, dtype=jnp.uint32))
    states, starts = jax.vmap(env.reset)(keys)
    return complete(
        policy,
        env,
        states,
        starts,
        group=group,
        slots=slots,
        limits=limits,
        sampler=sampler,
        version=version,
        key=row_key,
    )
