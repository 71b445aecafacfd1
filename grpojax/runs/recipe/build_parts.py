"""The reward, the algorithm and the optimizer of a recipe."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Int

from ... import advantage, algorithms, reward, update
from ...algorithms import Algorithm
from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ...policy import AbstractPolicy
from ...reward import RewardFn
from ...text import AbstractTokenizer
from ...types import Rewards, Trajectory
from ...update import (
    AbstractSurrogate,
    Importance,
    KL,
    OffPolicySequenceMask,
    stochastic_rounding,
    TopEntropy,
    with_learning_rate,
)
from . import shapings
from .compose import find, Given, make
from .schema import Recipe


REWARDS: list[ModuleType] = [reward, shapings, update]
"""Modules whose names a recipe may give to reward functions and shapings."""

OPTIMIZERS: list[ModuleType] = [optax, optax.contrib]
"""Modules whose names a recipe may give to optimizers and schedules."""


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
    given: Given = {
        "decode": lambda: tokenizer.decode,
        "horizon": lambda: recipe.rollout.max_new_tokens,
        "reference": reference,
        "solutions": lambda: solutions(env, tokenizer),
    }
    settings = recipe.reward
    terms = [
        _term(f"reward.terms[{i}]", part, given, call=True)
        for i, part in enumerate(settings.terms)
    ]
    changes = [
        make(f"reward.shapings[{i}]", part, REWARDS, arity=2, given=given)
        for i, part in enumerate(settings.shapings)
    ]
    total = reward.WeightedSum(dict(settings.weights), *terms)
    return _RecipeReward(reward.Chain(total, *changes))


class _RecipeReward(eqx.Module):
    """A reward function whose errors name the recipe's section."""

    function: RewardFn

    def __call__(self, trajectory: Trajectory) -> Rewards:
        try:
            return self.function(trajectory)
        except ValueError as error:
            raise ValueError(f"`reward` does not fit the task. {error}") from error


_GIVEN = ("decode", "horizon", "reference", "solutions")


def check_reward(recipe: Recipe) -> None:
    """Checks the names and arguments of the section `reward`; makes nothing."""
    nothing: Given = dict.fromkeys(_GIVEN, object)
    for i, part in enumerate(recipe.reward.terms):
        _term(f"reward.terms[{i}]", part, nothing, call=False)
    for i, part in enumerate(recipe.reward.shapings):
        make(f"reward.shapings[{i}]", part, REWARDS, arity=2, given=nothing, call=False)
    named = [x["name"] if isinstance(x, Mapping) else x for x in recipe.reward.shapings]
    if "shuffled" in named and recipe.rollout.prompts < 2:
        raise ValueError(
            "`reward.shapings: [shuffled]` gives a prompt the rewards of another, so a "
            "step needs two prompts. Received rollout.prompts="
            f"{recipe.rollout.prompts}."
        )


def _term(key: str, part: object, given: Given, *, call: bool) -> Any:
    """A reward function; a Python function over texts runs on the host."""
    if isinstance(part, str):
        function = find(key, part, REWARDS)
        if inspect.isfunction(function) and _takes_completions(function):
            if not call:
                return None
            name = function.__name__
            decode: Any = given["decode"]()
            return reward.HostReward(function, decode, name=name)
    return make(key, part, REWARDS, arity=1, given=given, call=call)


def _takes_completions(function: Callable) -> bool:
    return "completions" in inspect.signature(function).parameters


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


_OBJECTIVE = {
    "ratio": 1,
    "surrogate": None,
    "weight": 1,
    "importance": None,
    "entropy_filter": None,
    "off_policy_filter": None,
}
"""Parts of an objective, and the number of arguments of functions among them."""

_TYPES = {
    "surrogate": AbstractSurrogate,
    "importance": Importance,
    "entropy_filter": TopEntropy,
    "off_policy_filter": OffPolicySequenceMask,
}


