"""Places on a scale from 0 to 100 as answers."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from grpojax.text import Bytes, oracle, parse_option, ParsedInteger

from ...answers import AbstractAnswer, Checked


class Percent(AbstractAnswer):
    """An integer from 0 to 100, as in `<answer>55</answer>`; its distance counts.

        closeness = 1 - |x - gold| / 100,  x clipped to 100; 0 without a number

    The grammar is that of `Option`. A gold answer is a number from 0 to 1, the share.

    **Fields:**

    - `tolerance`: how far a `correct` answer may be off, at most.
    - `strict`: as that of `Option`.

    !!! example

        ```python
        kind = Percent()
        gold = kind.encode([0.6])
        kind.rewards(pack(b"<answer>55</answer>", size=32), gold[0])["closeness"]  # .95
        ```
    """

    tolerance: int = eqx.field(static=True, default=5)
    strict: bool = eqx.field(static=True, default=False)

    def read(self, answer: object) -> int:
        value: Any = answer
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise ValueError(f"its answer {answer!r} is not a number from 0 to 1")
        return round(100 * value)

    def stack(self, values: Sequence[int]) -> Int[np.ndarray, " problem"]:
        return np.array(values, np.int32)

    def check(self, text: Bytes, gold: Int[Array, ""]) -> Checked:
        found = self.vote(text)
        close = jnp.abs(jnp.minimum(found.value, 100) - gold) <= self.tolerance
        plain = parse_option(text, plain=True)
        formed = plain.valid & (plain.value <= 100)
        return Checked(found.valid & close, formed)

    def rewards(self, text: Bytes, gold: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
        found = self.vote(text)
        off = jnp.abs(jnp.minimum(found.value, 100) - gold).astype(jnp.float32)
        closeness = jnp.where(found.valid, 1 - off / 100, 0)
        return {**super().rewards(text, gold), "closeness": closeness}

    def vote(self, text: Bytes) -> ParsedInteger:
        return parse_option(text, plain=self.strict)

    def gold_vote(self, gold: Int[Array, ""]) -> Int[Array, ""]:
        return gold

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        found = oracle.parse_option(text, plain=self.strict)
        plain = oracle.parse_option(text, plain=True)
        close = (
            found is not None
            and abs(min(found, 100) - self.read(answer)) <= self.tolerance
        )
        return close, plain is not None and plain <= 100
