"""Tasks: from a recipe's section `data` to environments."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh

from ...env import AbstractDatasetEnvironment
from ...text import AbstractTokenizer
from ..distributed import mesh as meshes
from .kinds import check_options
from .parts.compose import parameters_of
from .parts.lookup import imported
from .schema import known_tasks, Recipe


class Environments(NamedTuple):
    """Environments to train and evaluate on, and remarks to whoever starts the run."""

    train: AbstractDatasetEnvironment
    held_out: AbstractDatasetEnvironment | None
    notes: list[str]


def build_environments(
    recipe: Recipe, tokenizer: AbstractTokenizer, mesh: Mesh | None = None
) -> Environments:
    """Calls the function of a recipe's task.

    It is `envs.<task>.environments`, or `package.module:function`, and is called with
    the options of the task, the tokenizer, and the keywords `horizon`
    (`rollout.max_new_tokens`) and `held_out` (`run.eval_problems`). It returns the
    three fields of `Environments`.

    The options are the frozen dataclass that its first parameter is annotated with,
    made of the keys of the section `data`; without such an annotation they are a
    mapping of the keys.

    **Raises:** `ValueError` for a task or a key that does not exist, `TypeError` for
    environments of another type, and what the function itself raises.
    """
    made = find_task(recipe.data.task)(
        task_options_of(recipe),
        tokenizer,
        horizon=recipe.rollout.max_new_tokens,
        held_out=recipe.run.eval_problems,
    )
    environments = Environments(*made)
    for env in environments[:2]:
        if not isinstance(env, AbstractDatasetEnvironment | None):
            raise TypeError(
                f"`data.task: {recipe.data.task}` must make environments with numbered "
                f"problems, `AbstractDatasetEnvironment`. Received {env!r:.80}."
            )
    train, held_out, notes = environments
    return Environments(
        meshes.place(train, mesh), meshes.place(held_out, mesh), list(notes)
    )


def task_options_of(recipe: Recipe) -> object:
    """The options that a recipe gives to its task."""
    task, options = recipe.data.task, recipe.data.options
    if not isinstance(options, Mapping):
        return options
    kind = next(iter(parameters_of(find_task(task)).values())).annotation
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return dict(options)
    values = check_options(kind, options, None, task)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"`data` of the task {task}: {error}.") from None


def find_task(task: str) -> Callable[..., tuple]:
    """The function of a task; see `build_environments`."""
    module, colon, function = task.partition(":")
    if not colon:
        module, function = f"envs.{task}", "environments"
    found: Any = imported(module, function)
    if found is None:
        raise ValueError(
            f"`data.task` must be one of {', '.join(known_tasks())}, or a function of "
            f"yours, `package.module:function`. Received {task!r}: there is no "
            f"`{function}` in a module `{module}`."
        )
    return found
