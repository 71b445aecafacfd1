"""One-digit addition, prompted in plain text after three examples.

    2 + 3 = 5
    9 + 4 = 13
    0 + 7 = 7
    8 + 6 =

A task that a small pretrained model solves, though not reliably, in four tokens: the
cheapest way to see a real model learn.
"""

import functools as ft
import random

import jax.numpy as jnp

from grpojax.env import Turn
from grpojax.text import AbstractTokenizer, Bytes

from ._prompts import check_choice, tokens_containing
from .answers import Integer
from .options import AdditionOptions
from .questions import PromptFormat, Questions


_EXAMPLES = ((2, 3), (9, 4), (0, 7))
_TEST_PAIRS = 32


def pairs(split: str) -> list[tuple[int, int]]:
    """The pairs of digits of a split: 65 to train on, 32 others to test.

    The three examples of the prompt are in neither.

    **Arguments:**

    - `split`: `"train"` or `"test"`.

    **Returns:** the pairs, in a fixed random order.
    """
    check_choice("split", split, ("train", "test"))
    digits = range(10)
    every = [(a, b) for a in digits for b in digits if (a, b) not in _EXAMPLES]
    random.Random("addition").shuffle(every)
    return every[:_TEST_PAIRS] if split == "test" else every[_TEST_PAIRS:]


class Addition(Questions):
    """Sums of two digits; the answer is the last integer before the first newline.

    A turn ends with a token that contains a newline, or with an end token of the
    tokenizer. Rewards, each 0 or 1: `correct`, the answer is the sum; `format`, there
    is an answer.
    """

    def __init__(
        self,
        tokenizer: AbstractTokenizer,
        *,
        split: str = "train",
        count: int | None = None,
        max_completion_length: int = 4,
    ):
        """**Arguments:**

        - `tokenizer`: the policy's.
        - `split`: `"train"` or `"test"`; they have no pair of digits in common.
        - `count`: how many pairs, the first ones; all of them when `None`.
        - `max_completion_length`: the horizon, tokens.
        """
        examples = "".join(f"{a} + {b} = {a + b}\n" for a, b in _EXAMPLES)
        super().__init__(
            [dict(a=a, b=b, answer=a + b) for a, b in pairs(split)[:count]],
            tokenizer,
            Integer("last"),
            PromptFormat(examples + "{{ a }} + {{ b }} ="),
            max_completion_length=max_completion_length,
            end_tokens=tokens_containing(tokenizer.token_bytes, b"\n"),
        )

    def text(self, turn: Turn) -> Bytes:
        text = super().text(turn)
        position = jnp.arange(text.data.shape[0], dtype=jnp.int32)
        newline = jnp.where(text.data == ord("\n"), position, text.length)
        return Bytes(text.data, jnp.min(newline))


def environments(
    data: AdditionOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Addition, Addition | None, list[str]]:
    """The environments of a recipe with `data.task: addition`.

    **Arguments:**

    - `data`: the task's options, of which there are none.
    - `tokenizer`: the policy's.
    - `horizon`: the longest completion, tokens.
    - `held_out`: how many problems the evaluation takes, at most 32; all when `None`.

    **Returns:** the environment to train on, the one to evaluate on (`None` for 0
    problems), and no messages.

    **Raises:** `ValueError` if `held_out` is above 32.
    """
    del data
    make = ft.partial(Addition, tokenizer, max_completion_length=horizon)
    if held_out is not None and held_out > _TEST_PAIRS:
        raise ValueError(
            f"`evaluations.held_out.problems` asks for {held_out} rows. Received "
            f"{_TEST_PAIRS}, the size of the test split: lower it, raise `samples` "
            "instead, or leave it null; in a mixture set the task's own `problems`."
        )
    test = None if held_out == 0 else make(split="test", count=held_out)
    return make(split="train"), test, []
