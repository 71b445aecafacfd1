"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..policy import AbstractPolicy
from ..types import Prompt, Trajectory
from ._config import RolloutConfig
from ._engine import Engine
from ._plan import Plan
from ._sample import AbstractSampler, Categorical
from ._state import Completions
from ._turns import answer_at_the_end


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
    plan = Plan.of(
        policy,
        env,
        states,
        prompts,
        group=group,
        slots=slots,
        cache_tokens=cache_tokens,
        limits=limits,
        sampler=sampler,
        first=first,
        key=key,
    )

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
    version = jnp.where(made.sampled, jnp.asarray(version, jnp.int32), -1)
    return dataclasses.replace(made, version=version, problems=problems)
