"""The rollout backend of host environments: decode a little, answer, go on.

Which rows are answered, and when, follows from the tokens alone and not from the time
that Python takes: the trajectory is the same bit for bit. Rows wait in the order in
which their turns ended. Their slots decode other rows meanwhile; where there are none,
the oldest are answered as soon as a quarter of the slots can be filled, but as many
stay behind, so that Python has time while the others are decoded.
"""

import dataclasses
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PyTree

from .. import rollout
from ..policy import AbstractPolicy
from ..rollout import Answers, Rollout, Until
from ..rollout._plan import Plan
from ..rollout.paused._pause import start_plan
from ..sharding import spmd
from ..types import Prompt, Trajectory
from ._episode import Answered, Episode


if TYPE_CHECKING:
    from ._environment import HostEnvironment

_logger = logging.getLogger("grpojax.reward")

_TOKENS = 16  # Between two looks at which rows wait.
_REPLY = 32  # Replies are padded to this, doubled as often as need be.


class Status(NamedTuple):
    """What the host must know of a rollout, by shard; rows are those of the shard."""

    asks: Bool[Array, "shard row"]
    order: Int[Array, "shard row"]
    age: Int[Array, "shard row"]
    start: Int[Array, "shard row"]
    ended: Bool[Array, "shard row"]
    last: Bool[Array, "shard row"]
    limit: Int[Array, "shard row"]
    running: Int[Array, " shard"]


def _begin(policy, env, states, prompts, options) -> Rollout:
    return start_plan(Plan.of(policy, env, states, prompts, **options), policy)


_start = eqx.filter_jit(_begin)
_answer = eqx.filter_jit(rollout.answer)
_finish = eqx.filter_jit(rollout.finish)


@eqx.filter_jit(donate="all-except-first")
def _advance(kept: PyTree, shards: PyTree) -> tuple[PyTree, Status]:
    """Caches are donated; a plan's arrays may be the environment's own."""
    rest, policy = kept
    paused = dataclasses.replace(rest, shards=shards)
    paused = rollout.advance(paused, policy, Until(tokens=_TOKENS))
    return paused.shards, _status(paused)


def _status(paused: Rollout) -> Status:
    state, plan = paused.shards[1], paused.plan
    waiting, rows = state.waiting, state.completions.terminated.shape[1]
    limit = plan.limits.reshape(waiting.age.shape)
    return Status(
        asks=jax.vmap(lambda waiting: waiting.asks)(waiting),
        order=waiting.order,
        age=waiting.age,
        start=waiting.turn_start,
        ended=waiting.ended,
        last=waiting.turn >= plan.env.max_turns,
        limit=limit,
        running=jnp.sum(state.slots.row < rows, axis=1),
    )


def drive(
    policy: AbstractPolicy,
    env: "HostEnvironment",
    states: PyTree,
    prompts: Prompt,
    **options: Any,
) -> Trajectory:
    """Completions of prompts, as `rollout.complete`, with turns that Python answers."""
    given = policy, states, prompts, options
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(given)):
        return _traced(env, rollout.finish(_begin(policy, env, *given[1:])))
    if jax.process_count() > 1:
        raise ValueError(
            "A host environment answers rows of its own process. Received a run of "
            f"{jax.process_count()} processes: start one, on the devices of a machine."
        )
    paused = _start(policy, env, states, prompts, options)
    with Conversations(env, paused) as rows:
        while True:
            rest = dataclasses.replace(paused, shards=None)
            shards, status = _advance((rest, policy), paused.shards)
            paused = dataclasses.replace(rest, shards=shards)
            seen: Status = jax.device_get(status)
            rows.ask(seen, shards[1].completions.tokens)
            chosen = choose(seen, paused.plan.slots)
            if chosen.any():
                paused = _answer(paused, rows.answers(chosen))
            elif not seen.running.any():
                return rows.completed(_finish(paused))


