"""Evaluation from a recipe: `grpojax evaluate`, and the same as a function."""

import contextlib
import os
import time
from typing import NamedTuple

from jax.sharding import Mesh
from rich.console import Console

from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ..checkpoint.resume_check import check_resumable
from ..distributed import mesh as meshes, processes
from ..evaluation.evaluate import Evaluation
from ..evaluation.printing import print_result
from ..evaluation.result import EvaluationResult
from ..io.run_directory import EVALUATIONS, RunDirectory
from ..recipe import build
from ..recipe.schema import Recipe
from ..recipe.tasks import build_environments, find_task


class Prepared(NamedTuple):
    """An evaluation that is loaded and checked; nothing is compiled or written."""

    recipe: Recipe
    directory: RunDirectory | None
    policy: AbstractPolicy
    tokenizer: AbstractTokenizer
    evaluation: Evaluation
    resume: bool
    mesh: Mesh | None


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
) -> Prepared:
    """Loads what an evaluation needs.

    **Arguments:**

    - `recipe`: which model and problems, and how they are sampled.
    - `out`: a directory for the recipe, the evaluation and a summary.
    - `resume`: continue the evaluation that is there: its samples are read.

    **Raises:** `ValueError` or `OSError` for parts that are missing or do not fit, a
    recipe that holds nothing out, and a directory in use.
    """
    resume = processes.broadcast_from_0(lambda: resume)
    directory = processes.on_process_0(lambda: _claim(recipe, out, resume))
    find_task(recipe.data.task)
    mesh = meshes.build_mesh(**vars(recipe.mesh))
    policy, tokenizer = build.load_model(recipe, mesh)
    environments = build_environments(recipe, tokenizer, mesh)
    evaluation = build.build_evaluation(recipe, environments)
    if evaluation is None:
        raise ValueError(
            "An evaluation needs held-out problems. Received run.eval_problems="
            f"{recipe.run.eval_problems}: raise it, or leave it null for all of them."
        )
    return Prepared(recipe, directory, policy, tokenizer, evaluation, resume, mesh)


def _claim(
    recipe: Recipe, out: str | os.PathLike[str] | None, resume: bool
) -> RunDirectory | None:
    if out is None:
        return None
    directory = RunDirectory(out, resume=resume, kind="evaluation")
    if resume:
        config = build.config_of(recipe)
        old = config.parse(directory.config.read_text(encoding="utf-8"))
        check_resumable(old, config.values, where="its config.yaml")
    return directory


def evaluate(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> EvaluationResult:
    """Loads a recipe's model and evaluates it; see `prepare`.

    **Arguments:**

    - `console`: where the result is printed; nowhere by default.
    """
    start = time.perf_counter()
    prepared = prepare(recipe, out, resume=resume)
    return run(prepared, console=console, start=start)


def run(
    prepared: Prepared, *, console: Console | None = None, start: float | None = None
) -> EvaluationResult:
    """Runs what was prepared; `start` is when it began, by `time.perf_counter`."""
    start = time.perf_counter() if start is None else start
    console = Console(quiet=True) if console is None else console
    directory, evaluation = prepared.directory, prepared.evaluation
    predictions = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(meshes.use(prepared.mesh))
        if directory is not None:
            stack.enter_context(directory)
            if prepared.resume:
                directory.resume(0, {"status": "running"})
            else:
                config = build.config_of(prepared.recipe).to_yaml()
                directory.start(config, {"status": "running"})
            predictions = directory.predictions(0, evaluation.mode)
        result = evaluation.run(
            prepared.policy, predictions=predictions, tokenizer=prepared.tokenizer
        )
        when = f"of {prepared.recipe.model.path}"
        print_result(result, prepared.tokenizer, console, when)
        if directory is not None:
            if not directory.records(EVALUATIONS):
                record = {"step": 0, **evaluation.to_json(), **result.to_json()}
                directory.append(EVALUATIONS, record)
            summary = {
                "status": "finished",
                "accuracy": result.accuracy,
                "ci95": result.interval,
                "n_eval": result.count,
                "seconds_total": time.perf_counter() - start,
                "seconds_compile": result.seconds_compile,
            }
            directory.update(summary, complete=True)
    return result
