"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import Prompt, Trajectory
from ._config import check_shards, RolloutConfig
from ._engine import Engine
from ._plan import Plan, row_keys
from ._sample import AbstractSampler, Categorical
from ._state import Completions
from ._turns import answer_at_the_end
from .paused import complete_partial, Drawn, PartialRows


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
    options: Any = dict(
        group=group,
        slots=slots,
        cache_tokens=cache_tokens,
        limits=limits,
        sampler=sampler,
        first=first,
        key=key,
    )
    if env.backend is not None:
        return env.backend(policy, env, states, prompts, **options)
    if env.pauses:
        raise ValueError(
            "rollout: rows of this environment wait for answers from outside. Received "
            f"{type(env).__name__} without a `backend`: use `start`, `advance`, "
            "`answer` and `finish`, or define it."
        )
    plan = Plan.of(policy, env, states, prompts, **options)

    def decode(plan: Plan, policy: AbstractPolicy) -> Completions:
        engine = Engine.of(policy, plan)
        state = engine.advance(engine.start()).at_version(jnp.zeros((), jnp.int32))
        return answer_at_the_end(plan.env, state.completions)

    return plan.trajectory(plan.run(decode, plan.laid_out(policy)))


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
    states, prompts, problems = _reset(env, config.prompts, problems, reset_key)
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
    version = jnp.where(made.sampled, jnp.asarray(version, jnp.int32), -1)
    return dataclasses.replace(made, version=version, problems=problems)


def draw(
    env: AbstractEnvironment,
    config: RolloutConfig,
    *,
    problems: Int[Array, " prompt"] | None = None,
    key: Key[Array, ""],
) -> Drawn:
    """The prompts that `generate` completes, with the keys of their rows."""
    reset_key, row_key = jr.split(key)
    states, prompts, problems = _reset(env, config.prompts, problems, reset_key)
    keys = row_keys(row_key, (config.prompts, config.group), 0)
    return Drawn(states, prompts, problems, keys)


def generate_partial(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    config: RolloutConfig,
    partial: PartialRows,
    drawn: Drawn,
    *,
    version: Int[ArrayLike, ""] = 0,
) -> tuple[Trajectory, PartialRows, Int[Array, ""]]:
    """As many complete prompts as were drawn, and the rows that go on in the next step.

    **Arguments:**

    - `policy`: the trained policy, which `config.behavior` may change.
    - `env`: replies to turns and computes rewards.
    - `config`: sizes, sampler and behavior policy.
    - `partial`: rows from the step before.
    - `drawn`: prompts from `draw`.
    - `version`: policy version, recorded with every token that is sampled here.

    **Returns:** the trajectory, the rows that are left, and the number of tokens that
    the longest of the decode loops took.
    """
    policy = config.behavior_policy(policy)
    rows = drawn.keys.size + partial.drawn.keys.size
    # Only the checks: the rows, with those of the steps before, come in each shard.
    plan = Plan.of(
        policy,
        env,
        drawn.states,
        drawn.prompts,
        group=config.group,
        slots=None,
        cache_tokens=None,
        limits=None,
        sampler=config.sampler,
        first=0,
        key=jr.key(0),
    )
    check_shards(partial.drawn.keys.shape[0], config.slots)
    slots = rows if config.slots is None else min(config.slots, rows)
    plan = dataclasses.replace(plan, slots=slots // spmd.shards())
    version = jnp.asarray(version, jnp.int32)
    return complete_partial(policy, plan, partial, drawn, version)


def _reset(
    env: AbstractEnvironment,
    count: int,
    problems: Int[Array, " prompt"] | None,
    key: Key[Array, ""],
) -> tuple[PyTree, Prompt, Int[Array, " prompt"] | None]:
    """The states and prompts of problems, and their numbers if they have any."""
    fold = jax.vmap(lambda prompt: jr.fold_in(key, prompt))
    keys = fold(jnp.arange(count, dtype=jnp.uint32))
    if not isinstance(env, AbstractDatasetEnvironment):
        return *jax.vmap(env.reset)(keys), None
    if problems is None:
        problems = jax.vmap(env.draw)(keys)
    return *jax.vmap(env.problem)(problems), problems