def choose(seen: Status, slots: int) -> Bool[np.ndarray, "shard row"]:
    """The rows that are answered now, of each shard of so many slots."""
    chosen, share = np.zeros(seen.asks.shape, bool), -(-slots // 4)
    for shard, asks in enumerate(seen.asks):
        waiting = np.flatnonzero(asks)
        waiting = waiting[np.argsort(seen.order[shard][waiting])]
        idle = slots - int(seen.running[shard])
        count = min(idle, len(waiting) - share)
        if idle == slots:
            count = min(idle, len(waiting))
        elif count < share:
            count = 0
        chosen[shard, waiting[:count]] = True
    return chosen


class Conversations:
    """The rows of a rollout on the host, and the threads that answer them."""

    def __init__(self, env: "HostEnvironment", paused: Rollout):
        plan = paused.plan
        self._env, self._shape = env, plan.keys.shape
        prompts, states = jax.device_get((plan.prompts, plan.states))
        group, columns = self._shape[1], env.rows or {}
        self._episodes = [
            Episode(
                env.settings,
                {name: values[int(problem)] for name, values in columns.items()},
                tokens[:length].tolist(),
            )
            for tokens, length, problem in zip(
                prompts.tokens, prompts.length, states.problem, strict=True
            )
            for _ in range(group)
        ]
        self._asked: dict[int, Future[Answered]] = {}
        self._reward = np.zeros(len(self._episodes), np.float32)
        self._counts = {
            name: np.zeros(len(self._episodes), np.int32) for name in count_names(env)
        }
        self._errors: list[Exception] = []

    def __enter__(self) -> "Conversations":
        self._pool = ThreadPoolExecutor(self._env.concurrency, "host")
        return self

    def __exit__(self, *_: object) -> None:
        for asked in self._asked.values():  # There are some if the run was interrupted.
            asked.cancel()
        for episode in self._episodes:
            self._pool.submit(episode.close)
        self._pool.shutdown(wait=True)

    def ask(self, seen: Status, tokens: Int[Array, "shard row time"]) -> None:
        """Begins to answer the rows that wait since the last time."""
        waiting = np.flatnonzero(seen.asks).tolist()
        new = [number for number in waiting if number not in self._asked]
        rows = np.asarray(tokens) if new else None
        for number in new:
            place = divmod(number, seen.asks.shape[1])
            start, age = seen.start[place], seen.age[place]
            room = 0 if seen.last[place] else int(seen.limit[place] - age)
            self._asked[number] = self._pool.submit(
                self._episodes[number].take_turn,
                rows[place][start:age].tolist(),  # pyright: ignore
                bool(seen.ended[place]),
                room,
            )

    def answers(self, chosen: Bool[np.ndarray, "shard row"]) -> Answers:
        """The answers to the chosen rows, when they are there."""
        found = {
            number: self._asked.pop(number).result()
            for number in np.flatnonzero(chosen).tolist()
        }
        longest = max(len(x.reply) for x in found.values())
        width = _REPLY
        while width < longest:
            width *= 2
        reply = np.zeros((len(self._episodes), width), np.int32)
        length = np.zeros(len(self._episodes), np.int32)
        done = np.zeros(len(self._episodes), bool)
        for number, answered in found.items():
            length[number], done[number] = len(answered.reply), answered.done
            reply[number, : length[number]] = answered.reply
            self._reward[number] += answered.reward
            self._count(number, answered)
        rows = lambda x: x.reshape(*self._shape, *x.shape[1:])
        return Answers(rows(chosen.reshape(-1)), rows(reply), rows(length), rows(done))

    def _count(self, number: int, answered: Answered) -> None:
        episode, counts = self._episodes[number], self._counts
        counts["errors"][number] = answered.error is not None
        counts["rejected"][number] = answered.rejected
        for name, count in episode.counts.items():
            counts[name][number] = count
        if answered.error is not None:
            self._errors.append(answered.error)
        if answered.done:
            self._pool.submit(episode.close)

    def completed(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory with the host's rewards, and what was counted."""
        self._warn()
        rows = lambda x: jnp.asarray(x.reshape(self._shape))
        counts = {name: rows(x) for name, x in self._counts.items()}
        dropped = (counts["errors"] + counts["rejected"]) > 0
        rewards = dict(trajectory.rewards)
        if self._env.pays:
            rewards["environment"] = rows(self._reward)
        rewards = {x: jnp.where(dropped, jnp.nan, y) for x, y in rewards.items()}
        found = dataclasses.replace(
            trajectory, rewards=rewards, dropped=dropped, counts=counts
        )
        return spmd.constrain_batch(found)

    def _warn(self) -> None:
        if not self._errors:
            return
        first = self._errors[0]
        words = f"{type(first).__name__}: {first}"
        _logger.warning(
            "The host environment failed on %d of %d rows, which are left out. %s",
            *(len(self._errors), len(self._episodes), words),
            extra={"component": "environment", "error": words},
        )


def _traced(env: "HostEnvironment", trajectory: Trajectory) -> Trajectory:
    """The shapes of a trajectory; a program that computes it raises."""
    zeros = jnp.zeros(trajectory.terminated.shape, jnp.int32)
    tokens = eqx.error_if(
        trajectory.tokens,
        jnp.all(trajectory.tokens >= 0),
        "A host environment is asked between programs, and cannot be part of one: call "
        "`step.generate`, `rollout.generate` or `grpojax.fit` outside of `jit`.",
    )
    return dataclasses.replace(
        trajectory,
        tokens=tokens,
        dropped=zeros > 0,
        counts=dict.fromkeys(count_names(env), zeros),
    )


def count_names(env: "HostEnvironment") -> tuple[str, ...]:
    """What is counted in each row."""
    return ("errors", "rejected", *(() if env.pays else ("calls", "failures")))
