"""Integers as answers."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import Bytes, oracle, parse_integer, ParsedInteger
from grpojax.text.answer import check_find

from ._abstract import AbstractAnswer, Checked


_LARGEST = 2**31 - 1


class Integer(AbstractAnswer):
    r"""An integer of magnitude below 2**31.

    A gold answer is an integer, or a text with one: `72`, `72.0`, `"72"`, `"1,234"`,
    `"$5"`, or a worked solution that ends in `#### 72`.

    **Fields:**

    - `find`: where the answer of a completion is: `"tag"` (`<answer>7</answer>`),
        `"boxed"` (`\boxed{7}`), the `"last"` number, `"all"` of the text, the first of
        those that occurs (`"auto"`), another tag such as `"<result>"`, or a marker such
        as `"####"`. The grammar is in `grpojax.text.answer`.

    !!! example

        ```python
        kind = Integer("####")
        gold = kind.encode(["1,234", 7])
        kind.check(pack(b"#### **7**", size=16), gold[1]).correct  # True
        ```
    """

    find: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        check_find(self.find)

    def read(self, answer: object) -> int:
        number = None
        if isinstance(answer, str):
            text, find = answer.encode(), "####" if "####" in answer else "all"
            number = oracle.parse_integer(text, find)
            digits = answer.rpartition("####")[2].replace(",", "").strip("-$ \n")
            if number is None and digits.isdecimal() and len(digits) > 9:
                number = int(digits)
        elif isinstance(answer, int | np.integer) and not isinstance(answer, bool):
            number = int(answer)
        elif isinstance(answer, float | np.floating) and float(answer).is_integer():
            number = int(answer)
        if number is None:
            raise ValueError(f"its answer {answer!r} is not an integer")
        if abs(number) > _LARGEST:
            raise ValueError(
                f"its answer {answer!r} does not fit 32 bits: at most {_LARGEST:,}"
            )
        return number

    def stack(self, values: Sequence[int]) -> Int[np.ndarray, " problem"]:
        return np.array(values, np.int32)

    def check(self, text: Bytes, gold: Int[Array, ""]) -> Checked:
        number = self.vote(text)
        plain = parse_integer(text, self.find, plain=True)
        return Checked(number.valid & (number.value == gold), plain.valid)

    def vote(self, text: Bytes) -> ParsedInteger:
        return parse_integer(text, self.find)

    def gold_vote(self, gold: Int[Array, ""]) -> Int[Array, ""]:
        return gold

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        plain = oracle.parse_integer(text, self.find, plain=True)
        correct = oracle.parse_integer(text, self.find) == self.read(answer)
        return correct, plain is not None
