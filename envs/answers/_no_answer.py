"""Questions without an answer."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from grpojax.text import Bytes, ParsedInteger

from ._abstract import AbstractAnswer, Checked


class NoAnswer(AbstractAnswer):
    """No answer: rows are prompts alone, and reward functions judge completions.

    Nothing is correct and every completion is well-formed; an environment of such rows
    has neither of the two rewards.
    """

    def read(self, answer: object) -> None:
        del answer

    def stack(self, values: Sequence[None]) -> Int[np.ndarray, "problem 0"]:
        return np.zeros((len(values), 0), np.int32)

    def check(self, text: Bytes, gold: Int[Array, " 0"]) -> Checked:
        del text, gold
        return Checked(jnp.zeros((), bool), jnp.ones((), bool))

    def rewards(self, text: Bytes, gold: Int[Array, " 0"]) -> dict[str, Array]:
        """None."""
        del text, gold
        return {}

    def vote(self, text: Bytes) -> ParsedInteger:
        del text
        return ParsedInteger(jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def gold_vote(self, gold: Int[Array, " 0"]) -> Int[Array, ""]:
        del gold
        return jnp.zeros((), jnp.int32)

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        del text, answer
        return False, True
