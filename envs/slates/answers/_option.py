"""Options of a slate as answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import Bytes, oracle, parse_option, ParsedInteger

from ...answers import AbstractAnswer, Checked


class Option(AbstractAnswer):
    """One of several numbered options, in `<answer>3</answer>`.

    Space around the number and the word `option` before it are allowed; see
    `grpojax.text.parse_option`. The first pair of tags counts. A number that is none of
    the options' is wrong, though it were the answer's.

    A gold answer is a number from 1 on, or a mapping of `option` and how many there
    are, `of`.

    **Fields:**

    - `strict`: whether only the number itself is right, in the only pair of tags; it is
        what `format` asks for in any case.

    !!! example

        ```python
        kind = Option()
        kind.encode([3, {"option": 2, "of": 4}])
        ```
    """

    strict: bool = eqx.field(static=True, default=False)

    def read(self, answer: object) -> tuple[int, int]:
        number, count = answer, None
        if isinstance(answer, Mapping):
            number, count = answer.get("option"), answer.get("of")
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        whole = [x for x in (number, count) if x is not None]
        if number is None or not all(_is_positive(x) for x in whole):
            raise ValueError(
                f"its answer {answer!r} is not the number of an option, from 1 on"
            )
        return int(_int(number)), 2**31 - 1 if count is None else int(_int(count))

    def stack(self, values: Sequence[tuple[int, int]]) -> Int[np.ndarray, "problem 2"]:
        return np.array(values, np.int32).reshape(-1, 2)

    def check(self, text: Bytes, gold: Int[Array, " 2"]) -> Checked:
        found = self.vote(text)
        correct = found.valid & (found.value == gold[0]) & (found.value <= gold[1])
        return Checked(correct, parse_option(text, plain=True).valid)

    def vote(self, text: Bytes) -> ParsedInteger:
        return parse_option(text, plain=self.strict)

    def gold_vote(self, gold: Int[Array, " 2"]) -> Int[Array, ""]:
        return jnp.asarray(gold)[0]

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        number, count = self.read(answer)
        found = oracle.parse_option(text, plain=self.strict)
        formed = oracle.parse_option(text, plain=True) is not None
        return found == number and number <= count, formed


def _is_positive(value: object) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and 1 <= _int(value) < 10**6


def _int(value: Any) -> int:
    return int(value)
