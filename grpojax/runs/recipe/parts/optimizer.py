"""The optimizer of a recipe, on its schedule."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import optax
import optax.contrib
from jax.tree_util import Partial

from ....update import stochastic_rounding, with_learning_rate
from ..kinds import fields_of
from ..schema import Recipe
from .compose import Context, make, parameters_of
from .lookup import find


OPTIMIZERS: list[ModuleType] = [optax, optax.contrib]
"""Modules whose names a recipe may give to optimizers and schedules."""

Rate = float | jax.Array
"""A constant, or an input of the program."""


def build_schedule(recipe: Recipe, rate: Rate | None = None) -> optax.Schedule:
    """The learning rate, by the number of optimizer updates.

    `rate` replaces the number of the recipe.
    """
    settings, own = recipe.optimizer, recipe.optimizer.learning_rate
    if not isinstance(own, float):
        key = "optimizer.learning_rate"
        return make(key, own, Callable, Context(OPTIMIZERS))
    rate = own if rate is None else rate
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

    Weights and moments in bfloat16 are rounded stochastically. A learning rate that is
    a number is the argument of the `Partial` that updates: a sweep passes an array.

    **Raises:** `ValueError` with the key, for unknown names and arguments.
    """
    rate = recipe.optimizer.learning_rate
    if not isinstance(rate, float):
        return _build(recipe, build_schedule(recipe))

    def build(rate: Rate) -> optax.GradientTransformation:
        return _build(recipe, build_schedule(recipe, rate))

    def update(rate: Rate, *arguments: Any) -> tuple[optax.Updates, optax.OptState]:
        return build(rate).update(*arguments)

    return optax.GradientTransformation(build(rate).init, Partial(update, rate))


def _build(recipe: Recipe, schedule: optax.Schedule) -> optax.GradientTransformation:
    settings = recipe.optimizer
    parameters = parameters_of(find("optimizer.name", settings.name, OPTIMIZERS))
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
    context = Context(OPTIMIZERS, siblings=list(fields_of(settings)))
    optimizer = make("optimizer", described, optax.GradientTransformation, context)
    if settings.clip_norm is not None:
        clip = optax.clip_by_global_norm(settings.clip_norm)
        optimizer = optax.chain(clip, optimizer)
    if scheduled:
        optimizer = with_learning_rate(optimizer, schedule)
    state_dtype = settings.state_dtype or recipe.model.dtype
    if "bfloat16" in (state_dtype, recipe.model.dtype):
        optimizer = stochastic_rounding(optimizer, state_dtype=state_dtype)
    return optimizer
