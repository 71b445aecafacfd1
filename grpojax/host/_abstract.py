"""What environments have in common whose rewards are known on the host alone."""

import abc
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..env import (
    AbstractAnswerEnvironment,
    AbstractDatasetEnvironment,
    Rows,
    TimeStep,
    Turn,
)
from ..text import ParsedInteger
from ..types import Prompt


class HostState(NamedTuple):
    """The number of a problem, and the state of the environment that has it."""

    problem: Int[Array, ""]
    state: PyTree


class AbstractHostEnvironment(AbstractDatasetEnvironment[HostState]):
    """The problems of an environment, whose rows are sampled with Python's help.

    The rewards are those of `env` for the last turn, and `environment`, which the host
    gives if it `pays`.
    """

    env: eqx.AbstractVar[AbstractDatasetEnvironment]
    """Of numbered problems, in one turn."""

    @property
    @abc.abstractmethod
    def pays(self) -> bool:
        """Whether the host gives rewards."""

    @abc.abstractmethod
    def dry_call(self) -> None:
        """Calls what can be called before a run begins, to find out whether it can be.

        **Raises:** `ValueError` for what cannot be called.
        """

    @property
    def vocab_size(self) -> int:
        return self.env.vocab_size

    @property
    def max_prompt_length(self) -> int:
        return self.env.max_prompt_length

    @property
    def max_completion_length(self) -> int:
        return self.env.max_completion_length

    @property
    def end_tokens(self) -> Int[Array, " end"]:
        return self.env.end_tokens

    @property
    def size(self) -> int:
        return self.env.size

    @property
    def rows(self) -> Rows | None:
        return self.env.rows

    @property
    def tasks(self) -> Mapping[str, int]:
        return self.env.tasks

    def draw(self, key):
        return self.env.draw(key)

    def problem(self, index: Int[Array, ""]) -> tuple[HostState, Prompt]:
        state, prompt = self.env.problem(index)
        return HostState(jnp.asarray(index, jnp.int32), state), prompt

    def horizon(self, state: HostState) -> Int[Array, ""]:
        return self.env.horizon(state.state)

    def ends_turn(self, state: HostState, token: Int[Array, ""]) -> Bool[Array, ""]:
        return self.env.ends_turn(state.state, token)

    def read_stop(self, state: HostState, spelled, token):
        return self.env.read_stop(state.state, spelled, token)

    def step(self, state: HostState, turn: Turn) -> tuple[HostState, TimeStep]:
        inner, step = self.env.step(state.state, turn)
        rewards = dict(step.rewards)
        if self.pays:  # Known when the host has been asked.
            rewards["environment"] = jnp.zeros((), jnp.float32)
        step = eqx.tree_at(lambda x: x.rewards, step, rewards)
        return HostState(state.problem, inner), step


class HostAnswers(AbstractAnswerEnvironment[HostState]):
    """The answers of an environment that knows them, as a base class of its wrapper."""

    env: eqx.AbstractVar[AbstractDatasetEnvironment]

    def gold(self, state: HostState) -> Int[Array, ""]:
        return self._answers.gold(state.state)

    def answer(self, turn: Turn) -> ParsedInteger:
        return self._answers.answer(turn)

    @property
    def _answers(self) -> AbstractAnswerEnvironment:
        assert isinstance(self.env, AbstractAnswerEnvironment)
        return self.env
