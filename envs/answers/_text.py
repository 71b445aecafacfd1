"""Texts as answers."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from grpojax.text import (
    Bytes,
    equal,
    fingerprint,
    normalize,
    oracle,
    parse_text,
    ParsedInteger,
)
from grpojax.text.answer import check_find

from ._abstract import AbstractAnswer, Checked


class Text(AbstractAnswer):
    """A text, compared exactly but for the space around it, or normalized.

    A gold answer is a text, or an integer as its digits.

    **Fields:**

    - `normalize`: whether case, articles, repeated space and punctuation at the ends
        make no difference, see `grpojax.text.normalize`.
    - `find`: where the answer of a completion is, as for `Integer`; with `"last"` it is
        the last line.
    """

    normalize: bool = eqx.field(static=True, default=True)
    find: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        check_find(self.find)

    def read(self, answer: object) -> bytes:
        if isinstance(answer, int | np.integer) and not isinstance(answer, bool):
            answer = str(answer)
        if not isinstance(answer, str):
            raise ValueError(f"its answer {answer!r} is not a text")
        text = oracle.parse_text(answer.encode(), "all")
        text = oracle.normalize(text) if self.normalize else text
        if text == b"":
            after = " after normalization" if self.normalize else ""
            raise ValueError(f"its answer {answer!r} is empty{after}")
        return text

    def stack(
        self, values: Sequence[bytes]
    ) -> tuple[UInt8[np.ndarray, "problem size"], Int[np.ndarray, " problem"]]:
        size = max((len(value) for value in values), default=1)
        data = b"".join(value.ljust(size, b"\0") for value in values)
        rows = np.frombuffer(data, np.uint8).reshape(len(values), size)
        return rows, np.array([len(value) for value in values], np.int32)

    def check(
        self, text: Bytes, gold: tuple[UInt8[Array, " size"], Int[Array, ""]]
    ) -> Checked:
        found = self._found(text)
        plain = parse_text(text, self.find, plain=True)
        return Checked(
            (found.length > 0) & equal(found, Bytes(*gold)), plain.length > 0
        )

    def vote(self, text: Bytes) -> ParsedInteger:
        found = self._found(text)
        valid = found.length > 0
        return ParsedInteger(jnp.where(valid, fingerprint(found), 0), valid)

    def gold_vote(
        self, gold: tuple[UInt8[Array, " size"], Int[Array, ""]]
    ) -> Int[Array, ""]:
        return fingerprint(Bytes(*gold))

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        found = oracle.parse_text(text, self.find)
        found = oracle.normalize(found) if self.normalize else found
        plain = oracle.parse_text(text, self.find, plain=True)
        return found == self.read(answer), plain != b""

    def _found(self, text: Bytes) -> Bytes:
        found = parse_text(text, self.find)
        return normalize(found) if self.normalize else found
