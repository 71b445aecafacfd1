"""Environments with one question, one turn and one integer as the answer."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from grpojax.env import AbstractAnswerEnvironment, TimeStep, Turn
from grpojax.text import Bytes, ParsedInteger, to_bytes, TokenBytes
from grpojax.types import Prompt

from .answers import Integer


# Hardly any tokens are longer, except runs of spaces. Where a completion has more bytes
# per token its beginning is truncated: answers are at the end.
_BYTES_PER_TOKEN = 16


class AbstractQuestionAnswer(AbstractAnswerEnvironment[Int[Array, ""]]):
    """Numbered questions with integer answers, answered in one turn.

    The state of a conversation is the answer. Rewards, each 0 or 1: `correct`, the
    integer in the completion equals the answer; `format`, the completion is
    well-formed.

    **Fields:**

    - `prompts`, `prompt_lengths`: the prompts, right-padded with 0.
    - `answers`: the integers that answer them.
    - `token_bytes`: the bytes of every token.
    - `end_tokens`: the tokens that end a turn.
    - `max_completion_length`: the horizon, tokens.
    """

    prompts: Int[Array, "problem prefix"]
    prompt_lengths: Int[Array, " problem"]
    answers: Int[Array, " problem"]
    token_bytes: TokenBytes
    end_tokens: Int[Array, " end"]
    max_completion_length: int = eqx.field(static=True)

    @property
    @abc.abstractmethod
    def kind(self) -> Integer:
        """How a completion is checked against its answer."""

    @property
    def vocab_size(self) -> int:
        return self.token_bytes.length.shape[0]

    @property
    def max_prompt_length(self) -> int:
        return self.prompts.shape[1]

    @property
    def max_turns(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self.prompts.shape[0]

    def problem(self, index: Int[Array, ""]) -> tuple[Int[Array, ""], Prompt]:
        prompt = Prompt(self.prompts[index], self.prompt_lengths[index])
        return self.answers[index], prompt

    def step(
        self, state: Int[Array, ""], turn: Turn
    ) -> tuple[Int[Array, ""], TimeStep]:
        checked = self.kind.check(self.text(turn), state)
        answer = TimeStep(
            reply=jnp.zeros(0, jnp.int32),
            reply_length=jnp.zeros((), jnp.int32),
            rewards={
                "correct": checked.correct.astype(jnp.float32),
                "format": checked.well_formed.astype(jnp.float32),
            },
            done=jnp.ones((), bool),
        )
        return state, answer

    def gold(self, state: Int[Array, ""]) -> Int[Array, ""]:
        return state

    def answer(self, turn: Turn) -> ParsedInteger:
        return self.kind.vote(self.text(turn))

    def text(self, turn: Turn) -> Bytes:
        """The part of a completion in which the answer is: all of it."""
        time = turn.tokens.shape[0]
        inside = jnp.arange(time, dtype=jnp.int32) < turn.length
        size = min(self.token_bytes.table.shape[1], _BYTES_PER_TOKEN) * time
        return to_bytes(self.token_bytes, turn.tokens, inside, size=size)


def check_horizon(max_completion_length: int) -> None:
    """Raises a `ValueError` for a horizon without tokens."""
    if max_completion_length < 1:
        raise ValueError(
            "`max_completion_length` must be at least 1. Received "
            f"{max_completion_length}."
        )
