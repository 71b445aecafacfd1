"""One batch of an evaluation: a compiled program, and one transfer to the host."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ... import rollout
from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment, Turn
from ...policy import AbstractPolicy
from ...text import ParsedInteger
from ...types import Prompt
from ..distributed import mesh


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
    """Evaluates problems `first .. first + batch - 1` of `count`.

    Rows beyond `count` are one token long, for `to_records` to drop. See `Evaluation`
    for the other arguments, and for the error if there is no reward `success`.
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
    gold, answers = None, None
    if isinstance(env, AbstractAnswerEnvironment):
        gold = jax.vmap(env.gold)(states)
        answers = jax.vmap(jax.vmap(env.answer))(turns)
    empty = jax.vmap(lambda state: _empty_is_correct(env, state, success))
    found = EvalBatch(
        prompts=prompts,
        tokens=trajectory.tokens,
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


def to_records(
    batch: EvalBatch,
    rows: slice,
    decode: Callable[[list[int]], str],
    *,
    first: int,
    success: str,
) -> list[dict]:
    """Some rows of a batch as records of `predictions`, numbered from `first` on."""
    some: EvalBatch = jax.tree.map(lambda x: x[rows], jax.device_get(batch))
    problems, samples = some.lengths.shape
    gold, answers = some.gold, some.answers

    def answer(p: int, g: int) -> int | None:
        if answers is None or not answers.valid[p, g]:
            return None
        return int(answers.value[p, g])

    def sample(p: int, g: int) -> dict:
        tokens = some.tokens[p, g, : some.total_lengths[p, g]].tolist()
        return {
            "text": decode(tokens),
            "tokens": tokens,
            "correct": bool(some.rewards[success][p, g] > 0.5),
            "answer": answer(p, g),
            "terminated": bool(some.terminated[p, g]),
            "length": int(some.lengths[p, g]),
            "rewards": {name: float(x[p, g]) for name, x in some.rewards.items()},
        }

    def record(p: int) -> dict:
        prompt = some.prompts.tokens[p, : some.prompts.length[p]].tolist()
        return {
            "problem": first + p,
            "prompt": decode(prompt),
            "prompt_tokens": prompt,
            "answer": None if gold is None else int(gold[p]),
            "silent": bool(some.empty_is_correct[p]),
            "samples": [sample(p, g) for g in range(samples)],
        }

    return [record(p) for p in range(problems)]
