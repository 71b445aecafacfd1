"""One batch of an evaluation: a compiled program, and one transfer to the host."""

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
from ..distributed import mesh
from .result import EvaluationResult
from .statistics import Answer


class EvalBatch(NamedTuple):
    """Completions of a batch of problems: all that is transferred to the host."""

    prompts: Prompt
    tokens: Int[Array, "problem sample time"]
    total_lengths: Int[Array, "problem sample"]
    lengths: Int[Array, "problem sample"]
    terminated: Bool[Array, "problem sample"]
    rewards: dict[str, Float[Array, "problem sample"]]
    empty_is_correct: Bool[Array, " problem"]
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
) -> EvalBatch:
    """Evaluates problems `first .. first + batch - 1`.

    **Arguments:**

    - `policy`, `env`, `sampler`, `key`: as in `evaluate`.
    - `first`: index of the first problem.
    - `count`: number of problems. Rows of the last batch beyond it are one token long,
        and `to_host` drops them.
    - `batch`, `samples`, `slots`, `success`: static.

    **Raises:** `ValueError` if the environment has no reward `success`.
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
            "evaluate(success=...) names the reward that is 1 for a right answer. "
            f"Received {success!r}; the environment's rewards are "
            f"{sorted(trajectory.rewards)}."
        )
    last_turns = jax.vmap(jax.vmap(_last_turn))
    total_lengths, turns = last_turns(
        trajectory.tokens, trajectory.sampled, trajectory.terminated
    )
    place = jnp.arange(trajectory.tokens.shape[-1])
    gold, answers = None, None
    if isinstance(env, AbstractAnswerEnvironment):
        gold = jax.vmap(env.gold)(states)
        answers = jax.vmap(jax.vmap(env.answer))(turns)
    empty = jax.vmap(lambda state: _empty_is_correct(env, state, success))
    found = EvalBatch(
        prompts=prompts,
        tokens=jnp.where(place < total_lengths[..., None], trajectory.tokens, 0),
        total_lengths=total_lengths,
        lengths=trajectory.lengths,
        terminated=trajectory.terminated,
        rewards=trajectory.rewards,
        empty_is_correct=empty(states),
        gold=gold,
        answers=answers,
    )
    return mesh.replicate(found)


def _last_turn(
    tokens: Int[Array, " time"], sampled: Bool[Array, " time"], ended: Bool[Array, ""]
) -> tuple[Int[Array, ""], Turn]:
    """A row's tokens without padding, and its last turn."""
    place = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    total = jnp.max(jnp.where(sampled, place + 1, 0))
    start = jnp.max(jnp.where(~sampled & (place < total), place + 1, 0))
    turn = tokens.at[start + place].get(mode="fill", fill_value=0)
    length = total - start
    return total, Turn(jnp.where(place < length, turn, 0), length, ended)


def _empty_is_correct(
    env: AbstractDatasetEnvironment, state: PyTree, success: str
) -> Bool[Array, ""]:
    """Whether ending every turn at once scores as correct."""
    tokens = jnp.zeros(env.max_completion_length, jnp.int32)
    tokens = tokens.at[0].set(env.end_tokens[0].astype(jnp.int32))
    turn = Turn(tokens, jnp.ones((), jnp.int32), jnp.ones((), bool))

    def end_turn(carry, _):
        state, done, total = carry
        state, answer = env.step(state, turn)
        total = total + jnp.where(done, 0, answer.rewards[success])
        return (state, done | answer.done, total), None

    start = state, jnp.zeros((), bool), jnp.zeros(())
    (_, _, total), _ = jax.lax.scan(end_turn, start, length=env.max_turns)
    return total > 0.5


def to_host(
    batch: EvalBatch, rows: slice, *, success: str, training_answer: Answer
) -> EvaluationResult:
    """Some rows of a batch, in one transfer."""
    fetched: EvalBatch = jax.device_get(batch)
    prompts, *fields, gold, answers = jax.tree.map(lambda x: x[rows], fetched)
    tokens, total_lengths, lengths, terminated, rewards, empty_is_correct = fields
    none = np.full(lengths.shape, None).tolist()
    return EvaluationResult(
        correct=rewards[success] > 0.5,
        rewards=rewards,
        lengths=lengths,
        terminated=terminated,
        prompts=[
            row[:length]
            for row, length in zip(prompts.tokens, prompts.length, strict=True)
        ],
        tokens=tokens,
        total_lengths=total_lengths,
        answers=none if answers is None else _optional(answers),
        gold=[None] * len(lengths) if gold is None else gold.tolist(),
        empty_is_correct=empty_is_correct,
        training_answer=training_answer,
    )


def _optional(answers: ParsedInteger) -> list[list[Answer]]:
    pick = lambda value, valid: value if valid else None
    rows = zip(answers.value.tolist(), answers.valid.tolist(), strict=True)
    return [list(map(pick, values, valid)) for values, valid in rows]
