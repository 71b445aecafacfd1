"""The environment contract: `reset` and `step`, pure, unbatched, total, vmappable.

One action is one *turn*: the tokens that the policy samples until one that ends a turn.
A single-turn environment returns `done=True`. A multi-turn environment returns reply
tokens, which the engine appends to the same sequence: the policy attends to them, and
they are never trained on.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key

from .measures import AbstractMeasures
from .text import ParsedInteger, StopString
from .types import Prompt, Trajectory


_State = TypeVar("_State")


class Turn(eqx.Module):
    """The tokens that the policy sampled in one turn: the action.

    **Fields:**

    - `tokens`: token ids, 0 past `length`.
    - `length`: tokens of the turn, the token that ended it included.
    - `ended`: whether the last token ends a turn; else the horizon truncated it.
    """

    tokens: Int[Array, "*batch time"]
    length: Int[Array, "*batch"]
    ended: Bool[Array, "*batch"]


class TimeStep(eqx.Module):
    """The environment's answer to one turn: observation, rewards, done.

    **Fields:**

    - `reply`: token ids that follow the turn, right-padded; their width may be 0.
    - `reply_length`: tokens of the reply.
    - `rewards`: rewards of this turn, by component. The names are the same at every
        step; the trajectory records the sum over its turns. NaN marks a component that
        does not apply to the conversation; another one does.
    - `done`: whether the conversation is over. In an environment of several turns it
        stays so, and a turn after it is paid nothing.
    """

    reply: Int[Array, "*batch reply"]
    reply_length: Int[Array, "*batch"]
    rewards: dict[str, Float[Array, "*batch"]]
    done: Bool[Array, "*batch"]


class AbstractEnvironment(eqx.Module, Generic[_State]):
    """A text environment: a pure pair of `reset` and `step` with static sizes.

    Its data set, if any, is array leaves, so that it is an argument of the compiled
    step and never a constant inside it. There is no auto-reset and no global state, and
    `step` takes no key: a stochastic environment keeps a key in its state.
    `grpojax.testing.check_env` checks the contract.
    """

    vocab_size: eqx.AbstractVar[int]
    """Token ids are below this."""
    max_prompt_length: eqx.AbstractVar[int]
    """The width of every prompt."""
    max_completion_length: eqx.AbstractVar[int]
    """The horizon: the sum of sampled and reply tokens over all turns."""
    max_turns: eqx.AbstractVar[int]
    """The most turns of a conversation; after them it is over whatever `done` is."""
    end_tokens: eqx.AbstractVar[Int[Array, " end"]]
    """The tokens that end a turn; see `ends_turn`."""

    stop: StopString | None = eqx.field(kw_only=True, default=None)
    """A string that ends a turn, too, wherever its tokens begin and end.

    It is matched on the text of the turn's own tokens.
    """

    @abc.abstractmethod
    def reset(self, key: Key[Array, ""]) -> tuple[_State, Prompt]:
        """The start of a random conversation.

        **Arguments:**

        - `key`: of the random draw; consumed.

        **Returns:** the state, and a prompt of width `max_prompt_length`.
        """

    @property
    def pauses(self) -> bool:
        """Whether a row waits at the end of each turn, for `rollout.answer`.

        Then `step` sees the last turn alone, and gives its rewards.
        """
        return False

    @property
    def backend(self) -> Callable[..., Trajectory] | None:
        """What samples the rows: a function with the arguments of `rollout.complete`.

        By default, `None`, the decode engine. One that runs Python is called outside of
        compiled programs.
        """
        return None

    def horizon(self, state: _State) -> Int[Array, ""]:
        """The most tokens of a conversation, at most `max_completion_length`.

        **Arguments:**

        - `state`: from `reset`.
        """
        del state
        return jnp.asarray(self.max_completion_length, jnp.int32)

    def ends_turn(self, state: _State, token: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether a token ends a turn: by default, any of `end_tokens` does.

        **Arguments:**

        - `state`: from `reset`, or from the step before.
        - `token`: that the policy sampled.
        """
        del state
        return jnp.any(token == self.end_tokens)

    def read_stop(
        self, state: _State, spelled: Int[Array, ""], token: Int[Array, ""]
    ) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """How much of the stop string is spelled, and whether all of it: by `stop`.

        **Arguments:**

        - `state`: from `reset`, or from the step before.
        - `spelled`: after the token before; 0 at the beginning of a turn.
        - `token`: that the policy sampled.
        """
        del state
        if self.stop is None:
            return spelled, jnp.zeros((), bool)
        spelled = self.stop(spelled, token)
        return spelled, spelled == self.stop.found

    @abc.abstractmethod
    def step(self, state: _State, turn: Turn) -> tuple[_State, TimeStep]:
        """The answer to one turn; total: defined for any tokens.

        **Arguments:**

        - `state`: from `reset`, or from the step before.
        - `turn`: the policy's turn.

        **Returns:** the next state, of the same structure, and the answer.
        """


