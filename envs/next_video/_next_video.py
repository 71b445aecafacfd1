"""Which option of a slate a viewer watches next."""

from grpojax.text import AbstractTokenizer

from ..questions import Questions
from ..slates.answers import Option
from ..slates.environment import both_splits
from ..slates.measures import SlateMeasures
from ..slates.options import NextVideoOptions
from ..slates.origin import Example
from ..slates.rows import Asked
from ..slates.templates import VIDEO


class NextVideo(Questions):
    """Slates of videos, of which one was watched next; rewards as of `Questions`."""

    @property
    def own_measures(self) -> SlateMeasures:
        return SlateMeasures()


def environments(
    data: NextVideoOptions,
    tokenizer: AbstractTokenizer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with `data.task: next_video`.

    Arguments and results are those of `envs.questions.environments`.
    """
    asked = Asked(VIDEO, chosen_option)
    kind = Option(data.strict)
    return both_splits(
        NextVideo, data, tokenizer, asked, kind, horizon=horizon, held_out=held_out
    )


def chosen_option(example: Example) -> dict[str, object]:
    """The option that was watched, and how many there were.

    **Raises:** `ValueError` if it is not known, or not on the slate.
    """
    if example.gold_index is None:
        raise ValueError("the video that was watched next is not on its slate")
    return {"option": example.gold_index, "of": len(example.slate)}
