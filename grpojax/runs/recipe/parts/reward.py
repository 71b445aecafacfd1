"""The reward of a recipe: a weighted sum of components, then shapings."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Int

from .... import reward, update
from ....env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ....policy import AbstractPolicy
from ....reward import RewardFn
from ....text import AbstractTokenizer
from ....types import Rewards, Trajectory
from ..schema import Recipe
from . import shapings
from .compose import arguments_of, Context, Given, LATER, make, parameters_of, split
from .lookup import find


REWARDS: list[ModuleType] = [reward, shapings, update]
"""Modules whose names a recipe may give to reward functions and shapings."""

_TEXTS = ("prompts", "completions")


def build_reward(
    recipe: Recipe,
    env: AbstractDatasetEnvironment,
    tokenizer: AbstractTokenizer,
    reference: Callable[[], AbstractPolicy],
) -> RewardFn:
    """The weighted sum and the shapings of a recipe.

    Parts are given what they ask for by the name of a parameter: `decode`, `horizon`,
    `reference` (a copy of the initial policy) and `solutions` (the right answers by
    prompt). A Python function over `completions` becomes a `HostReward`.

    **Arguments:**

    - `recipe`: its section `reward`.
    - `env`: what is trained on.
    - `tokenizer`: the policy's.
    - `reference`: makes the reference policy, if a part asks for it.

    **Raises:** `ValueError` with the key, for unknown parts and components.
    """
    function = _build(
        recipe,
        {
            "decode": lambda: tokenizer.decode,
            "reference": reference,
            "solutions": lambda: solutions(env, tokenizer),
        },
    )
    return _RecipeReward(function)


class _RecipeReward(eqx.Module):
    """A reward function whose errors name the recipe's section."""

    function: RewardFn

    def __call__(self, trajectory: Trajectory) -> Rewards:
        try:
            return self.function(trajectory)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`reward` does not fit the task. {error}") from error


def check_reward(recipe: Recipe) -> None:
    """Checks the section `reward`, as far as no model is needed for it."""
    # How tokens are decoded does not matter to a part that is not called.
    known = {"decode": lambda: repr, "reference": lambda: LATER, "solutions": dict}
    _build(recipe, known)
    named = [x["name"] if isinstance(x, Mapping) else x for x in recipe.reward.shapings]
    if "shuffled" in named and recipe.rollout.prompts < 2:
        raise ValueError(
            "`reward.shapings: [shuffled]` gives a prompt the rewards of another, so a "
            "step needs two prompts. Received rollout.prompts="
            f"{recipe.rollout.prompts}."
        )


def _build(recipe: Recipe, given: Given) -> Any:
    """The reward function, or `LATER`."""
    settings, horizon = recipe.reward, recipe.rollout.max_new_tokens
    context = Context(REWARDS, {**given, "horizon": lambda: horizon})
    terms = [
        _term(f"reward.terms[{i}]", part, context)
        for i, part in enumerate(settings.terms)
    ]
    changes = [
        make(f"reward.shapings[{i}]", part, reward.Shaping, context)
        for i, part in enumerate(settings.shapings)
    ]
    if any(part is LATER for part in (*terms, *changes)):
        return LATER
    try:
        total = reward.WeightedSum(dict(settings.weights), *terms)
        return reward.Chain(total, *changes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`reward` is refused. {error}") from error


def _term(key: str, part: object, context: Context) -> Any:
    """A reward function; a Python function over texts runs on the host."""
    name, described = split(key, part)
    function: Any = find(key, name, context.modules)
    if not inspect.isfunction(function) or "completions" not in parameters_of(function):
        return make(key, part, RewardFn, context)
    component = str(described.pop("name", function.__name__))
    arguments = arguments_of(key, name, function, described, context, supplied=_TEXTS)
    if arguments:
        function = functools.partial(function, **arguments)
    decode: Any = context.given["decode"]()
    return reward.HostReward(function, decode, name=component)


def solutions(
    env: AbstractDatasetEnvironment, tokenizer: AbstractTokenizer
) -> dict[str, str]:
    """The right answers of an environment's problems, by the text of their prompts.

    **Raises:** `ValueError` for an environment that does not know them.
    """
    if not isinstance(env, AbstractAnswerEnvironment):
        raise ValueError(
            "`solutions` are the answers of an `AbstractAnswerEnvironment`. Received "
            f"{type(env).__name__}, which has none: leave the reward out."
        )

    @jax.jit
    def every(index: Int[jax.Array, " problem"]):
        states, prompts = jax.vmap(env.problem)(index)
        return prompts, jax.vmap(env.gold)(states)

    prompts, gold = jax.device_get(every(jnp.arange(env.size)))
    rows = zip(prompts.tokens, prompts.length, gold, strict=True)
    return {
        tokenizer.decode(tokens[:length].tolist()): str(answer)
        for tokens, length, answer in rows
    }
