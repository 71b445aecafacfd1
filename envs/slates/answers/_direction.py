"""Directions of a change as answers."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import Bytes, LabelWords, oracle, parse_label, ParsedInteger

from ...answers import AbstractAnswer, Checked


DIRECTIONS = ("decrease", "no_change", "increase")
"""The labels; their indices are their order on the scale."""

WORDS: LabelWords = (
    ("decrease", "decreased", "lower", "drop", "falling", "down"),
    (
        *("nochange", "same", "nochanges", "nochg", "unchanged", "steady", "equal"),
        *("staythesame", "staysthesame", "staysame", "nodifference"),
    ),
    ("increase", "increased", "higher", "rise", "rising", "up"),
)
"""What each may be written as, without all but letters."""

PLAIN: LabelWords = (("decrease",), ("no_change", "stay the same"), ("increase",))
"""What a prompt asks for."""

TAGS = ("opinion", "opinion_change", "opiniondirection")
"""The tags that may have it; the first one that occurs counts."""


class Direction(AbstractAnswer):
    """The direction of a change, in `<opinion>increase</opinion>`.

    It is `increase`, `decrease` or `no_change`, also written as `stay the same`, `up`,
    `lower`, `unchanged` and the like; see `grpojax.text.parse_label`.

    A gold answer is any of these words.

    **Fields:**

    - `strict`: whether only `increase`, `decrease`, `no_change` and `stay the same` are
        right, in the only pair of tags; it is what `format` asks for in any case.

    !!! example

        ```python
        text = pack(b"<opinion>Stay the same</opinion>", size=40)
        Direction().check(text, Direction().encode(["no_change"])[0]).correct  # True
        ```
    """

    strict: bool = eqx.field(static=True, default=False)

    def read(self, answer: object) -> int:
        tagged = f"<{TAGS[0]}>{answer}</{TAGS[0]}>".encode()
        index = oracle.parse_label(tagged, WORDS, TAGS)
        if not isinstance(answer, str) or index is None:
            raise ValueError(
                f"its answer {answer!r} is not one of {', '.join(DIRECTIONS)}"
            )
        return index

    def stack(self, values: Sequence[int]) -> Int[np.ndarray, " problem"]:
        return np.array(values, np.int32)

    def check(self, text: Bytes, gold: Int[Array, ""]) -> Checked:
        found = self.vote(text)
        formed = parse_label(text, PLAIN, TAGS, plain=True).valid
        return Checked(found.valid & (found.value == gold), formed)

    def vote(self, text: Bytes) -> ParsedInteger:
        words = PLAIN if self.strict else WORDS
        return parse_label(text, words, TAGS, plain=self.strict)

    def gold_vote(self, gold: Int[Array, ""]) -> Int[Array, ""]:
        return gold

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        words = PLAIN if self.strict else WORDS
        found = oracle.parse_label(text, words, TAGS, plain=self.strict)
        formed = oracle.parse_label(text, PLAIN, TAGS, plain=True)
        return found == self.read(answer), formed is not None
