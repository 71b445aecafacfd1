"""Judges a recipe's model on the problems that the recipe holds out."""

import contextlib
import logging
import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh
from rich.console import Console

from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ..distributed import mesh as placement, processes
from ..evaluation.evaluate import evaluate as measure, Evaluation
from ..io.run_directory import RunDirectory
from ..recipe import build as parts, load as recipes
from ..recipe.resume_check import check_recipe
from ..recipe.schema import Recipe


logger = logging.getLogger(__name__)

SHOWN = 2  # Completions that are shown.
PROMPT_TAIL = 400  # Characters of their prompts.


def say(console: Console, text: str, style: str = "") -> None:
    """Prints text as it is: no markup in it, and no line broken for a narrow screen."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def judge(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    recipe: Recipe,
    tokenizer: AbstractTokenizer,
    *,
    training: AbstractDatasetEnvironment,
    predictions: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measures accuracy as a recipe's section `run` says.

    **Arguments:**

    - `policy`: what is judged.
    - `env`: the problems that are held out.
    - `recipe`: how many problems, and how completions are sampled.
    - `tokenizer`: the policy's.
    - `training`: the problems that are trained on.
    - `predictions`, `report`: a file for what is said, and what is told how far it is;
        see `evaluation.evaluate`.
    """
    settings, rollout = recipe.run, recipe.rollout
    wanted = settings.eval_problems, settings.max_eval_problems
    return measure(
        policy,
        env,
        samples=settings.eval_samples,
        sampler=parts.build_sampler(recipe),
        problems=min([env.size, *(count for count in wanted if count is not None)]),
        # As many rows at a time as in training, for which there is memory.
        batch=max(rollout.prompts * rollout.group // settings.eval_samples, 1),
        slots=rollout.slots,
        training=training if isinstance(training, AbstractAnswerEnvironment) else None,
        predictions=predictions,
        tokenizer=tokenizer,
        labels={"split": "held_out"},
        report=report,
        key=parts.build_keys(recipe).evaluate,
    )


def show(
    measured: Evaluation,
    tokenizer: AbstractTokenizer,
    console: Console,
    when: str,
) -> None:
    """Prints an accuracy, how sure it is, and what was said to the first problems."""
    low, high = measured.interval
    say(
        console,
        f"\nheld-out accuracy {when}: {measured.accuracy:.1%}  "
        f"(95% interval {low:.1%} to {high:.1%}, n = {measured.count:,}; "
        f"length {measured.mean_length:.1f}, truncated {measured.clipped_ratio:.1%})\n",
        style="bold",
    )
    for index in range(min(SHOWN, len(measured.prompts))):
        prompt = tokenizer.decode(measured.prompts[index]).strip()
        said = measured.tokens[index, 0, : measured.lengths[index, 0]]
        answer = tokenizer.decode(said).strip()
        verdict = "right" if measured.right[index, 0] else "wrong"
        gold = measured.gold[index]
        say(console, textwrap.indent(prompt[-PROMPT_TAIL:], "  "), style="dim")
        say(console, textwrap.indent(answer or "(nothing)", "  > "))
        known = "" if gold is None else f": the answer is {gold}"
        say(console, f"  {verdict}{known}\n")


def record(measured: Evaluation, recipe: Recipe, step: int) -> dict[str, object]:
    """An evaluation as a line of `evaluations.jsonl`."""
    asked = {
        "step": step,
        "split": "held_out",
        "mode": mode(recipe),
        "temperature": recipe.run.eval_temperature,
    }
    return asked | measured.numbers()


def mode(recipe: Recipe) -> str:
    """How completions are drawn that are judged: `"sampled"` or `"greedy"`."""
    return "sampled" if recipe.run.eval_temperature > 0 else "greedy"


def evaluate(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Evaluation:
    """Loads a recipe's model and judges it.

    **Arguments:**

    - `recipe`: which model and problems, and how.
    - `out`: a directory for the recipe, the evaluation and a summary.
    - `resume`: go on with the evaluation that is there: what was said already is read.
    - `console`: where to say what happens; nowhere by default.

    **Raises:** what `prepare` raises.
    """
    start = time.perf_counter()
    setup = prepare(recipe, out, resume=resume)
    return run(setup, console=console, start=start)


class Setup(NamedTuple):
    """All that an evaluation needs, loaded and checked."""

    recipe: Recipe
    directory: RunDirectory | None
    policy: AbstractPolicy
    tokenizer: AbstractTokenizer
    env: AbstractDatasetEnvironment
    training: AbstractDatasetEnvironment
    resume: bool
    mesh: Mesh | None = None


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
) -> Setup:
    """Loads what an evaluation needs; nothing is compiled or written.

    **Raises:** `ValueError` or `OSError` for a recipe whose parts are not there or do
    not fit, or that holds nothing out, and for a directory that is in use.
    """
    resume = processes.broadcast_from_0(lambda: resume)
    directory = processes.on_process_0(lambda: _claim(recipe, out, resume))
    parts.find_task(recipe.data.task)
    mesh = placement.build_mesh(**vars(recipe.mesh))
    policy, tokenizer = parts.load_model(recipe, mesh)
    training, env, _ = parts.build_environments(recipe, tokenizer, mesh)
    if env is None:
        raise ValueError(
            "An evaluation needs problems that are held out. Received "
            f"run.eval_problems={recipe.run.eval_problems}: raise it, or leave it null "
            "for all that there are."
        )
    return Setup(recipe, directory, policy, tokenizer, env, training, resume, mesh)


def _claim(
    recipe: Recipe, out: str | os.PathLike[str] | None, resume: bool
) -> RunDirectory | None:
    """The directory, if the evaluation may have it."""
    directory = (
        None if out is None else RunDirectory(out, resume=resume, kind="evaluation")
    )
    if directory is not None and resume:
        check_recipe(recipes.load(Recipe(), directory.config), recipe)
    return directory


def run(
    setup: Setup, *, console: Console | None = None, start: float | None = None
) -> Evaluation:
    """Judges what was loaded; `start` is when it began, by `time.perf_counter`."""
    start = time.perf_counter() if start is None else start
    console = Console(quiet=True) if console is None else console
    with contextlib.ExitStack() as stack:
        if setup.directory is not None:
            stack.enter_context(setup.directory)
        stack.enter_context(placement.use(setup.mesh))
        return _run(setup, console, start)


def _run(setup: Setup, console: Console, start: float) -> Evaluation:
    recipe, directory = setup.recipe, setup.directory
    predictions = None
    if directory is not None:
        if setup.resume:
            directory.resume(0, {"status": "running"})
        else:
            directory.start(recipes.dump(recipe), {"status": "running"})
        predictions = directory.predictions(0, mode(recipe))
    measured = judge(
        setup.policy,
        setup.env,
        recipe,
        setup.tokenizer,
        training=setup.training,
        predictions=predictions,
    )
    show(measured, setup.tokenizer, console, f"of {recipe.model.path}")
    if directory is not None:
        if not directory.evaluations():
            directory.log_evaluation(record(measured, recipe, step=0))
        summary = {
            "status": "finished",
            "accuracy": measured.accuracy,
            "ci95": measured.interval,
            "n_eval": measured.count,
            "seconds_total": time.perf_counter() - start,
            "seconds_compile": measured.seconds_compile,
        }
        directory.finish(summary)
    return measured
