"""Questions with several right answers."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from grpojax.text import Bytes, ParsedInteger

from ._abstract import AbstractAnswer, Checked


class OneOf(AbstractAnswer):
    """Several right answers of one kind, any of which is correct.

    A gold answer is a list of gold answers of that kind, also as a text in JSON, or one
    of them alone.

    **Fields:**

    - `kind`: of each.

    !!! example

        ```python
        kind = OneOf(Text())
        kind.encode([["Paris", "City of Paris"], "Rome"])
        ```
    """

    kind: AbstractAnswer

    def read(self, answer: object) -> list[Any]:
        options = _options(answer)
        if len(options) == 0:
            raise ValueError(f"its answer {answer!r} is an empty list")
        return [self.kind.read(option) for option in options]

    def stack(self, values: Sequence[list[Any]]) -> PyTree[Any]:
        width = max((len(options) for options in values), default=1)
        # Repeating an answer changes nothing, and every row has as many.
        padded = [x for row in values for x in row + row[:1] * (width - len(row))]
        shape = (len(values), width)
        return jax.tree.map(
            lambda x: np.reshape(x, shape + x.shape[1:]), self.kind.stack(padded)
        )

    def check(self, text: Bytes, gold: PyTree[Any]) -> Checked:
        checked = jax.vmap(lambda option: self.kind.check(text, option))(gold)
        return Checked(jnp.any(checked.correct), checked.well_formed[0])

    def vote(self, text: Bytes) -> ParsedInteger:
        return self.kind.vote(text)

    def gold_vote(self, gold: PyTree[Any]) -> Int[Array, ""]:
        """That of the first of them."""
        return self.kind.gold_vote(jax.tree.map(lambda x: x[0], gold))

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        checked = [self.kind.oracle(text, option) for option in _options(answer)]
        return any(correct for correct, _ in checked), checked[0][1]


def _options(answer: object) -> list[object]:
    """The answers of a row: of a list, of a text that is a list in JSON, or one."""
    if isinstance(answer, str) and answer.lstrip().startswith("["):
        try:
            answer = json.loads(answer)
        except ValueError:
            return [answer]
    if isinstance(answer, list | tuple | np.ndarray):
        return list(answer)
    return [answer]
