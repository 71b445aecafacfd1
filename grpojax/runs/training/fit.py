"""Trains what a recipe describes: everything is loaded and checked, compiled, run."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console

from ... import models
from ..._train import init
from ...text import AbstractTokenizer
from ...types import Rewards, TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..cli import evaluate as evaluating
from ..cli.evaluate import say
from ..distributed import mesh as placement, processes
from ..distributed.preemption import Preemption
from ..io.run_directory import ADAPTER, CHECKPOINTS, MODEL, RunDirectory
from ..recipe import build as parts, load as recipes
from ..recipe.resume_check import check_recipe
from ..recipe.schema import Recipe
from ..tracking import build as trackers
from . import curve as plots, step as loop
from .callback import Keeper
from .progress import Progress
from .run_log import Journal


logger = logging.getLogger(__name__)


class GoingOn(NamedTuple):
    """Where a run that was interrupted goes on.

    **Fields:**

    - `step`: after which; 0 for the beginning.
    - `journals`: as they were when the checkpoint was made.
    - `problems`: what is wrong with later checkpoints, a sentence each.
    """

    step: int
    journals: Mapping[str, bytes]
    problems: tuple[str, ...]


class Setup(NamedTuple):
    """All that a run needs, loaded, checked and traced, with nothing compiled yet.

    Of the processes of a run the first one alone has a directory to write to; all of
    them save and restore the state, in `checkpoints`.
    """

    recipe: Recipe
    directory: RunDirectory | None
    tokenizer: AbstractTokenizer
    environments: parts.Environments
    state: TrainState
    step: loop.LoweredStep
    going_on: GoingOn | None
    mesh: Mesh | None = None
    checkpoints: Path | None = None


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
) -> Setup:
    """Loads a recipe's parts, and refuses those that do not fit together.

    **Arguments:**

    - `recipe`: what to run.
    - `out`: the run's directory; nothing is written to it yet.
    - `resume`: go on with the run that is there, from its last good checkpoint.

    **Raises:** `ValueError`, `TypeError`, `OSError` or `ImportError` for what is not
    there or does not fit, for a directory that holds a run that is not to be resumed,
    and for a recipe that computes something else than the one it was begun with.
    """
    resume = processes.broadcast_from_0(lambda: resume)
    directory = processes.on_process_0(lambda: _claim(recipe, out, resume))
    mesh = placement.build_mesh(**vars(recipe.mesh))
    with placement.use(mesh):
        setup = _load(recipe, mesh)._replace(directory=directory)
    if out is None:
        return setup
    place = Path(out) / CHECKPOINTS
    setup = setup._replace(checkpoints=place)
    return _restore(setup, place) if resume else setup


def _claim(
    recipe: Recipe, out: str | os.PathLike[str] | None, resume: bool
) -> RunDirectory | None:
    """The directory, if the run may have it."""
    directory = None if out is None else RunDirectory(out, resume=resume)
    tracking = recipe.tracking
    trackers.check(
        None if directory is None else directory.tracking,
        tensorboard=tracking.tensorboard,
        wandb=tracking.wandb,
        trackio=tracking.trackio,
    )
    if directory is not None and resume:
        check_recipe(recipes.load(Recipe(), directory.config), recipe)
    return directory


def _load(recipe: Recipe, mesh: Mesh | None) -> Setup:
    """What does not depend on what there has been."""
    algorithm = parts.build_algorithm(recipe)
    shape = recipe.rollout.prompts, recipe.rollout.group
    # A group that the baseline cannot do with is refused before anything is read.
    jax.eval_shape(algorithm.advantage, Rewards.of(jnp.zeros(shape)))
    parts.find_task(recipe.data.task)
    logger.info("loading the model %s", recipe.model.path)
    policy, tokenizer = parts.load_model(recipe, mesh)
    logger.info("making the environments of the task %s", recipe.data.task)
    environments = parts.build_environments(recipe, tokenizer, mesh)
    policy = parts.build_adapters(recipe, policy)
    optimizer = parts.build_optimizer(recipe)
    reference = None
    if recipe.algorithm.beta is not None:
        # A copy: the step takes over the memory of the policy that it is given. What
        # adapters adapt does not change, and is the reference where it lies.
        copy = lambda x: jnp.copy(x) if eqx.is_array(x) else x
        adapted = recipe.lora.rank is not None
        reference = models.without_adapters if adapted else jax.tree.map(copy, policy)
    updating, key = recipe.update, parts.build_keys(recipe).train
    state = init(policy, optimizer=optimizer, reference=reference, key=key)
    state = placement.place(state, mesh)
    logger.info("tracing the step")
    step = loop.lower(
        state,
        completions=recipe.log.completions,
        env=environments.train,
        optimizer=optimizer,
        algorithm=algorithm,
        reward=parts.build_reward(recipe),
        prompts=recipe.rollout.prompts,
        group=recipe.rollout.group,
        train_prompts=updating.train_prompts,
        slots=recipe.rollout.slots,
        temperature=recipe.rollout.temperature,
        epochs=updating.epochs,
        minibatches=updating.minibatches,
        microbatches=updating.microbatches,
        recompute=updating.recompute,
        chunk=updating.chunk,
    )
    return Setup(recipe, None, tokenizer, environments, state, step, None, mesh)


def _restore(setup: Setup, place: Path) -> Setup:
    """The same with the state of the last good checkpoint, if there is any."""
    directory, found = setup.directory, None
    processes.on_process_0(lambda: directory and directory.lock())
    try:
        with Checkpoints(place) as checkpoints:
            if processes.broadcast_from_0(checkpoints.steps):
                found = checkpoints.restore(setup.state)
    except BaseException:
        if directory is not None:
            directory.close()
        raise
    if found is None:
        return setup._replace(going_on=GoingOn(0, {}, ()))
    going_on = GoingOn(found.step, found.files, found.problems)
    return setup._replace(state=found.state, going_on=going_on)


def train(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> TrainState:
    """Judges a model, trains it, and judges it again.

    **Arguments:**

    - `recipe`: what to run.
    - `out`: a directory of its own for what the run leaves behind; see `files`.
    - `resume`: go on with the run that is there. The state and every record but times
        are then those of a run that was never interrupted, to the last bit.
    - `console`: where to say what happens; nowhere by default.

    **Returns:** the state after the last step.

    **Raises:** what `prepare` raises; `PreemptedError` when SIGTERM or Ctrl-C asked for
    it and a state was saved, `DivergedError` when steps do nothing any more.

    !!! example

        ```python
        state = train(recipes.load(Recipe(), "recipe.yaml"), "out/run")
        ```
    """
    start = time.perf_counter()
    setup = prepare(recipe, out, resume=resume)
    return run(setup, console=console, start=start)


def run(
    setup: Setup, *, console: Console | None = None, start: float | None = None
) -> TrainState:
    """Runs what was prepared; `start` is when it began, by `time.perf_counter`."""
    start = time.perf_counter() if start is None else start
    console = Console(quiet=True) if console is None else console
    with placement.use(setup.mesh):
        return _run(setup, console, start)


def _run(setup: Setup, console: Console, start: float) -> TrainState:
    recipe, directory, going_on = setup.recipe, setup.directory, setup.going_on
    say(console, describe(setup))
    journal = Journal(recipe, directory, setup.tokenizer, start)
    begins = going_on is None or going_on.step == 0
    resumed = going_on and (going_on.step, going_on.journals)
    problems = going_on.problems if going_on is not None else ()
    with journal.open(resumed, problems), Preemption() as preemption:
        state = setup.state
        if begins:
            _judge(setup, state, journal, preemption, console, "before")
        if recipe.run.steps > 0:
            state = _take_steps(setup, journal, preemption, console)
            _judge(setup, state, journal, preemption, console, "after")
        if setup.checkpoints is not None:
            _save(setup, state.policy, setup.checkpoints)
        if directory is not None:
            plots.plot_curve(
                directory.curve,
                journal.records,
                before=journal.accuracy("before"),
                after=journal.accuracy("after"),
            )
    where = "" if directory is None else f"; see {directory.path}"
    say(
        console,
        f"{journal.steps} steps in {journal.seconds:.0f} s, of which compiling took "
        f"{journal.seconds_compile:.0f} s{where}",
    )
    return state


def _save(setup: Setup, policy: models.Transformer, checkpoints: Path) -> None:
    """Writes the model beside the checkpoints, and adapters by themselves as well."""
    if setup.recipe.lora.rank is not None:
        place, base = checkpoints.with_name(ADAPTER), setup.recipe.model.path
        models.save_adapters(policy, place, base=base)
    whole, place = models.merge(policy), checkpoints.with_name(MODEL)
    models.save(whole, place, tokenizer=setup.tokenizer)


def _take_steps(
    setup: Setup, journal: Journal, preemption: Preemption, console: Console
) -> TrainState:
    """Compiles the step and takes all that are left."""
    recipe, state = setup.recipe, setup.state
    if int(state.version) >= recipe.run.steps:
        return state
    step = setup.step.compile()
    journal.seconds_compile += step.seconds
    say(console, f"compiled the step in {step.seconds:.1f} s")

    def report(reading: loop.Reading) -> None:
        journal.reading(reading)
        bar.update(reading.step, reading.metrics)

    with contextlib.ExitStack() as stack:
        keeper = Keeper(setup.directory, setup.checkpoints, recipe, journal, preemption)
        stack.enter_context(keeper)
        bar = stack.enter_context(Progress(recipe.run.steps, console))
        return loop.fit(
            state,
            step=step.call,
            steps=recipe.run.steps,
            report=report,
            every=recipe.log.every,
            visit=keeper.visit,
        )


def _judge(
    setup: Setup,
    state: TrainState,
    journal: Journal,
    preemption: Preemption,
    console: Console,
    when: str,
) -> None:
    """Measures accuracy on what is held out, if anything, and shows some of it."""
    recipe, predictions = setup.recipe, None
    training, env, _ = setup.environments
    if env is None:
        return

    def leave(*_: int) -> None:
        if processes.any_process(preemption.requested):
            preemption.raise_preempted()

    if setup.directory is not None:
        mode = evaluating.mode(recipe)
        predictions = setup.directory.predictions(journal.steps, mode)
    measured = evaluating.judge(
        state.policy,
        env,
        recipe,
        setup.tokenizer,
        training=training,
        predictions=predictions,
        report=leave,
    )
    evaluating.show(measured, setup.tokenizer, console, when)
    journal.evaluated(measured)


def describe(setup: Setup) -> str:
    """What a run is, in a few lines."""
    recipe, rollout = setup.recipe, setup.recipe.rollout
    policy, lora = setup.state.policy, recipe.lora
    millions = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
    trained = eqx.filter(policy, policy.trainable())
    adapters = (
        f"lora   rank {lora.rank}, alpha {lora.alpha:g}, on {lora.projections}: "
        f"{millions(trained):,.3f} million parameters are trained"
        + (", the projections are 8 bits" if lora.int8_base else "")
    )
    train, held_out, notes = setup.environments
    source = recipe.data.path if recipe.data.task == "gsm8k" else recipe.data.task
    held = 0 if held_out is None else held_out.size
    return "\n".join(
        [
            f"model  {recipe.model.path}: {millions(policy):,.1f} million parameters, "
            f"{recipe.model.dtype}, on {placement.describe(setup.mesh)}",
            *([] if lora.rank is None else [adapters]),
            f"data   {source}: {train.size:,} training problems, {held:,} held out",
            *(f"       {note}" for note in notes),
            f"step   {recipe.algorithm.name}, {rollout.prompts} prompts x "
            f"{rollout.group} samples, at most {rollout.max_new_tokens} tokens each, "
            f"learning rate {recipe.optimizer.learning_rate:g}",
        ]
    )
