"""One-digit addition, asked in plain text after three examples.

    2 + 3 = 5
    9 + 4 = 13
    0 + 7 = 7
    8 + 6 =

A task that a small pretrained model can do, though not reliably, in four tokens: the
cheapest way to see a real model learn.
"""

import dataclasses
import functools as ft
import random
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from grpojax.env import AbstractAnswerEnvironment, TimeStep, Turn
from grpojax.text import AbstractTokenizer, Bytes, last_number, Number, TokenBytes
from grpojax.types import Prompt

from ._choice import check_choice
from ._prompts import end_token_array, pad_prompts, tokens_containing
from ._single_turn import last_step, text_of


_SHOWN = ((2, 3), (9, 4), (0, 7))
_HELD_OUT = 32


def pairs(split: str) -> list[tuple[int, int]]:
    """The pairs of digits of a split: 65 to train on, 32 others to test.

    The three that every prompt shows, with their sums, are in neither.
    """
    check_choice("split", split, ("train", "test"))
    digits = range(10)
    every = [(a, b) for a in digits for b in digits if (a, b) not in _SHOWN]
    random.Random("addition").shuffle(every)
    return every[:_HELD_OUT] if split == "test" else every[_HELD_OUT:]


class Addition(AbstractAnswerEnvironment[Int[Array, ""]]):
    """Sums of two digits; the answer is the last integer before the first newline.

    Actions: what the policy says until a token that contains a newline, or an end token
    of its tokenizer. Rewards, each 0 or 1: `correct`, the answer is the sum; `format`,
    there is an answer. One turn. The state is the sum.

    **Fields:**

    - `prompts`, `prompt_lengths`, `answers`: the problems, right-padded with 0.
    - `token_bytes`: the bytes of every token.
    - `end_tokens`: the tokens that end a turn.
    - `max_completion_length`: as it was given.
    """

    prompts: Int[Array, "problem prefix"]
    prompt_lengths: Int[Array, " problem"]
    answers: Int[Array, " problem"]
    token_bytes: TokenBytes
    end_tokens: Int[Array, " end"]
    max_completion_length: int = eqx.field(static=True)

    def __init__(
        self,
        tokenizer: AbstractTokenizer,
        *,
        split: str = "train",
        max_completion_length: int = 4,
    ):
        """**Arguments:**

        - `tokenizer`: the policy's.
        - `split`: which pairs of digits; the two have none in common.
        - `max_completion_length`: the horizon in tokens.
        """
        if max_completion_length < 1:
            raise ValueError(
                "`max_completion_length` must be at least 1. Received "
                f"{max_completion_length}."
            )
        shown = "".join(f"{a} + {b} = {a + b}\n" for a, b in _SHOWN)
        prompts = [tokenizer.encode(f"{shown}{a} + {b} =") for a, b in pairs(split)]
        padded = pad_prompts(prompts)
        newlines = tokens_containing(tokenizer.token_bytes, b"\n")
        self.prompts = jnp.asarray(padded.tokens)
        self.prompt_lengths = jnp.asarray(padded.lengths)
        self.answers = jnp.array([a + b for a, b in pairs(split)], jnp.int32)
        self.token_bytes = tokenizer.token_bytes
        self.end_tokens = jnp.asarray(end_token_array(tokenizer, newlines))
        self.max_completion_length = max_completion_length

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
        number = self.answer(turn)
        correct = number.valid & (number.value == state)
        return state, last_step(correct=correct, format=number.valid)

    def gold(self, state: Int[Array, ""]) -> Int[Array, ""]:
        return state

    def answer(self, turn: Turn) -> Number:
        text = text_of(self.token_bytes, turn)
        place = jnp.arange(text.data.shape[0], dtype=jnp.int32)
        newline = jnp.where(text.data == ord("\n"), place, text.length)
        return last_number(Bytes(text.data, jnp.min(newline)))


@runtime_checkable
class Settings(Protocol):
    """A recipe's section `data`, of which this task needs nothing."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]


def environments(
    data: Settings, tokenizer: AbstractTokenizer, *, horizon: int, held_out: int | None
) -> tuple[Addition, Addition | None, list[str]]:
    """What a recipe with `data.task: addition` trains on and is judged on.

    **Arguments:**

    - `data`: the recipe's section of that name, of which no other key may be set.
    - `tokenizer`: the policy's.
    - `horizon`: the longest completion, in tokens.
    - `held_out`: how many problems will be judged: the first of the 32 that there are.

    **Returns:** the environment to train on, the one that is held out (`None` if
    nothing is), and no remarks.

    **Raises:** `ValueError` for another key of `data`, or more problems than there are.
    """
    changed = [
        field.name
        for field in dataclasses.fields(data)
        if field.name != "task" and vars(data)[field.name] != field.default
    ]
    if changed:
        raise ValueError(
            "`data.task: addition` makes its own problems and takes no other key of "
            f"`data`. Received {', '.join(changed)}: leave them out."
        )
    make = ft.partial(Addition, tokenizer, max_completion_length=horizon)
    test = make(split="test")
    if held_out is not None and held_out > test.size:
        raise ValueError(
            f"`run.eval_problems` asks for {held_out} rows. Received {test.size}, "
            "which is all there are: lower it, raise `run.eval_samples` instead, or "
            "leave it null."
        )
    return make(split="train"), None if held_out == 0 else test, []
