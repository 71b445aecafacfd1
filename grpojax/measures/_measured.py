"""Measures that an environment has of its own."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ._intervals import Measure


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a policy has answered to problems, on the host.

    **Fields:**

    - `columns`: what the rows of the problems have, by name.
    - `answer`: the parsed answers; NaN where there is none.
    - `rewards`: by component; NaN where one does not apply.
    """

    columns: Mapping[str, Sequence[object]]
    answer: Float[np.ndarray, "problem sample"]
    rewards: Mapping[str, Float[np.ndarray, "problem sample"]]

    def numbers(self, name: str) -> Float[np.ndarray, " problem"]:
        """A column as numbers, NaN where it has none."""
        values = self.columns.get(name, [None] * len(self.answer))
        known = [x if isinstance(x, int | float) else np.nan for x in values]
        return np.array(known, np.float64)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measures by name.

    **Fields:**

    - `shares`: between 0 and 1, such as accuracies.
    - `numbers`: others.
    - `baselines`: shares that compare with the accuracy.
    """

    shares: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
    baselines: Mapping[str, Measure] = dataclasses.field(default_factory=dict)


class AbstractMeasures(abc.ABC):
    """Measures of answers, besides the accuracy that every evaluation has."""

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of rows that they need; records of predictions have them."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of those that do not depend on the problems."""

    @abc.abstractmethod
    def __call__(self, answers: Answers) -> Measured:
        """The measures; those that do not exist are left out."""
