"""The options of slates and opinions: the keys of a recipe's section `data`."""

from dataclasses import dataclass
from typing import Literal


GENERATED = "generated"
"""The source that needs no file: viewers and videos made up from a seed."""


@dataclass(frozen=True)
class SlateOptions:
    """What the three tasks have in common.

    **Fields:**

    - `path`: `"generated"`, or rows in the origin's columns: a source as that of the
        task `questions`.
    - `eval_path`: the same for evaluation. When `None`, one viewer in ten of `path`.
    - `difficulty`: of generated rows. `easy`: the best answer is nearly certain;
        `real`: it is right about every second time.
    - `template`: `compact`, at most 160 bytes, which needs generated rows; or `full`,
        the blocks of the origin.
    - `strict`: whether an answer is right only in the form that the prompt asks for.
    - `permuted`: whether answers are exchanged between rows, as a control in which
        nothing can be learned.
    - `train_rows`: how many rows to train on. When `None`, all of them, or 4,096
        generated ones.
    - `seed`: of the viewers, the videos and the permutation.
    - `max_history`: how many of the videos watched before a full prompt shows.
    - `chat`: prompt with the tokenizer's chat template instead of plain text.
    - `system_prompt`: instructions in front of every prompt.
    - `bad_rows`: whether a row that lacks something is an error or skipped.
    - `long_prompts`: whether a prompt that is too long is an error or skipped.
    - `max_prompt_length`: the width of the prompts, tokens; that of the longest prompt
        when `None`.
    - `stop`: a string that ends a completion, too.

    **Raises:** `ValueError` for a value out of range, by its key in a recipe.
    """

    path: str = GENERATED
    eval_path: str | None = None
    difficulty: Literal["easy", "real"] = "easy"
    template: Literal["compact", "full"] = "compact"
    strict: bool = False
    permuted: bool = False
    train_rows: int | None = None
    seed: int = 0
    max_history: int = 12
    chat: bool = False
    system_prompt: str | None = None
    bad_rows: Literal["raise", "skip"] = "raise"
    long_prompts: Literal["raise", "skip"] = "raise"
    max_prompt_length: int | None = None
    stop: str | None = None

    def __post_init__(self):
        least = {"train_rows": 1, "max_history": 0, "max_prompt_length": 1}
        for key, minimum in least.items():
            value = getattr(self, key)
            if value is not None and value < minimum:
                raise ValueError(
                    f"`data.{key}` must be at least {minimum}. Received {value}."
                )
        if self.stop == "":
            raise ValueError(
                "`data.stop` must have a character. Received '': leave it null."
            )
        if self.path != GENERATED and self.template == "compact":
            raise ValueError(
                "`data.template: compact` shows what only generated rows have. "
                f"Received the rows of {self.path!r}: set `data.template: full`."
            )

    @property
    def curriculum(self) -> str:
        """What a recipe asks by default."""
        return "Uniform" if self.path == GENERATED else "ShuffledEpochs"


@dataclass(frozen=True)
class NextVideoOptions(SlateOptions):
    """The task `next_video`, which has the keys of `SlateOptions`."""


@dataclass(frozen=True)
class OpinionOptions(SlateOptions):
    """The task `opinion`.

    **Fields:** besides those of `SlateOptions`,

    - `mode`: `direction` asks for the direction of the change, `value` for the opinion
        afterwards, as an integer from 0 to 100.
    - `tolerance`: a change of no more than this is none; opinions are in [0, 1].
    """

    mode: Literal["direction", "value"] = "direction"
    tolerance: float = 0.02

    def __post_init__(self):
        super().__post_init__()
        check_tolerance(self.tolerance)


@dataclass(frozen=True)
class SlateOpinionOptions(SlateOptions):
    """The task `slate_opinion`, which asks for both.

    **Fields:** besides those of `SlateOptions`,

    - `tolerance`: a change of no more than this is none; opinions are in [0, 1].
    """

    tolerance: float = 0.02

    def __post_init__(self):
        super().__post_init__()
        check_tolerance(self.tolerance)


SLATES = {
    "next_video": NextVideoOptions,
    "opinion": OpinionOptions,
    "slate_opinion": SlateOpinionOptions,
}
"""The options of each task, by the name that a recipe gives it."""


def check_tolerance(tolerance: float) -> None:
    """Raises a `ValueError` for a tolerance that is no share of the scale."""
    if not 0 <= tolerance < 0.5:
        raise ValueError(
            "`data.tolerance` must be at least 0 and below 0.5, on the scale of "
            f"opinions from 0 to 1. Received {tolerance}."
        )
