"""In which direction, or to which place, an opinion shifts."""

from grpojax.text import AbstractTokenizer

from ..questions import Questions
from ..slates.answers import Direction, Percent
from ..slates.environment import both_splits
from ..slates.options import OpinionOptions
from ..slates.origin import direction_of, Example
from ..slates.rows import Asked
from ..slates.templates import DIRECTION, VALUE


class Opinion(Questions):
    """Opinions before videos, and after; rewards as of `Questions`.

    With `Percent` there is a third one, `closeness`.
    """


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
    return both_splits(
        Opinion, data, tokenizer, asked, kind, horizon=horizon, held_out=held_out
    )
