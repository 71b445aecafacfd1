"""The environment contract: gym's words, pure, unbatched, total, vmappable.

One action is one *turn*: what the policy says until a token that ends a turn. A
single-turn environment answers `done=True`. A multi-turn environment answers with
reply tokens, which the engine forces into the same stream: they are read by the
policy, and never trained on.
"""

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key

from .text import Number
from .types import Prompt


_State = TypeVar("_State")


class Turn(eqx.Module):
    """What the policy said in one turn.

    **Fields:**

    - `tokens`: the token ids, `Int[*batch time]`, 0 past `length`.
    - `length`: how many were said, the token that ended the turn included.
    - `ended`: whether the last one ends a turn; otherwise the horizon cut it short.
    """

    tokens: Int[Array, "*batch time"]
    length: Int[Array, "*batch"]
    ended: Bool[Array, "*batch"]


class TimeStep(eqx.Module):
    """What the environment answers to one turn.

    **Fields:**

    - `reply`: token ids that the policy reads next, `Int[*batch reply]`; its width
        may be 0.
    - `reply_length`: how many of them are real.
    - `rewards`: what this turn was paid, by component. The names are the same at every
        step; the trajectory holds the sum over its turns.
    - `done`: whether the conversation is over.
    """

    reply: Int[Array, "*batch reply"]
    reply_length: Int[Array, "*batch"]
    rewards: dict[str, Float[Array, "*batch"]]
    done: Bool[Array, "*batch"]


class AbstractEnvironment(eqx.Module, Generic[_State]):
    """A text environment: a pure pair of `reset` and `step` with static sizes.

    Its data set, if any, is array leaves, so that it is an argument of the compiled
    step and never a constant inside it. Nothing resets itself, nothing is global, and
    `step` takes no key: a stochastic environment keeps a key in its state.
    """

    vocab_size: eqx.AbstractVar[int]
    """Token ids are below this."""
    max_prompt_length: eqx.AbstractVar[int]
    """The width of every prompt."""
    max_completion_length: eqx.AbstractVar[int]
    """The horizon: sampled and reply tokens of all turns together."""
    max_turns: eqx.AbstractVar[int]
    """The longest conversation; after that many turns a row ends regardless."""
    end_tokens: eqx.AbstractVar[Int[Array, " end"]]
    """Any of these tokens ends a turn."""

    @abc.abstractmethod
    def reset(self, key: Key[Array, ""]) -> tuple[_State, Prompt]:
        """Starts a conversation.

        **Arguments:**

        - `key`: chooses it; the key is consumed.

        **Returns:** the state, and a prompt of width `max_prompt_length`.
        """

    @abc.abstractmethod
    def step(self, state: _State, turn: Turn) -> tuple[_State, TimeStep]:
        """Answers one turn; total: whatever the tokens are, an answer comes back."""


class AbstractDatasetEnvironment(AbstractEnvironment[_State]):
    """An environment with numbered problems, so that a whole split can be evaluated."""

    size: eqx.AbstractVar[int]
    """How many problems there are."""

    @abc.abstractmethod
    def problem(self, index: Int[Array, ""]) -> tuple[_State, Prompt]:
        """The conversation about problem number `index`."""

    def reset(self, key: Key[Array, ""]) -> tuple[_State, Prompt]:
        """Starts a conversation about a problem drawn uniformly."""
        return self.problem(jr.randint(key, (), 0, self.size))


class AbstractAnswerEnvironment(AbstractDatasetEnvironment[_State]):
    """Numbered problems that an integer answers, which can be read off what was said.

    An evaluation then lets samples vote, and knows what guessing would earn.
    """

    @abc.abstractmethod
    def gold(self, state: _State) -> Int[Array, ""]:
        """The right answer, known from the state of a conversation that has started."""

    @abc.abstractmethod
    def answer(self, turn: Turn) -> Number:
        """What the last turn of a conversation answers; total, like `step`."""
