"""The algorithm of a recipe, with the parts that it changes."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from .... import advantage, algorithms, update
from ....algorithms import Algorithm
from ....types import Rewards
from ....update import (
    AbstractSurrogate,
    Batch,
    Importance,
    KL,
    LossInputs,
    LossWeights,
    OffPolicySequenceMask,
    TopEntropy,
)
from ..schema import Recipe
from .compose import Context, keys_of, make
from .lookup import find


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
    context = Context([algorithms], siblings=keys_of(settings))
    algorithm = make("algorithm", described, context)
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
    if settings.beta is not None and (settings.penalties is not None or not takes_beta):
        penalties = (*penalties, KL(settings.beta))
    changes["penalties"] = penalties
    if settings.entropy_bonus is not None:
        changes["entropy_bonus"] = settings.entropy_bonus
    objective = dataclasses.replace(algorithm.objective, **changes)
    estimator, select = algorithm.advantage, algorithm.select
    if settings.advantage is not None:
        estimator = make(
            "algorithm.advantage", settings.advantage, Context([advantage]), arity=1
        )
    if settings.select is not None:
        select = make(
            "algorithm.select", settings.select, Context([advantage]), arity=1
        )
    return Algorithm(estimator, select, objective)


def _objective_part(field: str, part: object, arity: int | None) -> object:
    made = make(f"algorithm.{field}", part, Context([update]), arity=arity)
    kind = _TYPES.get(field)
    if kind is not None and not isinstance(made, kind):
        raise ValueError(
            f"`algorithm.{field}` must be an `update.{kind.__name__}`. Received "
            f"{part!r}."
        )
    return made


def _penalty(key: str, part: object) -> KL:
    made = make(key, part, Context([update]))
    if not isinstance(made, KL):
        raise ValueError(f"`{key}` must be an `update.KL`. Received {part!r}.")
    return made


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the loss compares the policy with a reference."""
    return bool(algorithm.objective.penalties)


def check_algorithm(recipe: Recipe) -> None:
    """Checks an algorithm on the shapes of a step, by tracing its parts.

    **Raises:** `ValueError` with the key, for parts that take or return something else,
    and for a group that the baseline cannot do with.
    """
    algorithm, settings = build_algorithm(recipe), recipe.rollout
    objective = algorithm.objective
    rows = settings.train_prompts or settings.prompts, settings.group
    shape = *rows, settings.max_new_tokens
    mask = jax.ShapeDtypeStruct(shape, bool)
    rewards = jax.eval_shape(lambda: _rewards(rows, recipe.reward.weights))
    inputs = jax.eval_shape(lambda: _inputs(shape))

    def loss(inputs: LossInputs) -> object:
        weights = objective.loss_weights(inputs.batch)
        return objective(dataclasses.replace(inputs, weights=weights))

    try:
        estimates = _traced("advantage", algorithm.advantage, rewards)
        _check("advantage", "a number for each row", estimates, rows, jnp.floating)
        selected = _traced("select", algorithm.select, rewards)
        _check("select", "a flag for each row", selected, rows, jnp.bool_)
    except KeyError:
        # A component that only the task has: the step's trace finds out.
        pass
    weights = _traced("weight", objective.weight, mask)
    _check("weight", "a number for each token", weights, shape, jnp.floating)
    ratio = _traced("ratio", objective.ratio, inputs)
    _check("ratio", "a number for each token", ratio, shape, jnp.floating)
    _traced("penalties", loss, inputs)


def _rewards(rows: tuple[int, int], names: Iterable[str]) -> Rewards:
    rewards = Rewards.of(jnp.zeros(rows))
    components = {name: rewards.total for name in names}
    weights = {name: jnp.ones(()) for name in components}
    return dataclasses.replace(rewards, components=components, weights=weights)


def _inputs(shape: tuple[int, ...]) -> LossInputs:
    number, advantage = jnp.zeros(shape), jnp.zeros((*shape[:-1], 1))
    batch = Batch(advantage, jnp.ones(shape, bool), number, number, number, number)
    return LossInputs(number, number, batch, LossWeights(number))


def _traced(field: str, part: Callable, argument: object) -> object:
    """What a part returns, as shapes."""
    try:
        return jax.eval_shape(part, argument)
    except KeyError:
        raise
    except Exception as error:  # A part of the user's may raise anything.
        raise ValueError(
            f"`algorithm.{field}` must fit its place. Received {part!r:.80}: {error}"
        ) from error


def _check(
    field: str, what: str, found: Any, shape: tuple[int, ...], dtype: type
) -> None:
    """Raises a `ValueError` unless an array has the shape, and maybe more axes."""
    is_array = isinstance(found, jax.ShapeDtypeStruct)
    if not is_array or found.shape[: len(shape)] != shape:
        raise ValueError(
            f"`algorithm.{field}` must return {what}, of shape {shape}. Received "
            f"{found!r:.80}."
        )
    if not jnp.issubdtype(found.dtype, dtype):
        raise ValueError(
            f"`algorithm.{field}` must return {what}, of dtype {dtype.__name__}. "
            f"Received {found.dtype}."
        )