class Rows(Mapping[str, Sequence[object]]):
    """Columns of a data set, on the host: what Python reads and no program does.

    It is equal to itself alone, so that it can be a static field of an environment. No
    program depends on its values: two environments that differ in nothing else share
    one if they share the object.

    !!! example

        ```python
        rows = Rows.of([{"question": "2 + 3?", "level": "easy"}])
        rows["level"][0], rows.size  # "easy", 1
        ```
    """

    def __init__(self, columns: Mapping[str, Sequence[object]]):
        """**Arguments:**

        - `columns`: the values of each column, one for each problem.

        **Raises:** `ValueError` for columns of different lengths.
        """
        self._columns = dict(columns)
        lengths = {name: len(values) for name, values in columns.items()}
        if len({*lengths.values()}) > 1:
            raise ValueError(
                "Columns of rows have one value for each problem. Received columns of "
                f"different lengths: {lengths}."
            )

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]]) -> "Rows":
        """The columns of rows; one that a row lacks is `None` there."""
        names = {name: None for row in rows for name in row}
        return cls({name: [row.get(name) for row in rows] for name in names})

    @property
    def size(self) -> int:
        """The number of rows."""
        return max(map(len, self._columns.values()), default=0)

    def __getitem__(self, name: str) -> Sequence[object]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Rows({self.size} rows of {', '.join(self._columns)})"


class AbstractDatasetEnvironment(AbstractEnvironment[_State]):
    """An environment with numbered problems, so that a whole split can be evaluated."""

    size: eqx.AbstractVar[int]
    """The number of problems."""

    @abc.abstractmethod
    def problem(self, index: Int[Array, ""]) -> tuple[_State, Prompt]:
        """The start of the conversation about one problem.

        **Arguments:**

        - `index`: of the problem, from 0 to `size - 1`.

        **Returns:** as `reset`.
        """

    @property
    def rows(self) -> Rows | None:
        """The columns that the problems were made from, in their order, if any."""
        return None

    @property
    def tasks(self) -> Mapping[str, int]:
        """The number of problems of each task, in the order of problem numbers.

        Metrics are split by these names; empty for an environment of a single task.
        """
        return {}

    @property
    def own_measures(self) -> AbstractMeasures | None:
        """What an evaluation measures besides the accuracy, if anything."""
        return None

    def draw(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """The number of a problem drawn uniformly."""
        return jr.randint(key, (), 0, self.size)

    def reset(self, key: Key[Array, ""]) -> tuple[_State, Prompt]:
        """The start of a conversation about a problem drawn uniformly."""
        return self.problem(self.draw(key))


class AbstractAnswerEnvironment(AbstractDatasetEnvironment[_State]):
    """Numbered problems whose answer is an integer parsed from the completion.

    An evaluation can then report majority votes and the accuracy of constant guesses.
    """

    @abc.abstractmethod
    def gold(self, state: _State) -> Int[Array, ""]:
        """The correct answer, from the state that `problem` returned."""

    @abc.abstractmethod
    def answer(self, turn: Turn) -> ParsedInteger:
        """The answer parsed from a conversation's last turn; total as `step` is."""
