"""From the names and numbers of a recipe to the parts that run."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from ... import algorithms, models, reward
from ...env import AbstractDatasetEnvironment
from ...models import Transformer
from ...reward import RewardFn
from ...rollout import AbstractSampler, Categorical, Greedy
from ...text import AbstractTokenizer, load_tokenizer
from ...types import Rewards, Trajectory
from ...update import Number, stochastic_rounding
from ..distributed import mesh as placement
from .schema import Recipe


SHIPPED = "gsm8k-tiny"
"""The name of the model that comes with the package."""

NAMED = "envs"
"""The package of the environments that a recipe calls by a short name."""


def shuffled(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    """Pays the rows of every prompt what the rows of its neighbor earned.

    A negative control: the rewards have the same values and say nothing about the rows
    that get them, so whatever improves under it does not owe it to the rewards.
    """
    del trajectory
    return dataclasses.replace(rewards, total=jnp.roll(rewards.total, 1, axis=0))


TRUNCATED = {
    "keep": (),
    "zero": (reward.zero_truncated,),
    "drop": (reward.drop_truncated,),
}


def build_reward(recipe: Recipe) -> RewardFn:
    """The components that a recipe pays for, weighed and shaped."""
    settings = recipe.reward
    weights: dict[str, Number] = {
        "correct": settings.correct,
        "format": settings.format,
    }
    shapings = TRUNCATED[settings.truncated] + (shuffled,) * settings.shuffle
    return reward.Chain(reward.WeightedSum(weights), *shapings)


ALGORITHMS = {
    function.__name__: function
    for function in (
        algorithms.grpo,
        algorithms.dr_grpo,
        algorithms.bnpo,
        algorithms.dapo,
        algorithms.gspo,
        algorithms.cispo,
        algorithms.rloo,
        algorithms.reinforce,
        algorithms.reinforce_plus_plus,
        algorithms.sapo,
        algorithms.vespo,
        algorithms.luspo,
        algorithms.gmpo,
        algorithms.opo,
    )
}


def build_sampler(recipe: Recipe) -> AbstractSampler:
    """How completions are drawn that are judged or looked at."""
    temperature = recipe.run.eval_temperature
    return Categorical(temperature) if temperature > 0 else Greedy()


def build_algorithm(recipe: Recipe) -> algorithms.Algorithm:
    """One of `grpojax.algorithms`, with the recipe's numbers.

    **Raises:** `ValueError` for a number that the algorithm has not.
    """
    build = ALGORITHMS[recipe.algorithm.name]
    known = inspect.signature(build).parameters
    numbers = {
        key: value
        for key, value in vars(recipe.algorithm).items()
        if key != "name" and value is not None
    }
    for key in numbers:
        if key not in known:
            raise ValueError(
                f"`algorithm.{key}` must be a number of {recipe.algorithm.name}, which "
                f"has {', '.join(known) or 'none'}. Received {numbers[key]}: leave it "
                "out."
            )
    return build(**numbers)


def build_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW on a schedule, after a clip of the gradient's norm.

    Whatever is kept in bfloat16, weights or moments, is rounded at random.
    """
    settings, rate = recipe.optimizer, recipe.optimizer.learning_rate
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
    optimizer = optax.adamw(schedule, weight_decay=settings.weight_decay)
    if settings.clip_norm is not None:
        clip = optax.clip_by_global_norm(settings.clip_norm)
        optimizer = optax.chain(clip, optimizer)
    state_dtype = settings.state_dtype or recipe.model.dtype
    if "bfloat16" in (state_dtype, recipe.model.dtype):
        optimizer = stochastic_rounding(optimizer, state_dtype=state_dtype)
    return optimizer


class Keys(NamedTuple):
    """Every random draw of a run is folded from one of these."""

    train: Key[Array, ""]
    evaluate: Key[Array, ""]
    adapters: Key[Array, ""]


def build_keys(recipe: Recipe) -> Keys:
    """The keys that a recipe's seed stands for."""
    key = jr.key(recipe.run.seed)
    train, evaluate = jr.split(key)
    return Keys(train, evaluate, adapters=jr.fold_in(key, 2))


REMAT = {False: "elementwise", True: "layers"}
"""What recipes of old say."""


def load_model(
    recipe: Recipe, mesh: Mesh | None = None
) -> tuple[Transformer, AbstractTokenizer]:
    """A model, laid out over a mesh if there is one, and its tokenizer.

    **Raises:** `FileNotFoundError` if there is none, `ValueError` if the two do not
    fit together.
    """
    settings = recipe.model
    path, remat = settings.path, settings.remat
    if path == SHIPPED:
        path = str(resources.files("grpojax") / "assets" / SHIPPED)
    policy = models.load(
        path,
        dtype=jnp.dtype(settings.dtype),
        compute_dtype=settings.compute_dtype and jnp.dtype(settings.compute_dtype),
        cache_dtype=settings.cache_dtype and jnp.dtype(settings.cache_dtype),
        remat=REMAT[remat] if isinstance(remat, bool) else remat,
        mesh=mesh,
    )
    tokenizer = load_tokenizer(path)
    models.check_tokenizer(policy, tokenizer)
    return policy, tokenizer


def build_adapters(recipe: Recipe, policy: Transformer) -> Transformer:
    """The policy that a recipe trains: with adapters, if it asks for them.

    **Raises:** `ValueError` for projections that the policy has not.
    """
    settings = recipe.lora
    if settings.rank is None:
        return policy
    return models.lora(
        models.quantize(policy) if settings.int8_base else policy,
        settings.projections.replace(",", " ").split(),
        rank=settings.rank,
        alpha=settings.alpha,
        key=build_keys(recipe).adapters,
    )


class Environments(NamedTuple):
    """What a recipe's task makes of its data.

    **Fields:**

    - `train`: what is trained on.
    - `held_out`: what is judged, if anything.
    - `notes`: what a person should know of it, a sentence each.
    """

    train: AbstractDatasetEnvironment
    held_out: AbstractDatasetEnvironment | None
    notes: list[str]


def build_environments(
    recipe: Recipe, tokenizer: AbstractTokenizer, mesh: Mesh | None = None
) -> Environments:
    """Calls the function that `data.task` names.

    It is `envs.<task>.environments`, or for `package.module:function` that one; either
    is given the section `data`, the tokenizer, and the keywords `horizon`
    (`rollout.max_new_tokens`) and `held_out` (`run.eval_problems`), and returns the
    three fields of `Environments`.

    **Raises:** `ValueError` if there is no such function, and what it raises itself.
    """
    made = find_task(recipe.data.task)(
        recipe.data,
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
    put = lambda env: placement.place(env, mesh)
    return Environments(put(train), put(held_out), notes)


def find_task(task: str) -> Callable[..., tuple]:
    """The function that a task's name stands for; see `build_environments`."""
    module, colon, function = task.partition(":")
    if not colon:
        module, function = f"{NAMED}.{task}", "environments"
    try:
        found = vars(importlib.import_module(module)).get(function)
    except ModuleNotFoundError as error:
        # A module that is there and lacks another one is no misspelt name.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        found = None
    if found is None:
        raise ValueError(
            f"`data.task` must be one of {', '.join(known_tasks())}, or say where a "
            f"function is: `package.module:function`. Received {task!r}: there is no "
            f"`{function}` in a module `{module}`."
        )
    return found


def known_tasks() -> list[str]:
    """The environments that have short names."""
    try:
        folder = importlib.import_module(NAMED).__path__
    except ModuleNotFoundError:
        return []
    names = [module.name for module in pkgutil.iter_modules(folder)]
    return [name for name in names if not name.startswith("_")]
