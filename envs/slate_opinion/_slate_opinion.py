"""Both questions in one prompt, with the reward of the origin."""

from grpojax.text import AbstractTokenizer

from ..questions import Questions
from ..slates.answers import OptionAndDirection
from ..slates.environment import both_splits
from ..slates.measures import SlateMeasures
from ..slates.options import SlateOpinionOptions
from ..slates.origin import direction_of, Example
from ..slates.rows import Asked
from ..slates.templates import BOTH


class SlateOpinion(Questions):
    """Slates of videos and opinions; rewards are those of `OptionAndDirection`."""

    @property
    def own_measures(self) -> SlateMeasures:
        return SlateMeasures("video", others=("video", "opinion"))


def environments(
    data: SlateOpinionOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with `data.task: slate_opinion`.

    Arguments and results are those of `envs.questions.environments`.
    """

    def both(example: Example) -> dict[str, object]:
        direction = direction_of(example.before, example.after, data.tolerance)
        if example.gold_index is None and direction is None:
            raise ValueError("neither the video watched next nor an opinion is known")
        return {
            "option": example.gold_index,
            "of": len(example.slate),
            "direction": direction,
        }

    asked, kind = Asked(BOTH, both, data.tolerance), OptionAndDirection(data.strict)
    return both_splits(
        SlateOpinion, data, tokenizer, asked, kind, horizon=horizon, held_out=held_out
    )
