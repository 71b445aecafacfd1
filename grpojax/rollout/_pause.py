"""A rollout that pauses: `start`, `advance` as often as one likes, `finish`."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Int, Key, PyTree

from ..env import AbstractEnvironment
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import Prompt, Trajectory
from ._engine import Engine
from ._plan import Plan
from ._refresh import refresh
from ._sample import AbstractSampler, Categorical
from ._state import Completions, DecodeState, Until
from ._turns import answer_at_the_end


class Rollout(eqx.Module):
    """A rollout under way, which `advance` takes further. It can be checkpointed.

    **Fields:**

    - `plan`: what is decoded.
    - `version`: of the policy of which the caches are.
    - `shards`: the prompts' caches and the decode loop's state, with an axis of the
        mesh's data-parallel shards in front.
    """

    plan: Plan
    version: Int[Array, ""]
    shards: PyTree

    @property
    def complete(self) -> Bool[Array, " prompt"]:
        """The prompts of which every row is over."""
        group = self.plan.keys.shape[1]
        state = self.shards[1]
        return jax.vmap(lambda state: state.complete_groups(group))(state).reshape(-1)


def start(
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
    version: Int[ArrayLike, ""] = 0,
    key: Key[Array, ""],
) -> Rollout:
    """A rollout before its first token: the prompts are prefilled.

    **Arguments:** as `complete`.

    **Returns:** the rollout.

    **Raises:** as `complete`.

    !!! example

        ```python
        paused = rollout.start(policy, env, states, prompts, group=8, key=key)
        paused = rollout.advance(paused, policy, rollout.Until(tokens=100))
        paused = rollout.advance(paused, newer, version=1)
        trajectory = rollout.finish(paused)
        ```
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
        first=0,
        key=key,
    )

    def begin(plan: Plan, policy: AbstractPolicy) -> PyTree:
        engine = Engine.of(policy, plan)
        return _in_front((engine.context, engine.start()))

    shards = plan.run(begin, plan.laid_out(policy))
    return Rollout(plan, jnp.asarray(version, jnp.int32), shards)


def advance(
    rollout: Rollout,
    policy: AbstractPolicy,
    until: Until = Until(),
    *,
    version: Int[ArrayLike, ""] = 0,
) -> Rollout:
    """The rollout some tokens later: cutting it anywhere changes no bit of the result.

    With another version of the policy the caches of all prompts, and of the rows in the
    slots, are computed again first.

    **Arguments:**

    - `rollout`: under way.
    - `policy`: samples the tokens, of the same shape as before.
    - `until`: when to pause; by default all rows are decoded to their end.
    - `version`: of the policy, recorded with every token that is sampled here.

    **Returns:** the rollout.
    """
    plan, version = rollout.plan, jnp.asarray(version, jnp.int32)
    if until.groups is not None:
        until = until._replace(groups=-(-jnp.asarray(until.groups) // spmd.shards()))

    def decode(plan: Plan, replicated: PyTree, paused: PyTree) -> PyTree:
        policy, until, version, is_new = replicated

        def compute_caches(_, state: DecodeState):
            engine = Engine.of(policy, plan)
            return engine.context, refresh(engine, state)

        paused = jax.tree.map(lambda x: x[0], paused)
        context, state = jax.lax.cond(
            is_new, compute_caches, lambda *same: same, *paused
        )
        state = Engine(policy, plan, context).advance(state, until)
        return _in_front((context, state.at_version(version)))

    replicated = plan.laid_out(policy), until, version, version != rollout.version
    shards = plan.run(decode, replicated, rollout.shards)
    return dataclasses.replace(rollout, version=version, shards=shards)


def finish(rollout: Rollout) -> Trajectory:
    """The trajectory of a rollout.

    Rows that are not over are truncated where they are; those that had no slot yet have
    no tokens.

    **Arguments:**

    - `rollout`: under way, or with all rows decoded.

    **Returns:** the trajectory.
    """

    def answer(plan: Plan, _, completions: Completions) -> Completions:
        rows = jax.tree.map(lambda x: x[0], completions)
        return answer_at_the_end(plan.env, rows)

    completions = rollout.shards[1].completions
    return rollout.plan.trajectory(rollout.plan.run(answer, None, completions))


def _in_front(tree: PyTree) -> PyTree:
    """Arrays with an axis of shards in front."""
    return jax.tree.map(lambda x: x[None], tree)
