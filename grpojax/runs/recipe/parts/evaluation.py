"""The evaluations of a recipe."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array, Key

from ....env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ....measures import AbstractMeasures
from ....policy import AbstractPolicy
from ....rollout import AbstractSampler, Categorical, Greedy, Truncated
from ....text import AbstractTokenizer
from ...evaluation.evaluate import check_name, Evaluation
from ..kinds import Arguments
from ..load import override
from ..schema import Data, Recipe, Reward
from ..tasks import build_environments, Environments, find_task
from .compose import Context, make
from .evaluation_section import DEFAULT, Evaluations, Settings
from .reward import build_reward, check_reward


def build_evaluations(
    recipe: Recipe,
    environments: Environments,
    tokenizer: AbstractTokenizer,
    reference: Callable[[], AbstractPolicy],
    mesh: Mesh | None = None,
    *,
    key: Key[Array, ""],
    names: Sequence[str] | None = None,
) -> dict[str, Evaluation]:
    """The evaluations of a recipe by name, without those of no problems.

    **Arguments:**

    - `recipe`: its sections `evaluations` and `data`, and those that these refer to.
    - `environments`: of the section `data`.
    - `tokenizer`: the policy's.
    - `reference`: makes the reference policy, if a reward asks for it.
    - `mesh`: for problems of other data.
    - `key`: of the completions.
    - `names`: the evaluations to build; all of them when `None`.

    **Raises:** `ValueError` with the key, for problems that there are not.
    """
    built = {}
    for name, settings in recipe.evaluations.settings.items():
        if settings.limit == 0 or (names is not None and name not in names):
            continue
        env = _environment(recipe, name, settings, environments, tokenizer, mesh)
        if env is None:
            continue
        reward = None
        if settings.reward is not None:
            judged = _with_reward(recipe, name, settings)
            reward = build_reward(judged, env, tokenizer, reference, mesh)
        training = environments.train
        if settings.data is not None or not isinstance(
            training, AbstractAnswerEnvironment
        ):
            training = None
        rows = recipe.rollout.prompts * recipe.rollout.group
        built[name] = Evaluation(
            env,
            samples=settings.samples,
            sampler=build_sampler(name, settings),
            reward=reward,
            success=settings.success,
            measures=_measures(name, settings),
            problems=min(env.size, settings.limit or env.size),
            # As many rows at a time as in training, which fit in memory.
            batch=max(rows // settings.samples, 1),
            slots=recipe.rollout.slots,
            training=training,
            split=settings.split,
            key=key,
            every=settings.every,
            at_start=settings.at_start,
            at_end=settings.at_end,
            average=settings.average or None,
        )
    return built


def build_sampler(name: str, settings: Settings) -> AbstractSampler:
    """The sampler of an evaluation.

    **Raises:** `ValueError` for a truncation of greedy decoding, or one out of range.
    """
    given = {x: vars(settings)[x] for x in ("top_k", "top_p", "min_p")}
    given = {x: y for x, y in given.items() if y is not None}
    if settings.temperature == 0:
        if given:
            raise ValueError(
                f"`evaluations.{name}.temperature: 0` decodes greedily, and truncates "
                f"nothing. Received {given} besides: leave these out, or raise it."
            )
        return Greedy()
    if not given:
        return Categorical(settings.temperature)
    try:
        return Truncated(settings.temperature, **given)
    except ValueError as error:
        raise ValueError(f"`evaluations.{name}` is refused. {error}") from None


def generation_sampler(recipe: Recipe) -> AbstractSampler:
    """The sampler of `grpojax generate`: that of the first evaluation."""
    return build_sampler(*first_settings(recipe))


def first_settings(recipe: Recipe) -> tuple[str, Settings]:
    """The first evaluation, or one at its defaults if there is none."""
    found = recipe.evaluations.settings
    return next(iter(found.items()), (DEFAULT, Settings()))


def check_evaluations(recipe: Recipe) -> None:
    """Checks the section `evaluations`, as far as nothing is loaded for it."""
    for name, settings in recipe.evaluations.settings.items():
        check_name(name)
        build_sampler(name, settings)
        find_task(_with_data(recipe, name, settings).data.task)
        _measures(name, settings)
        if settings.reward is not None:
            check_reward(_with_reward(recipe, name, settings))


def _measures(name: str, settings: Settings) -> AbstractMeasures | None:
    if settings.measures is None:
        return None
    key = f"evaluations.{name}.measures"
    return make(key, settings.measures, AbstractMeasures, Context([]))


def _environment(
    recipe: Recipe,
    name: str,
    settings: Settings,
    environments: Environments,
    tokenizer: AbstractTokenizer,
    mesh: Mesh | None,
) -> AbstractDatasetEnvironment | None:
    if settings.data is not None:
        other = _with_data(recipe, name, settings)
        environments = build_environments(other, tokenizer, mesh)
    env = environments.train if settings.split == "train" else environments.held_out
    if env is None and settings.data is not None:
        raise ValueError(
            f"`evaluations.{name}` needs problems that are held out. Received the data "
            f"{settings.data}, of which none are: set `evaluations.{name}.split: "
            "train` for the others."
        )
    return env


def _with_data(recipe: Recipe, name: str, settings: Settings) -> Recipe:
    """The recipe with the data of an evaluation, and with no other evaluation."""
    if settings.data is None:
        return recipe
    key, given = f"evaluations.{name}.data", settings.data
    if not isinstance(given, dict):
        raise ValueError(
            f"`{key}` is a mapping with some of the keys of `data`. Received {given!r}:"
            f" write `{key}.path` for a file."
        )
    task = given.get("task", recipe.data.task)
    before = recipe.data if task == recipe.data.task else Data()
    only = dataclasses.replace(settings, data=None)
    return dataclasses.replace(
        recipe,
        data=override(before, given, key),
        evaluations=Evaluations(Arguments({name: vars(only)})),
    )


def _with_reward(recipe: Recipe, name: str, settings: Settings) -> Recipe:
    """The recipe with the reward of an evaluation."""
    key, given = f"evaluations.{name}.reward", settings.reward
    if given == "run":
        return recipe
    if not isinstance(given, dict):
        raise ValueError(
            f"`{key}` must be null for the environment's rewards, run for those that "
            f"are trained on, or a mapping with the keys of `reward`. Received "
            f"{given!r}."
        )
    values: Any = given
    return dataclasses.replace(recipe, reward=override(Reward(), values, key))
