"""The protocol of the kinds of answers."""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from grpojax.text import Bytes, ParsedInteger


class Checked(eqx.Module):
    """What a completion is, compared with the answer of its question.

    **Fields:**

    - `correct`: its answer is right.
    - `well_formed`: its answer is written as asked for, right or wrong.
    """

    correct: Bool[Array, "*batch"]
    well_formed: Bool[Array, "*batch"]


class AbstractAnswer(eqx.Module):
    """A kind of answer: how it is stored, and how a completion is checked against it.

    Its arguments are plain values, so that a recipe can name it.
    """

    @abc.abstractmethod
    def read(self, answer: object) -> Any:
        """One gold answer as a plain value, on the host.

        **Arguments:**

        - `answer`: as a file holds it.

        **Returns:** a value that `stack` takes.

        **Raises:** `ValueError` if it is not an answer of this kind.
        """

    @abc.abstractmethod
    def stack(self, values: Sequence[Any]) -> PyTree[Any]:
        """The values of all rows as a tree of arrays `[problem ...]`, on the host."""

    def encode(self, answers: Sequence[object]) -> PyTree[Any]:
        """The gold answers of all rows as arrays, on the host.

        **Arguments:**

        - `answers`: one per row, as a file holds them.

        **Returns:** a tree of arrays `[problem ...]`.

        **Raises:** `ValueError` for an answer that is not of this kind, with the number
        of its row, counted from 1.
        """
        values = []
        for row, answer in enumerate(answers, 1):
            try:
                values.append(self.read(answer))
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from None
        return self.stack(values)

    @abc.abstractmethod
    def check(self, text: Bytes, gold: PyTree[Any]) -> Checked:
        """Compares a completion with the answer of its question; total, `vmap`-able.

        **Arguments:**

        - `text`: one completion.
        - `gold`: one row of what `encode` returned.

        **Returns:** what the completion is worth.
        """

    def rewards(self, text: Bytes, gold: PyTree[Any]) -> dict[str, Float[Array, ""]]:
        """The rewards of a completion by name: `correct` and `format`, each 0 or 1.

        **Arguments:** as those of `check`.
        """
        checked = self.check(text, gold)
        return {
            "correct": checked.correct.astype(jnp.float32),
            "format": checked.well_formed.astype(jnp.float32),
        }

    @abc.abstractmethod
    def vote(self, text: Bytes) -> ParsedInteger:
        """What a majority vote counts: equal for equal answers.

        **Arguments:**

        - `text`: one completion.

        **Returns:** the number for an integer, an index or a hash for others.
        """

    @abc.abstractmethod
    def gold_vote(self, gold: PyTree[Any]) -> Int[Array, ""]:
        """What `vote` returns for a completion with exactly the gold answer.

        **Arguments:**

        - `gold`: one row of what `encode` returned.

        **Returns:** int32.
        """

    @abc.abstractmethod
    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        """What `check` returns, in plain Python.

        **Arguments:**

        - `text`: a completion.
        - `answer`: the gold answer, as a file holds it.

        **Returns:** whether it is correct, and whether it is well-formed.
        """
