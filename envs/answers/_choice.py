"""Letters of choices as answers."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import Bytes, oracle, parse_choice, ParsedInteger
from grpojax.text.answer import check_find, check_letters

from ._abstract import AbstractAnswer, Checked


class Choice(AbstractAnswer):
    r"""One of several choices, by its letter: `B`, `(B)`, `B.`, `**B**`, `Answer: B`.

    A text with two different letters has no answer, unless the last one counts. A gold
    answer is a letter, or its index, from 0 on.

    **Fields:**

    - `letters`: of the choices, in capitals.
    - `find`: where the answer of a completion is, as for `Integer`.
    """

    letters: str = eqx.field(static=True, default="ABCD")
    find: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        check_letters(self.letters)
        check_find(self.find)

    def read(self, answer: object) -> int:
        index = None
        if isinstance(answer, str):
            index = oracle.parse_choice(answer.encode(), "all", letters=self.letters)
        elif isinstance(answer, int | np.integer) and not isinstance(answer, bool):
            index = int(answer)
        if index is None or not 0 <= index < len(self.letters):
            raise ValueError(
                f"its answer {answer!r} is not one of the letters {self.letters}, nor "
                f"an index from 0 to {len(self.letters) - 1}"
            )
        return index

    def stack(self, values: Sequence[int]) -> Int[np.ndarray, " problem"]:
        return np.array(values, np.int32)

    def check(self, text: Bytes, gold: Int[Array, ""]) -> Checked:
        found = self.vote(text)
        plain = parse_choice(text, self.find, letters=self.letters, plain=True)
        return Checked(found.valid & (found.value == gold), plain.valid)

    def vote(self, text: Bytes) -> ParsedInteger:
        return parse_choice(text, self.find, letters=self.letters)

    def gold_vote(self, gold: Int[Array, ""]) -> Int[Array, ""]:
        return gold

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        found, plain = (
            oracle.parse_choice(text, self.find, letters=self.letters, plain=plain)
            for plain in (False, True)
        )
        return found == self.read(answer), plain is not None
