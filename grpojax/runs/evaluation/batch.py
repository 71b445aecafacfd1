"""One batch of an evaluation: a program on the device, and one transfer."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ... import rollout
from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment, Turn
from ...policy import AbstractPolicy
from ...text import ParsedInteger
from ...types import Prompt
from ..distributed import mesh as placement
from .result import Evaluation
from .statistics import Answer


class Batch(NamedTuple):
    """What is kept of a batch: all that travels to the host."""

    prompts: Prompt
    tokens: Int[Array, "problem sample time"]
    extents: Int[Array, "problem sample"]
    lengths: Int[Array, "problem sample"]
    terminated: Bool[Array, "problem sample"]
    rewards: dict[str, Float[Array, "problem sample"]]
    silent: Bool[Array, " problem"]
    gold: Int[Array, " problem"] | None
    answers: ParsedInteger | None


@eqx.filter_jit
def complete(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    sampler: rollout.AbstractSampler,
    first: Int[Array, ""],
    count: Int[Array, ""],
    key: Key[Array, ""],
    *,
    batch: int,
    samples: int,
    slots: int | None,
    success: str,
) -> Batch:
    """Puts the `batch` problems from number `first` on to a policy.

    **Arguments:**

    - `policy`, `env`, `sampler`, `key`: as in `evaluate`.
    - `first`: the number of the first problem.
    - `count`: how many there are. What the last batch has too many is one token long,
        and is left to `on_the_host` to throw away.
    - `batch`, `samples`, `slots`, `success`: static.

    **Raises:** `ValueError` if the environment does not pay `success`.
    """
    numbers = first + jnp.arange(batch, dtype=jnp.int32)
    states, prompts = jax.vmap(env.problem)(jnp.minimum(numbers, count - 1))
    limits = jnp.where(numbers < count, env.max_completion_length, 1)
    trajectory = rollout.complete(
        policy,
        env,
        states,
        prompts,
        group=samples,
        slots=slots,
        limits=jnp.broadcast_to(limits[:, None], (batch, samples)),
        sampler=sampler,
        first=first,
        key=key,
    )
    if success not in trajectory.rewards:
        raise ValueError(
            "evaluate(success=...) names the component that is 1 for a right answer. "
            f"Received {success!r}; the environment pays {sorted(trajectory.rewards)}."
        )
    last_turns = jax.vmap(jax.vmap(_last_turn))
    extents, turns = last_turns(
        trajectory.tokens, trajectory.sampled, trajectory.terminated
    )
    place = jnp.arange(trajectory.tokens.shape[-1])
    gold, answers = None, None
    if isinstance(env, AbstractAnswerEnvironment):
        gold = jax.vmap(env.gold)(states)
        answers = jax.vmap(jax.vmap(env.answer))(turns)
    said = Batch(
        prompts=prompts,
        tokens=jnp.where(place < extents[..., None], trajectory.tokens, 0),
        extents=extents,
        lengths=trajectory.lengths,
        terminated=trajectory.terminated,
        rewards=trajectory.rewards,
        silent=jax.vmap(lambda state: _silent(env, state, success))(states),
        gold=gold,
        answers=answers,
    )
    return placement.everywhere(said)


def _last_turn(
    tokens: Int[Array, " time"], sampled: Bool[Array, " time"], ended: Bool[Array, ""]
) -> tuple[Int[Array, ""], Turn]:
    """How far a row reaches, and what the policy said after the last reply in it."""
    place = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    extent = jnp.max(jnp.where(sampled, place + 1, 0))
    start = jnp.max(jnp.where(~sampled & (place < extent), place + 1, 0))
    said = tokens.at[start + place].get(mode="fill", fill_value=0)
    length = extent - start
    return extent, Turn(jnp.where(place < length, said, 0), length, ended)


def _silent(
    env: AbstractDatasetEnvironment, state: PyTree, success: str
) -> Bool[Array, ""]:
    """Whether it is right to end every turn at once."""
    tokens = jnp.zeros(env.max_completion_length, jnp.int32)
    tokens = tokens.at[0].set(env.end_tokens[0].astype(jnp.int32))
    turn = Turn(tokens, jnp.ones((), jnp.int32), jnp.ones((), bool))

    def say(carry, _):
        state, done, paid = carry
        state, answer = env.step(state, turn)
        paid = paid + jnp.where(done, 0, answer.rewards[success])
        return (state, done | answer.done, paid), None

    start = state, jnp.zeros((), bool), jnp.zeros(())
    (_, _, paid), _ = jax.lax.scan(say, start, length=env.max_turns)
    return paid > 0.5


def on_the_host(
    batch: Batch, rows: slice, *, success: str, training_answer: Answer
) -> Evaluation:
    """Some rows of a batch, fetched in one transfer."""
    fetched: Batch = jax.device_get(batch)
    prompts, *fields, gold, answers = jax.tree.map(lambda x: x[rows], fetched)
    tokens, extents, lengths, terminated, rewards, silent = fields
    none = np.full(lengths.shape, None).tolist()
    return Evaluation(
        right=rewards[success] > 0.5,
        rewards=rewards,
        lengths=lengths,
        terminated=terminated,
        prompts=[
            row[:length]
            for row, length in zip(prompts.tokens, prompts.length, strict=True)
        ],
        tokens=tokens,
        extents=extents,
        answers=none if answers is None else _optional(answers),
        gold=[None] * len(lengths) if gold is None else gold.tolist(),
        silent=silent,
        training_answer=training_answer,
    )


def _optional(answers: ParsedInteger) -> list[list[Answer]]:
    pick = lambda value, valid: value if valid else None
    rows = zip(answers.value.tolist(), answers.valid.tolist(), strict=True)
    return [list(map(pick, values, valid)) for values, valid in rows]