def build_algorithm(recipe: Recipe) -> Algorithm:
    """The algorithm that a recipe names, with the parts that it changes.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    settings = recipe.algorithm
    described: dict[str, object] = {"name": settings.name, **settings.arguments}
    function = find("algorithm.name", settings.name, [algorithms])
    takes_beta = callable(function) and "beta" in inspect.signature(function).parameters
    if settings.beta is not None and takes_beta:
        described["beta"] = settings.beta
    algorithm = make("algorithm", described, [algorithms])
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            "`algorithm.name` must name a function of `grpojax.algorithms`, or one of "
            f"yours that returns an `Algorithm`. Received {settings.name!r}."
        )
    changes: dict[str, object] = {}
    for field, arity in _OBJECTIVE.items():
        part = vars(settings)[field]
        if part is not None:
            changes[field] = _objective_part(field, part, arity)
    penalties = algorithm.objective.penalties
    if settings.penalties is not None:
        named = enumerate(settings.penalties)
        penalties = tuple(_penalty(f"algorithm.penalties[{i}]", x) for i, x in named)
    if settings.beta is not None and not takes_beta:
        penalties = (*penalties, KL(settings.beta))
    if penalties != algorithm.objective.penalties:
        changes["penalties"] = penalties
    if settings.entropy_bonus is not None:
        changes["entropy_bonus"] = settings.entropy_bonus
    objective = dataclasses.replace(algorithm.objective, **changes)
    estimator, select = algorithm.advantage, algorithm.select
    if settings.advantage is not None:
        estimator = make(
            "algorithm.advantage", settings.advantage, [advantage], arity=1
        )
    if settings.select is not None:
        select = make("algorithm.select", settings.select, [advantage], arity=1)
    return Algorithm(estimator, select, objective)


def _objective_part(field: str, part: object, arity: int | None) -> object:
    made = make(f"algorithm.{field}", part, [update], arity=arity)
    kind = _TYPES.get(field)
    if kind is not None and not isinstance(made, kind):
        raise ValueError(
            f"`algorithm.{field}` must be an `update.{kind.__name__}`. Received "
            f"{part!r}."
        )
    return made


def _penalty(key: str, part: object) -> KL:
    made = make(key, part, [update])
    if not isinstance(made, KL):
        raise ValueError(f"`{key}` must be an `update.KL`. Received {part!r}.")
    return made


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the loss compares the policy with a reference."""
    return bool(algorithm.objective.penalties)


def build_schedule(recipe: Recipe) -> optax.Schedule:
    """The learning rate, by the number of optimizer updates."""
    settings, rate = recipe.optimizer, recipe.optimizer.learning_rate
    if not isinstance(rate, float):
        schedule = make("optimizer.learning_rate", rate, OPTIMIZERS)
        if not callable(schedule):
            raise ValueError(
                "`optimizer.learning_rate` must be a number or a schedule of optax. "
                f"Received {rate!r}."
            )
        return cast(optax.Schedule, schedule)
    updates = recipe.run.steps * recipe.update.epochs * recipe.update.minibatches
    warmup = settings.warmup_updates
    decay = max(updates - warmup, 1)
    schedule = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, decay),
        "cosine": optax.cosine_decay_schedule(rate, decay),
    }[settings.schedule]
    if warmup > 0:
        rising = optax.linear_schedule(0.0, rate, warmup)
        schedule = optax.join_schedules([rising, schedule], [warmup])
    return schedule


def build_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The optimizer on its schedule, after a clip of the gradient's norm.

    Weights and moments in bfloat16 are rounded stochastically.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    settings, schedule = recipe.optimizer, build_schedule(recipe)
    function = find("optimizer.name", settings.name, OPTIMIZERS)
    parameters = inspect.signature(function).parameters if callable(function) else {}
    described: dict[str, object] = {"name": settings.name, **settings.arguments}
    if "weight_decay" in parameters:
        described["weight_decay"] = settings.weight_decay
    elif settings.weight_decay:
        raise ValueError(
            f"`optimizer.weight_decay` must be an argument of {settings.name}, which "
            f"has none. Received {settings.weight_decay}: leave it at 0."
        )
    scheduled = "learning_rate" in parameters
    if scheduled:
        described["learning_rate"] = schedule
    optimizer = make("optimizer", described, OPTIMIZERS)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "`optimizer.name` must name an optimizer of optax, or a function of yours "
            f"that returns one. Received {settings.name!r}."
        )
    if settings.clip_norm is not None:
        clip = optax.clip_by_global_norm(settings.clip_norm)
        optimizer = optax.chain(clip, optimizer)
    if scheduled:
        optimizer = with_learning_rate(optimizer, schedule)
    state_dtype = settings.state_dtype or recipe.model.dtype
    if "bfloat16" in (state_dtype, recipe.model.dtype):
        optimizer = stochastic_rounding(optimizer, state_dtype=state_dtype)
    return optimizer
