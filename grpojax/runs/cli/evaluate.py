"""Evaluation from a recipe: `grpojax evaluate`, and the same as a function."""

import contextlib
import logging
import os
import time
from collections.abc import Callable

from rich.console import Console

from ..checkpoint.resume_check import check_resumable
from ..distributed import mesh as meshes, processes
from ..distributed.provenance import provenance
from ..evaluation.printing import print_result
from ..evaluation.result import EvaluationResult
from ..io.run_directory import EVALUATIONS, RunDirectory
from ..recipe import build
from ..recipe.schema import Recipe
from ..recipe.tasks import build_environments, find_task


logger = logging.getLogger(__name__)


def evaluate(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> EvaluationResult:
    """Loads a recipe's model and evaluates it.

    **Arguments:**

    - `recipe`: which model and problems, and how they are sampled.
    - `out`: a directory for the recipe, the evaluation and a summary.
    - `resume`: continue the evaluation that is there: its samples are read.
    - `console`: where the result is printed; nowhere by default.

    **Raises:** `ValueError` or `OSError` for parts that are missing or do not fit, a
    recipe that holds nothing out, and a directory in use.
    """
    start = time.perf_counter()
    run = prepare(recipe, out, resume=resume, start=start)
    return run(Console(quiet=True) if console is None else console)


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool,
    start: float,
) -> Callable[[Console], EvaluationResult]:
    """An evaluation that is loaded and checked; nothing is compiled or written.

    **Arguments:**

    - `start`: when it began, by `time.perf_counter`; the others are `evaluate`'s.

    **Returns:** a function that runs it and prints the result on a console.
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
    for remark in build.remarks_of(recipe, policy, tokenizer, evaluation.env):
        logger.warning(remark)

    def run(console: Console) -> EvaluationResult:
        predictions = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(meshes.use(mesh))
            if directory is not None:
                stack.enter_context(directory)
                status = {"status": "running"}
                if resume:
                    directory.resume(0, status)
                else:
                    directory.start(build.config_of(recipe).to_yaml(), status)
                predictions = directory.predictions(0, evaluation.mode)
            result = evaluation.run(
                policy, predictions=predictions, tokenizer=tokenizer
            )
            print_result(result, tokenizer, console, f"of {recipe.model.path}")
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
                    "model": recipe.model.path,
                    **provenance(),
                }
                directory.update(summary, complete=True)
        return result

    return run


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
