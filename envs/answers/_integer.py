"""Integers as answers."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import (
    Bytes,
    last_number,
    number_after,
    number_in_tag,
    oracle,
    ParsedInteger,
    tags_in_order,
)

from ._abstract import AbstractAnswer, Checked, each_row


class Integer(AbstractAnswer):
    """An integer of magnitude below 2**31.

    A gold answer is an integer, or a text with one: `72`, `"72"`, `"1,234"`, `"$5"`, or
    a worked solution that ends in `#### 72`.

    **Fields:**

    - `find`: where a completion's answer is: after the last `"####"`, in the last
        `<answer>` `"tag"`, or the `"last"` number.
    """

    find: Literal["####", "tag", "last"] = eqx.field(static=True, default="####")

    def encode(self, answers: Sequence[object]) -> Int[np.ndarray, " problem"]:
        return np.array(each_row(answers, _integer), np.int32).reshape(len(answers))

    def check(self, text: Bytes, gold: Int[Array, ""]) -> Checked:
        number = self.vote(text)
        well_formed = number.valid
        if self.find == "tag":
            well_formed = well_formed & tags_in_order(text, (b"answer",))
        return Checked(number.valid & (number.value == gold), well_formed)

    def vote(self, text: Bytes) -> ParsedInteger:
        find = {"####": number_after, "tag": number_in_tag, "last": last_number}
        return find[self.find](text)

    def gold_vote(self, gold: Int[Array, ""]) -> Int[Array, ""]:
        return gold

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        find = {
            "####": oracle.number_after,
            "tag": oracle.number_in_tag,
            "last": oracle.last_number,
        }
        number = find[self.find](text)
        well_formed = number is not None
        if self.find == "tag":
            well_formed = well_formed and oracle.tags_in_order(text, (b"answer",))
        return number == _integer(answer), well_formed


def _integer(answer: object) -> int:
    number = None
    if isinstance(answer, str):
        _, marker, rest = answer.rpartition("####")
        content = b"<answer>%b</answer>" % rest.encode()
        number = oracle.number_in_tag(content)
        if number is None and marker == "":
            number = oracle.number_after(b"####" + rest.encode())
    elif isinstance(answer, int | np.integer) and not isinstance(answer, bool):
        number = int(answer)
    elif isinstance(answer, float) and answer.is_integer():
        number = int(answer)
    if number is None:
        raise ValueError(f"its answer {answer!r} is not an integer")
    if abs(number) > 2**31 - 1:
        raise ValueError(f"its answer {answer!r} is not an integer of 32 bits")
    return number
