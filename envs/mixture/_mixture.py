"""Environments with numbered problems, joined under one static shape."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from grpojax.env import AbstractDatasetEnvironment, Rows, TimeStep, Turn
from grpojax.types import Prompt


_T = TypeVar("_T")


class MixtureState(eqx.Module):
    """The state of a conversation about one of several tasks.

    **Fields:**

    - `task`: the number of the task.
    - `turns`: turns that are over.
    - `over`: whether the conversation is.
    - `states`: a state of every task; that of `task` is the conversation's, and the
        others keep the shape static.
    """

    task: Int[Array, ""]
    turns: Int[Array, ""]
    over: Bool[Array, ""]
    states: tuple[PyTree, ...]


class Mixture(AbstractDatasetEnvironment[MixtureState]):
    """The problems of several environments, one environment's after the other's.

    Shapes are those of the widest: prompts and replies are padded, and the horizon and
    the number of turns are the largest. A conversation has the limits of its own task:
    its horizon, its turns, and the tokens and the stop string that end them, so that
    the newline that ends a sum cuts no worked answer short. It has the rewards of its
    own task, and NaN for the components of the others.

    Every turn is answered by every task, and one answer is taken: what an environment's
    `step` costs is the sum over the tasks. All of them need the same tokenizer.

    **Fields:**

    - `envs`: the environments, in order.
    - `names`: of the tasks, for metrics, weights and the column `task` of `rows`.
    - `end_tokens`: the union of the tasks' end tokens.

    **Raises:** `ValueError` without environments.

    !!! example

        ```python
        sums, words = Addition(tokenizer), GSM8K(rows, tokenizer, ...)
        env = Mixture({"sums": sums, "words": words})
        chosen = curriculum.Mixture({"sums": 1, "words": 3})
        ```
    """

    envs: tuple[AbstractDatasetEnvironment, ...]
    names: tuple[str, ...] = eqx.field(static=True)
    end_tokens: Int[Array, " end"]
    _rows: Rows = eqx.field(static=True)

    def __init__(self, tasks: Mapping[str, AbstractDatasetEnvironment]):
        """**Arguments:**

        - `tasks`: the environments by name.
        """
        if not tasks:
            raise ValueError(
                "A mixture joins at least one environment. Received {}: name some."
            )
        self.names, self.envs = tuple(tasks), tuple(tasks.values())
        ends = np.concatenate([np.asarray(env.end_tokens) for env in self.envs])
        self.end_tokens = jnp.asarray(np.unique(ends), jnp.int32)
        self._rows = _joined(tasks)

    @property
    def vocab_size(self) -> int:
        return max(env.vocab_size for env in self.envs)

    @property
    def max_prompt_length(self) -> int:
        return max(env.max_prompt_length for env in self.envs)

    @property
    def max_completion_length(self) -> int:
        return max(env.max_completion_length for env in self.envs)

    @property
    def max_turns(self) -> int:
        return max(env.max_turns for env in self.envs)

    @property
    def size(self) -> int:
        return sum(env.size for env in self.envs)

    @property
    def rows(self) -> Rows:
        return self._rows

    @property
    def tasks(self) -> Mapping[str, int]:
        return {name: env.size for name, env in zip(self.names, self.envs, strict=True)}

    def problem(self, index: Int[Array, ""]) -> tuple[MixtureState, Prompt]:
        index, first, task = jnp.asarray(index, jnp.int32), 0, jnp.zeros((), jnp.int32)
        states, prompts = [], []
        for env in self.envs:
            task = task + (index >= first + env.size).astype(jnp.int32)
            state, prompt = env.problem(jnp.clip(index - first, 0, env.size - 1))
            padding = (0, self.max_prompt_length - env.max_prompt_length)
            tokens = jnp.pad(prompt.tokens.astype(jnp.int32), padding)
            prompts.append(Prompt(tokens, prompt.length.astype(jnp.int32)))
            states.append(state)
            first += env.size
        task = jnp.minimum(task, len(self.envs) - 1)
        turns, over = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        state = MixtureState(task, turns, over, tuple(states))
        return state, _taken(task, prompts)

    def horizon(self, state: MixtureState) -> Int[Array, ""]:
        each = zip(self.envs, state.states, strict=True)
        return _taken(state.task, [env.horizon(own) for env, own in each])

    def ends_turn(self, state: MixtureState, token: Int[Array, ""]) -> Bool[Array, ""]:
        each = zip(self.envs, state.states, strict=True)
        return _taken(state.task, [env.ends_turn(own, token) for env, own in each])

    def read_stop(
        self, state: MixtureState, spelled: Int[Array, ""], token: Int[Array, ""]
    ) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        # Each task reads with its own automaton, in whose states one answer is right.
        each = zip(self.envs, state.states, strict=True)
        read = [env.read_stop(own, spelled, token) for env, own in each]
        return _taken(state.task, read)

    def step(self, state: MixtureState, turn: Turn) -> tuple[MixtureState, TimeStep]:
        states, answers = [], []
        for env, own in zip(self.envs, state.states, strict=True):
            time = env.max_completion_length
            length = jnp.minimum(turn.length, time)
            own, answer = env.step(own, Turn(turn.tokens[:time], length, turn.ended))
            states.append(own)
            answers.append(answer)
        width = max(answer.reply.shape[0] for answer in answers)
        names = {name: None for answer in answers for name in answer.rewards}
        absent = jnp.full((), jnp.nan, jnp.float32)
        answers = [
            TimeStep(
                reply=jnp.pad(
                    answer.reply.astype(jnp.int32), (0, width - answer.reply.shape[0])
                ),
                reply_length=answer.reply_length.astype(jnp.int32),
                rewards={
                    name: _paid(answer.rewards.get(name, absent), state.over)
                    for name in names
                },
                done=state.over | answer.done | (state.turns + 1 >= env.max_turns),
            )
            for env, answer in zip(self.envs, answers, strict=True)
        ]
        answer = _taken(state.task, answers)
        turns = state.turns + 1
        return MixtureState(state.task, turns, answer.done, tuple(states)), answer


def _paid(reward: Float[Array, ""], over: Bool[Array, ""]) -> Float[Array, ""]:
    """A reward of a turn: 0 after the end, but NaN where it does not apply."""
    return jnp.where(over & ~jnp.isnan(reward), 0, reward).astype(jnp.float32)


def _taken(task: Int[Array, ""], trees: Sequence[_T]) -> _T:
    """The tree of one task, of trees of the same shapes."""
    return jax.tree.map(lambda *leaves: jax.lax.select_n(task, *leaves), *trees)


def _joined(tasks: Mapping[str, AbstractDatasetEnvironment]) -> Rows:
    """The rows of all tasks, with their column `task`; what a task lacks is `None`."""
    rows = {task: env.rows or {} for task, env in tasks.items()}
    names = {name: None for own in rows.values() for name in own if name != "task"}
    columns: dict[str, list[object]] = {name: [] for name in (*names, "task")}
    for task, env in tasks.items():
        for name in names:
            columns[name].extend(rows[task].get(name, [None] * env.size))
        columns["task"].extend([task] * env.size)
    return Rows(columns)
