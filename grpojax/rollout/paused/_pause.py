"""A rollout that pauses: `start`, `advance` as often as one likes, `finish`."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Key, PyTree

from ...env import AbstractEnvironment, Turn
from ...policy import AbstractPolicy
from ...sharding import spmd
from ...types import Prompt, Trajectory
from .._engine import Engine
from .._plan import Plan
from .._sample import AbstractSampler, Categorical
from .._state import Completions, Until, Waiting
from .._turns import answer_at_the_end
from ._refresh import is_answered, refresh, resume


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

    @property
    def asks(self) -> Bool[Array, "prompt group"]:
        """The rows that wait for `answer`: none unless the environment pauses."""
        shape, waiting = self.plan.keys.shape, self.shards[1].waiting
        if waiting is None:
            return jnp.zeros(shape, bool)
        return jax.vmap(lambda waiting: waiting.asks)(waiting).reshape(shape)

    @property
    def turns(self) -> Turn:
        """The last turn of each row that waits, `Turn[prompt group]`."""
        shape, state = self.plan.keys.shape, self.shards[1]
        rows = lambda x: x.reshape(*shape, *x.shape[2:])
        start, age = rows(state.waiting.turn_start), rows(state.waiting.age)
        tokens = rows(state.completions.tokens)
        place = jnp.arange(tokens.shape[-1], dtype=jnp.int32)
        index = jnp.minimum(start[..., None] + place, tokens.shape[-1] - 1)
        length = age - start
        tokens = jnp.take_along_axis(tokens, index, axis=-1)
        tokens = jnp.where(place < length[..., None], tokens, 0)
        return Turn(tokens, length, rows(state.waiting.ended))


class Answers(eqx.Module):
    """Answers to turns of rows that wait.

    **Fields:**

    - `answered`: rows that get one, `Bool[prompt group]`; others are left as they are.
    - `reply`: tokens that follow the turn, right-padded, `Int[prompt group reply]`.
        What does not fit into the horizon is cut, and the row is truncated.
    - `reply_length`: how many, `Int[prompt group]`.
    - `done`: whether the conversation is over, `Bool[prompt group]`; the reply is then
        not read.
    """

    answered: Bool[Array | np.ndarray, "prompt group"]
    reply: Int[Array | np.ndarray, "prompt group reply"]
    reply_length: Int[Array | np.ndarray, "prompt group"]
    done: Bool[Array | np.ndarray, "prompt group"]


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

    **Arguments:** as `complete`, and `version`: of the policy.

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
    return start_plan(plan, policy, version)


def start_plan(
    plan: Plan, policy: AbstractPolicy, version: Int[ArrayLike, ""] = 0
) -> Rollout:
    """The rollout of a plan before its first token."""

    def begin(plan: Plan, policy: AbstractPolicy) -> PyTree:
        engine = Engine.of(policy, plan)
        return in_front((engine.context, engine.start()))

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

        context, state = jax.tree.map(lambda x: x[0], paused)
        compute = lambda _: Engine.of(policy, plan).context
        context = jax.lax.cond(is_new, compute, lambda same: same, context)
        engine = Engine(policy, plan, context)
        state = jax.lax.cond(
            is_new | is_answered(state),
            lambda state: refresh(engine, resume(engine, state)),
            lambda same: same,
            state,
        )
        state = engine.advance(state, until)
        return in_front((context, state.at_version(version)))

    replicated = plan.laid_out(policy), until, version, version != rollout.version
    shards = plan.run(decode, replicated, rollout.shards)
    return dataclasses.replace(rollout, version=version, shards=shards)


def answer(rollout: Rollout, answers: Answers) -> Rollout:
    """The rollout with answers to rows that wait: they go on in the next `advance`.

    **Arguments:**

    - `rollout`: under way, of an environment that pauses.
    - `answers`: to any of the rows in `rollout.asks`; those to others are ignored.

    **Returns:** the rollout.

    !!! example

        ```python
        paused = rollout.advance(paused, policy, rollout.Until(waiting=1))
        turns, asks = paused.turns, paused.asks  # Python may take its time here.
        paused = rollout.answer(paused, rollout.Answers(asks, *replies, done))
        ```
    """

    def put(plan: Plan, _, answers: Answers, rows: PyTree) -> PyTree:
        answers = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), answers)
        completions, waiting = jax.tree.map(lambda x: x[0], rows)
        limit, most = plan.limits.reshape(-1), plan.env.max_turns
        return in_front(_answered(answers, completions, waiting, limit, most))

    where = lambda x: (x.shards[1].completions, x.shards[1].waiting)
    answers = jax.tree.map(jnp.asarray, answers)
    rows = rollout.plan.run(put, None, answers, where(rollout))
    return eqx.tree_at(where, rollout, rows)


def _answered(
    answers: Answers,
    completions: Completions,
    waiting: Waiting,
    limit: Int[Array, " row"],
    max_turns: int,
) -> tuple[Completions, Waiting]:
    """The rows of a shard, some of them answered."""
    gets, length = answers.answered & waiting.asks, answers.reply_length
    last = answers.done | (waiting.turn >= max_turns)
    goes_on = gets & ~last
    age = jnp.where(goes_on, jnp.minimum(waiting.age + length, limit), waiting.age)
    place = jnp.arange(completions.tokens.shape[1], dtype=jnp.int32)
    offset = place - waiting.age[:, None]
    forced = (offset >= 0) & (place < age[:, None])
    tokens = completions.tokens
    if answers.reply.shape[1]:
        offset = jnp.clip(offset, 0, answers.reply.shape[1] - 1)
        reply = jnp.take_along_axis(answers.reply, offset, axis=1)
        tokens = jnp.where(forced, reply.astype(jnp.int32), tokens)
    over = gets & (last | (age >= limit))
    completions = dataclasses.replace(
        completions,
        tokens=tokens,
        terminated=completions.terminated | (gets & last & waiting.ended),
    )
    waiting = dataclasses.replace(
        waiting,
        age=age,
        order=jnp.where(over, -1, waiting.order),
        answered=waiting.answered | (gets & ~over),
    )
    return completions, waiting


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


def in_front(tree: PyTree) -> PyTree:
    """Arrays with an axis of shards in front."""
    return jax.tree.map(lambda x: x[None], tree)
