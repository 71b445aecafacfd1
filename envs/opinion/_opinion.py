"""In which direction, or to which place, an opinion shifts."""

import functools as ft
from typing import Any

import equinox as eqx

from grpojax.measures import AbstractMeasures
from grpojax.text import AbstractTokenizer

from ..questions import Questions
from ..slates.answers import Direction, Percent
from ..slates.environment import both_splits
from ..slates.measures import DirectionMeasures, OpinionMeasures
from ..slates.options import OpinionOptions
from ..slates.origin import direction_of, Example
from ..slates.rows import Asked
from ..slates.templates import DIRECTION, VALUE


class Opinion(Questions):
    """Opinions before videos, and after; rewards as of `Questions`.

    With `Percent` there is a third one, `closeness`.

    **Fields:** besides those of `Questions`,

    - `tolerance`: a change of no more than this is none, for measures.
    """

    tolerance: float = eqx.field(static=True)

    def __init__(self, *arguments: Any, tolerance: float = 0.02, **settings: Any):
        """**Arguments:** besides those of `Questions`, the `tolerance`."""
        super().__init__(*arguments, **settings)
        self.tolerance = tolerance

    @property
    def own_measures(self) -> AbstractMeasures:
        if isinstance(self.kind, Direction):
            return DirectionMeasures()
        return OpinionMeasures(self.tolerance)


def environments(
    data: OpinionOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with `data.task: opinion`.

    Arguments and results are those of `envs.questions.environments`.
    """

    def direction(example: Example) -> str:
        found = direction_of(example.before, example.after, data.tolerance)
        if found is None:
            raise ValueError("the opinion before or after is not known")
        return found

    def value(example: Example) -> float | None:
        direction(example)  # Both opinions are known.
        return example.after

    if data.mode == "direction":
        asked, kind = (
            Asked(DIRECTION, direction, data.tolerance),
            Direction(data.strict),
        )
    else:
        asked, kind = Asked(VALUE, value, data.tolerance), Percent(strict=data.strict)
    make = ft.partial(Opinion, tolerance=data.tolerance)
    return both_splits(
        make, data, tokenizer, asked, kind, horizon=horizon, held_out=held_out
    )
