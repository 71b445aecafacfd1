"""The algorithm of a recipe, with the parts that it changes."""

import dataclasses
import typing
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .... import advantage, algorithms, update
from ...._train import Averaging
from ....algorithms import Algorithm
from ....types import Rewards
from ....update import Batch, KL, LossInputs, LossWeights
from .. import schema
from ..kinds import fields_of
from .compose import Context, make, parameters_of
from .lookup import find


_T = TypeVar("_T")


def build_algorithm(recipe: schema.Recipe) -> Algorithm:
    """The algorithm that a recipe names, with the parts that it changes.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    settings, beta = recipe.algorithm, recipe.algorithm.beta
    described: dict[str, object] = {"name": settings.name, **settings.arguments}
    function = find("algorithm.name", settings.name, [algorithms])
    takes_beta = "beta" in parameters_of(function)
    if beta is not None and takes_beta:
        described["beta"] = beta
    context = Context([algorithms], siblings=list(fields_of(settings)))
    algorithm = make("algorithm", described, Algorithm, context)
    objective = _changed(algorithm.objective, settings, update)
    if beta is not None and (settings.penalties is not None or not takes_beta):
        penalties = (*objective.penalties, KL(beta))
        objective = dataclasses.replace(objective, penalties=penalties)
    if recipe.rollout.staleness > 0 and objective.importance is None:
        # AReaL's decoupled objective: the ratio is to the policy before the update.
        importance = update.Importance(cap=5.0, level="token")
        objective = dataclasses.replace(objective, importance=importance)
    algorithm = _changed(algorithm, settings, advantage)
    return dataclasses.replace(algorithm, objective=objective)


def _changed(value: _T, settings: schema.Algorithm, module: ModuleType) -> _T:
    """A value in which the parts that settings describe replace its fields."""
    changes, context = {}, Context([module])
    for field, kind in typing.get_type_hints(type(value)).items():
        key, part = f"algorithm.{field}", vars(settings).get(field)
        if isinstance(part, tuple):
            items, (kind, *_) = enumerate(part), typing.get_args(kind)
            part = tuple(make(f"{key}[{i}]", x, kind, context) for i, x in items)
        elif part is not None and not isinstance(part, float):
            part = make(key, part, kind, context)
        if part is not None:
            changes[field] = part
    return dataclasses.replace(typing.cast(Any, value), **changes)


def check_algorithm(recipe: schema.Recipe) -> None:
    """Checks an algorithm on the shapes of a step, by tracing its parts.

    **Raises:** `ValueError` with the key, for parts that take or return something else,
    and for a group that the baseline cannot do with.
    """
    algorithm, settings = build_algorithm(recipe), recipe.rollout
    objective = algorithm.objective
    if recipe.teacher.path is not None and not objective.distills:
        raise ValueError(
            "`teacher.path` names whom the penalty Distill learns from. Received "
            f"{recipe.teacher.path!r} and no such penalty: add it, "
            "`algorithm.penalties: [Distill]`, or leave the teacher out."
        )
    rows = settings.train_prompts or settings.prompts, settings.group
    tokens = *rows, settings.max_new_tokens
    mask = jax.ShapeDtypeStruct(tokens, bool)
    rewards = jax.eval_shape(lambda: _rewards(rows, recipe.reward.weights))
    taught = recipe.teacher.path is not None
    inputs = jax.eval_shape(lambda: _inputs(tokens, taught))
    places: dict[str, tuple[Callable, object, tuple[int, ...], type]] = {
        "advantage": (algorithm.advantage, rewards, rows, jnp.floating),
        "select": (algorithm.select, rewards, rows, jnp.bool_),
        "weight": (objective.weight, mask, tokens, jnp.floating),
        "ratio": (objective.ratio, inputs, tokens, jnp.floating),
    }
    for field, (part, argument, shape, dtype) in places.items():
        try:
            found = _traced(field, part, argument)
        except KeyError:
            continue  # A component that only the task has: the step's trace finds out.
        is_array = isinstance(found, jax.ShapeDtypeStruct)
        if (
            not is_array
            or found.shape[: len(shape)] != shape
            or not jnp.issubdtype(found.dtype, dtype)
        ):
            kind = "flag" if dtype is jnp.bool_ else "number"
            raise ValueError(
                f"`algorithm.{field}` must return a {kind} for each "
                f"{'row' if shape == rows else 'token'}, of dtype {dtype.__name__} and "
                f"shape {shape}. Received {found!r:.80}."
            )

    def loss(inputs: LossInputs) -> object:
        weights = objective.loss_weights(inputs.batch)
        return objective(dataclasses.replace(inputs, weights=weights))

    _traced("penalties", loss, inputs)


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


def _rewards(rows: tuple[int, int], names: Iterable[str]) -> Rewards:
    rewards = Rewards.of(jnp.zeros(rows))
    components = {name: rewards.total for name in names}
    weights = {name: jnp.ones(()) for name in components}
    return dataclasses.replace(rewards, components=components, weights=weights)


def _inputs(shape: tuple[int, ...], taught: bool) -> LossInputs:
    number, advantage = jnp.zeros(shape), jnp.zeros((*shape[:-1], 1))
    known = dict.fromkeys(("old", "behavior", "reference", "entropy"), number)
    known |= {"teacher": number} if taught else {}
    batch = Batch(advantage, jnp.ones(shape, bool), **known)
    return LossInputs(number, number, batch, LossWeights(number), number)


def build_average(recipe: schema.Recipe) -> Averaging | None:
    """The average of a recipe's weights, if it has one.

    **Raises:** `ValueError` for a decay of 1 or more, and for a reference that no
    penalty compares the policy with.
    """
    settings = recipe.average
    if settings.decay is None:
        return None
    if settings.reference and not build_algorithm(recipe).objective.compares:
        raise ValueError(
            "`average.reference` is that of a KL penalty. Received none: set "
            "`algorithm.beta`, or leave it false."
        )
    return Averaging(settings.decay, settings.every, settings.reference)
