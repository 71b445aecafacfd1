"""Kinds of values in a recipe, and checks of their ranges."""

from collections.abc import Mapping
from typing import NewType


Part = NewType("Part", object)
"""A part: its name, or a mapping with its name and its arguments."""

Parts = NewType("Parts", tuple)
"""A list of parts."""

Weights = NewType("Weights", Mapping)
"""Numbers by name."""

Arguments = NewType("Arguments", Mapping)
"""The keys of a section that its own fields do not name."""


class Merge(dict):
    """A mapping whose keys are added to those that are there already."""


def at_least(minimum: int, section: str, **values: float | int | None) -> None:
    """Raises a `ValueError` for a key of a section that is below the minimum."""
    for key, value in values.items():
        if value is not None and value < minimum:
            raise ValueError(
                f"`{section}.{key}` must be at least {minimum}. Received {value}."
            )


def positive(section: str, **values: float | int | None) -> None:
    """Raises a `ValueError` for a key of a section that is not positive."""
    for key, value in values.items():
        if value is not None and value <= 0:
            raise ValueError(f"`{section}.{key}` must be positive. Received {value}.")
