"""The curriculum of a recipe."""

import dataclasses

from .... import curriculum
from ....curriculum import AbstractCurriculum
from ..schema import Recipe
from ..tasks import MIXTURE, task_options_of
from .compose import Context, make


def with_curriculum(recipe: Recipe) -> Recipe:
    """A recipe that names its curriculum: by default, what its task says.

    A dataclass of options says it as `curriculum`, a name or a mapping; other tasks are
    asked uniformly.

    **Raises:** `ValueError` for weights of tasks beside another curriculum.
    """
    default = getattr(task_options_of(recipe.data), "curriculum", "Uniform")
    if recipe.curriculum is None:
        return dataclasses.replace(recipe, curriculum=default)
    tasks = recipe.data.option("tasks", ()) if recipe.data.task == MIXTURE else ()
    weighted = any("weight" in task for task in tasks)
    if weighted and recipe.curriculum != default:
        raise ValueError(
            "Weights in `data.tasks` are those of the default curriculum, Mixture. "
            f"Received `curriculum: {recipe.curriculum}` besides: leave out either."
        )
    return recipe


def build_curriculum(recipe: Recipe) -> AbstractCurriculum:
    """The curriculum that a recipe names.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    part = with_curriculum(recipe).curriculum
    return make("curriculum", part, AbstractCurriculum, Context([curriculum]))
