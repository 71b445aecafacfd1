"""The optimizer of a recipe, on its schedule."""

from collections.abc import Callable
from types import ModuleType

import optax
import optax.contrib

from ....update import stochastic_rounding, with_learning_rate
from ..kinds import fields_of
from ..schema import Recipe
from .compose import Context, make, parameters_of
from .lookup import find


OPTIMIZERS: list[ModuleType] = [optax, optax.contrib]
"""Modules whose names a recipe may give to optimizers and schedules."""


def build_schedule(recipe: Recipe) -> optax.Schedule:
    """The learning rate, by the number of optimizer updates."""
    settings, rate = recipe.optimizer, recipe.optimizer.learning_rate
    if not isinstance(rate, float):
        key = "optimizer.learning_rate"
        return make(key, rate, Callable, Context(OPTIMIZERS))
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
