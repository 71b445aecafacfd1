"""One batch of an evaluation: what is sampled, judged and transferred to the host."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ... import rollout
from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment, Turn
from ...policy import AbstractPolicy
from ...reward import checked, RewardFn
from ...text import ParsedInteger
from ...types import Prompt, Trajectory
from ..distributed import mesh
from .statistics import Answer, answer_text


class EvalBatch(NamedTuple):
    """Completions of a batch of problems: all that is transferred to the host.

    What is not known of them is `None`: a total without a reward function, right (1)
    and wrong (0) without a reward that says so, answers that are not parsed. In a
    mixture the reward may be that of some tasks only: NaN for the others.
    """

    prompts: Prompt
    tokens: Int[Array, "problem sample time"]
    total_lengths: Int[Array, "problem sample"]
    lengths: Int[Array, "problem sample"]
    terminated: Bool[Array, "problem sample"]
    rewards: dict[str, Float[Array, "problem sample"]]
    total: Float[Array, "problem sample"] | None
    errors: dict[str, Bool[Array, "problem sample"]]
    correct: Float[Array, "problem sample"] | None
    empty_is_correct: Bool[Array, " problem"] | None
    gold: Int[Array, " problem"] | None
    answers: ParsedInteger | None


class Sizes(NamedTuple):
    """Sizes of a batch; see `Evaluation`."""

    batch: int
    samples: int
    slots: int | None


def sample(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    sampler: rollout.AbstractSampler,
    first: Int[Array, ""],
    count: Int[Array, ""],
    chosen: Int[Array, " problem"] | None,
    key: Key[Array, ""],
    *,
    sizes: Sizes,
) -> Trajectory:
    """Completions of problems `first .. first + batch - 1` of `count`.

    Of the problems with the numbers `chosen`, if these are not the first ones. Rows
    beyond `count` are one token long, for `to_records` to drop.
    """
    numbers = first + jnp.arange(sizes.batch, dtype=jnp.int32)
    problems = jnp.minimum(numbers, count - 1)
    problems = problems if chosen is None else chosen[problems]
    states, prompts = jax.vmap(env.problem)(problems)
    limits = jnp.where(numbers < count, env.max_completion_length, 1)
    trajectory = rollout.complete(
        policy,
        env,
        states,
        prompts,
        group=sizes.samples,
        slots=sizes.slots,
        limits=jnp.broadcast_to(limits[:, None], (sizes.batch, sizes.samples)),
        sampler=sampler,
        first=first,
        key=key,
    )
    return dataclasses.replace(trajectory, problems=problems)


def score_batch(
    env: AbstractDatasetEnvironment,
    reward: RewardFn | None,
    trajectory: Trajectory,
    success: str | None,
) -> EvalBatch:
    """What is recorded of completions; see `Evaluation` for the arguments.

    **Raises:** `ValueError` if there is no reward `success`, or nothing to judge by.
    """
    rewards, total, errors = dict(trajectory.rewards), None, {}
    if reward is not None:
        judged = checked(reward, trajectory)
        rewards |= judged.components
        total, errors = jnp.where(judged.valid, judged.total, jnp.nan), judged.errors
    if success is None and "correct" in rewards:
        success = "correct"
    if success is not None and success not in rewards:
        raise ValueError(
            "Evaluation(success=...) names the reward that is 1 for a right answer. "
            f"Received {success!r}; the rewards are {sorted(rewards)}."
        )
    if total is None and success is None:
        if not rewards:
            raise ValueError(
                "An evaluation needs rewards. Received an environment without any, and "
                "no `reward`: pass a function that judges completions."
            )
        total = functools.reduce(jnp.add, rewards.values())
    last_turns = jax.vmap(jax.vmap(rollout.last_turn))
    turns = last_turns(trajectory.tokens, trajectory.sampled, trajectory.terminated)
    place = jnp.arange(1, trajectory.tokens.shape[-1] + 1, dtype=jnp.int32)
    total_lengths = jnp.max(jnp.where(trajectory.sampled, place, 0), axis=-1)
    gold, answers, empty = None, None, None
    if isinstance(env, AbstractAnswerEnvironment):
        gold = jax.vmap(env.gold)(trajectory.states)
        answers = jax.vmap(jax.vmap(env.answer))(turns)
    if success in trajectory.rewards:
        ends_well = lambda state: _empty_is_correct(env, state, str(success))
        empty = jax.vmap(ends_well)(trajectory.states)
    found = EvalBatch(
        prompts=trajectory.prompt,
        tokens=trajectory.tokens,
        total_lengths=total_lengths,
        lengths=trajectory.lengths,
        terminated=trajectory.terminated,
        rewards=rewards,
        total=total,
        errors=errors,
        correct=None if success is None else _is_above_half(rewards[success]),
        empty_is_correct=empty,
        gold=gold,
        answers=answers,
    )
    return mesh.replicate(found)


def _is_above_half(reward: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 above a half, 0 below, and NaN where the reward does not apply."""
    right = (reward > 0.5).astype(reward.dtype)
    return jnp.where(jnp.isnan(reward), reward, right)


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
    decode: Callable[[list[int]], str] | None,
    *,
    first: int,
    tasks: Sequence[str] = (),
    columns: Sequence[Mapping[str, object]] = (),
) -> list[dict]:
    """Some rows of a batch as records of `predictions`, numbered from `first` on.

    Without `decode` they have no text. `tasks` are those of all problems of a mixture,
    and `columns` what of all problems' rows is recorded.
    """
    some: EvalBatch = jax.tree.map(lambda x: x[rows], jax.device_get(batch))
    problems, samples = some.lengths.shape
    gold, answers, text_of = some.gold, some.answers, decode or (lambda _: "")

    def answer(p: int, g: int, text: str) -> Answer:
        if answers is None:
            # For votes, which one sample alone does not need.
            return answer_text(text) if samples > 1 else None
        return int(answers.value[p, g]) if answers.valid[p, g] else None

    def correct(p: int, g: int) -> bool | None:
        if some.correct is None or np.isnan(some.correct[p, g]):
            return None
        return bool(some.correct[p, g])

    def sample(p: int, g: int) -> dict:
        tokens = some.tokens[p, g, : some.total_lengths[p, g]].tolist()
        text = text_of(tokens)
        found = {
            "text": text,
            "tokens": tokens,
            "correct": correct(p, g),
            "answer": answer(p, g, text),
            "terminated": bool(some.terminated[p, g]),
            "length": int(some.lengths[p, g]),
            "rewards": {name: float(x[p, g]) for name, x in some.rewards.items()},
        }
        if some.total is not None:
            found["total"] = float(some.total[p, g])
        failed = [name for name, x in some.errors.items() if x[p, g]]
        return found | ({"failed": failed} if failed else {})

    def record(p: int) -> dict:
        prompt = some.prompts.tokens[p, : some.prompts.length[p]].tolist()
        empty = some.empty_is_correct
        return {
            "problem": first + p,
            **({"task": tasks[first + p]} if tasks else {}),
            **({"row": dict(columns[first + p])} if columns else {}),
            "prompt": text_of(prompt),
            "prompt_tokens": prompt,
            "answer": None if gold is None else int(gold[p]),
            "silent": None if empty is None else bool(empty[p]),
            "samples": [sample(p, g) for g in range(samples)],
        }

    return [record(p) for p in range(problems)]
