"""Construction of the arguments of `grpojax.fit` from a recipe."""

import dataclasses
import datetime
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from ... import models, rollout
from ..._train import TrainStep
from ...env import AbstractDatasetEnvironment, AbstractEnvironment
from ...models import Transformer
from ...policy import AbstractPolicy
from ...rollout import AbstractSampler, Categorical, RolloutConfig
from ...text import AbstractTokenizer
from ...update import UpdateConfig
from ..checkpoint.files import find_run
from ..distributed import mesh as meshes
from ..evaluation.remarks import remarks
from ..serve.prepare import Served
from ..tracking import build as trackers
from ..training.health import Thresholds
from ..training.settings import Checkpointing, Config, export_to, Logging
from . import load
from .frozen.load import load_teacher
from .parts.algorithm import build_algorithm, build_average, check_algorithm
from .parts.compose import Context, make
from .parts.curriculum import build_curriculum, with_curriculum
from .parts.evaluation import build_evaluations, check_evaluations
from .parts.optimizer import build_optimizer
from .parts.reward import build_reward, check_reward
from .policy import build_adapters, build_keys, load_model, step_of as step_of
from .schema import Recipe
from .supervised.completions import check_completion
from .supervised.step import build_supervised
from .tasks import (
    build_environments,
    Environments,
    find_agent,
    find_factory,
    find_task,
    find_tools,
)


logger = logging.getLogger(__name__)


def build_rollout(recipe: Recipe) -> RolloutConfig:
    """The `RolloutConfig` of a recipe."""
    settings, behavior = recipe.rollout, recipe.rollout.behavior
    sampler = Categorical(settings.temperature)
    if settings.sampler is not None:
        context = Context([rollout])
        sampler = make("rollout.sampler", settings.sampler, AbstractSampler, context)
    if behavior is not None:
        kind, context = Callable[[AbstractPolicy], AbstractPolicy], Context([models])
        behavior = make("rollout.behavior", behavior, kind, context)
    return RolloutConfig(
        settings.prompts,
        settings.group,
        train_prompts=settings.train_prompts,
        slots=settings.slots,
        cache_tokens=settings.cache_tokens,
        sampler=sampler,
        behavior=behavior,
        staleness=settings.staleness or None,
        partial_prompts=settings.partial_prompts or None,
    )


def remarks_of(
    recipe: Recipe,
    policy: AbstractPolicy,
    tokenizer: AbstractTokenizer,
    env: AbstractEnvironment,
) -> tuple[str, ...]:
    """What can be said of a recipe's model and problems before the start."""
    chat = bool(recipe.data.option("chat"))
    return remarks(policy, env, tokenizer, chat=chat)


def config_of(recipe: Recipe) -> Config:
    """The run configuration of a recipe; its `parse` reads older recipes too.

    Its values name the curriculum. A run without that key is from before there were
    any, and has drawn uniformly.
    """
    values = lambda recipe: load.to_mapping(with_curriculum(recipe))
    older = dataclasses.replace(Recipe(), curriculum="Uniform")
    parse = lambda text: values(load.parse(older, text))
    return Config(values(recipe), parse, text=load.dump(recipe))


def check(recipe: Recipe) -> None:
    """Checks all of a recipe's components before anything is loaded.

    **Raises:** `ValueError` or `TypeError` with the key, for a name or an argument that
    is unknown, and for parts that do not fit together.
    """
    build_rollout(recipe)
    build_curriculum(recipe)
    check_algorithm(recipe)
    build_optimizer(recipe)
    check_reward(recipe)
    check_evaluations(recipe)
    check_completion(recipe.warmup.completion)
    build_average(recipe)
    find_task(recipe.data.task)
    find_tools(recipe)
    find_factory(recipe)
    find_agent(recipe)


def build(
    recipe: Recipe, *, today: datetime.date | None = None, weights: bool = True
) -> dict[str, Any]:
    """Loads a recipe's parts: `grpojax.fit(**build(recipe), out="out/run")`.

    **Arguments:**

    - `recipe`: see `load.load`.
    - `today`: the date for chat templates that ask for it; by default the clock's. A
        checkpoint keeps it.
    - `weights`: otherwise the arrays of the state are shapes, to be traced and compiled
        with; no weights are read.

    **Returns:** arguments of `grpojax.fit`; `out` and `resume` are the caller's.

    **Raises:** `ValueError`, `TypeError`, `OSError` or `ImportError` for parts that are
    missing or do not fit together.

    !!! example

        ```python
        grpojax.fit(**build(load(Recipe(), "recipe.yaml")), out="out/run")
        ```
    """
    check(recipe)
    mesh = meshes.build_mesh(**vars(recipe.mesh))
    with meshes.use(mesh):
        return _build(recipe, mesh, today or datetime.date.today(), weights)


