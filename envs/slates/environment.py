"""Environments of the three tasks."""

from collections.abc import Callable

from grpojax.text import AbstractTokenizer

from ..answers import AbstractAnswer
from ..questions import PromptFormat, Questions
from .options import SlateOptions
from .rows import Asked, Row, split_rows


def both_splits(
    make: Callable[..., Questions],
    data: SlateOptions,
    tokenizer: AbstractTokenizer,
    asked: Asked,
    kind: AbstractAnswer,
    *,
    horizon: int,
    held_out: int | None,
) -> tuple[Questions, Questions | None, list[str]]:
    """The environments of a recipe with one of the tasks.

    **Arguments:**

    - `make`: the class of the environments.
    - `data`: the options of the task.
    - `tokenizer`: the policy's.
    - `asked`: what the task asks.
    - `kind`: the kind of its answers.
    - `horizon`: the longest completion, tokens.
    - `held_out`: how many problems the evaluation takes; all when `None`.

    **Returns:** the environment to train on, the one to evaluate on (`None` for 0
    problems), and remarks.

    **Raises:** `ValueError` for rows or sizes that do not fit, named.
    """
    train, test, notes = split_rows(data, asked, held_out)

    def environment(rows: list[Row]) -> Questions:
        return make(
            rows,
            tokenizer,
            kind,
            PromptFormat("question", data.chat, data.system_prompt),
            max_completion_length=horizon,
            max_prompt_length=data.max_prompt_length,
            long_prompts=data.long_prompts,
            end_tokens=() if data.stop is None else (data.stop,),
        )

    both = environment(train), environment(test) if test and held_out != 0 else None
    long = sum(env.skipped for env in both if env is not None)
    return *both, notes + [f"{long} rows with too long a prompt left out"] * (long > 0)