def build_step(
    recipe: Recipe,
    env: AbstractDatasetEnvironment,
    tokenizer: AbstractTokenizer,
    mesh: Mesh | None,
    base: Callable[[], AbstractPolicy],
) -> TrainStep:
    """The train step of a recipe.

    **Arguments:**

    - `base`: makes a copy of the initial policy, if a reward asks for it.
    """
    return TrainStep(
        env,
        build_optimizer(recipe),
        build_algorithm(recipe),
        rollout=build_rollout(recipe),
        update=UpdateConfig(**vars(recipe.update)),
        reward=build_reward(recipe, env, tokenizer, base, mesh),
        teacher=load_teacher(recipe, tokenizer, mesh),
        average=build_average(recipe),
        curriculum=build_curriculum(recipe),
        validate=recipe.run.validate,
        actors=meshes.build_actors(mesh, **vars(recipe.actors)),
    )


def _build(
    recipe: Recipe, mesh: Mesh | None, today: datetime.date, weights: bool
) -> dict[str, Any]:
    compute = _call if weights else meshes.shapes_of(mesh)
    policy, tokenizer = load_model(recipe, mesh, today, weights=weights)
    logger.info("making the environments of the task %s", recipe.data.task)
    environments = build_environments(recipe, tokenizer, mesh)
    policy = compute(functools.partial(build_adapters, recipe), policy)

    def base() -> Transformer:
        # A copy: the step donates the policy that it is given.
        return compute(_copy_of_base, policy)

    reference = None
    if build_algorithm(recipe).objective.compares and not recipe.average.reference:
        # The base weights of adapters are frozen and need no copy.
        adapted = recipe.lora.adapts
        reference = models.without_adapters if adapted else base()
    keys = build_keys(recipe)
    health, about = Thresholds(**vars(recipe.health)), None
    if recipe.run.stage == "warmup":
        given = recipe, environments, tokenizer, build_optimizer(recipe)
        step, about = build_supervised(*given)
        step = dataclasses.replace(step, average=build_average(recipe))
        step = meshes.place(step, mesh)
        state = compute(lambda policy: step.init(policy, key=keys.train), policy)
        # What is learned word for word has little entropy.
        health = dataclasses.replace(health, entropy=None)
    else:
        step = build_step(recipe, environments.train, tokenizer, mesh, base)
        init = lambda policy, reference: step.init(
            policy, reference=reference, key=keys.train
        )
        state = compute(init, policy, reference)
    export = export_to(tokenizer, base=recipe.model.path)
    return dict(
        state=meshes.place(state, mesh),
        step=step,
        steps=recipe.run.steps,
        evaluation=build_evaluations(
            recipe, environments, tokenizer, base, mesh, key=keys.evaluate
        ),
        checkpoint=Checkpointing(**vars(recipe.checkpoint), export=export),
        trackers=trackers.factories(**vars(recipe.tracking)),
        health=health,
        logging=Logging(recipe.log.every, recipe.log.completions, tokenizer),
        config=dataclasses.replace(
            config_of(recipe),
            summary=summarize(recipe, policy, environments, mesh, about),
            warnings=remarks_of(recipe, policy, tokenizer, environments.train),
            origin=recipe.model.path if find_run(Path(recipe.model.path)) else None,
            today=today.isoformat(),
        ),
    )


def _call(function: Callable[..., Any], *arguments: PyTree) -> Any:
    return function(*arguments)


def _copy_of_base(policy: Transformer) -> Transformer:
    copy = lambda x: jnp.copy(x) if eqx.is_array(x) else x
    return jax.tree.map(copy, models.without_adapters(policy))


def load_served(recipe: Recipe) -> Served:
    """Loads a recipe's model for a server."""
    mesh = meshes.build_mesh(**vars(recipe.mesh))
    policy, tokenizer = load_model(recipe, mesh)
    return Served(policy, tokenizer, mesh, recipe.data.option("stop"))


def summarize(
    recipe: Recipe,
    policy: Transformer,
    environments: Environments,
    mesh: Mesh | None,
    about: str | None = None,
) -> str:
    """A summary of a run in a few lines; `about` is its last one, if it is known."""
    settings, lora = recipe.rollout, recipe.lora
    millions = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
    dense = eqx.filter_eval_shape(models.merge, policy)
    lines = [
        f"model  {recipe.model.path}: {millions(dense):,.1f} million parameters, "
        f"{recipe.model.dtype}, on {meshes.describe(mesh)}"
    ]
    if lora.adapts:
        trained = millions(eqx.filter(policy, policy.trainable()))
        kind = f"rank {lora.rank}, alpha {lora.alpha:g}, on {lora.projections}"
        lines += [
            f"lora   {kind if lora.path is None else f'from {lora.path}'}: "
            f"{trained:,.3f} million parameters are trained"
            + (f", the projections are {lora.base_bits} bits" if lora.base_bits else "")
        ]
    train, held_out, notes = environments
    source = recipe.data.option("path", recipe.data.task)
    held = 0 if held_out is None else held_out.size
    rate = recipe.optimizer.learning_rate
    rate = f"{rate:g}" if isinstance(rate, float) else str(rate)
    return "\n".join(
        [
            *lines,
            f"data   {source}: {train.size:,} training problems, {held:,} held out",
            *(f"       {note}" for note in notes),
            about
            or f"step   {recipe.algorithm.name}, {settings.prompts} prompts x "
            f"{settings.group} samples, at most {settings.max_new_tokens} tokens each, "
            f"learning rate {rate}",
        ]
    )
