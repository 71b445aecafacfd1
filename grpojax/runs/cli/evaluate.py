"""Evaluation from a recipe: `grpojax evaluate`, and the same as a function."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable

from rich.console import Console

from ..checkpoint.resume_check import check_resumable
from ..distributed import mesh as meshes, processes
from ..distributed.provenance import provenance
from ..evaluation.evaluator import Evaluator
from ..evaluation.printing import print_result
from ..evaluation.result import EvaluationResult
from ..evaluation.statistics import accuracies_by_task
from ..io.integrity.checksums import Checksum
from ..io.run_directory import EVALUATIONS, RunDirectory
from ..recipe import build
from ..recipe.parts.evaluation import build_evaluations, check_evaluations
from ..recipe.schema import Recipe
from ..recipe.tasks import build_environments, find_task


logger = logging.getLogger(__name__)


def evaluate(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> EvaluationResult:
    """Loads a recipe's model and evaluates it.

    **Arguments:**

    - `recipe`: which model and problems, and how they are sampled.
    - `out`: a directory for the recipe, the evaluation and a summary.
    - `name`: which of the recipe's evaluations; the first one by default.
    - `resume`: continue the evaluation that is there: its samples are read.
    - `console`: where the result is printed; nowhere by default.

    **Raises:** `ValueError` or `OSError` for parts that are missing or do not fit, a
    recipe that holds nothing out, and a directory in use.
    """
    start = time.perf_counter()
    run = prepare(recipe, out, name=name, resume=resume, start=start)
    return run(Console(quiet=True) if console is None else console)


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
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
    check_evaluations(recipe)
    name = _chosen(recipe, name)
    mesh = meshes.build_mesh(**vars(recipe.mesh))
    policy, tokenizer = build.load_model(recipe, mesh)
    step = build.step_of(recipe.model.path)
    environments = build_environments(recipe, tokenizer, mesh)
    arguments = recipe, environments, tokenizer, lambda: policy, mesh
    key = build.build_keys(recipe).evaluate
    evaluation = build_evaluations(*arguments, key=key, names=[name]).get(name)
    if evaluation is None:
        asked = recipe.evaluations.settings[name].problems
        raise ValueError(
            f"An evaluation needs problems. Received evaluations.{name}.problems="
            f"{asked}: raise it, or leave it null for all of them; or the task "
            f"{recipe.data.task} holds none out."
        )
    _warn(build.remarks_of(recipe, policy, tokenizer, evaluation.env))

    def run(console: Console) -> EvaluationResult:
        predictions = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(meshes.use(mesh))
            if directory is not None:
                stack.enter_context(directory)
                status = {"status": "running"}
                if resume:
                    _warn(directory.resume(step, status))
                else:
                    directory.start(build.config_of(recipe).to_yaml(), status)
                predictions = directory.predictions(step, evaluation.mode, name)
            result = Evaluator(evaluation, policy).run(
                policy,
                predictions=predictions,
                tokenizer=tokenizer,
                warn=logger.warning,
            )
            when = f"of {recipe.model.path}"
            print_result(result, tokenizer, console, when, name)
            if directory is not None and predictions is not None:
                if not directory.records(EVALUATIONS):
                    made = {"step": step, "name": name, **evaluation.to_json()}
                    made["predictions"] = Checksum.of_file(predictions)._asdict()
                    directory.append(EVALUATIONS, {**made, **result.to_json()})
                summary = _summary(result, start)
                summary |= {"model": recipe.model.path, "step": step}
                directory.update(summary, complete=True)
        return result

    return run


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        logger.warning(sentence)


def _summary(result: EvaluationResult, start: float) -> dict[str, object]:
    known, tasks = result.correct is not None, accuracies_by_task(result.to_json())
    return {
        "status": "finished",
        "accuracy": result.accuracy if known else None,
        "ci95": result.interval if known else None,
        **({"tasks": tasks} if tasks else {}),
        "n_eval": result.count,
        "seconds_total": time.perf_counter() - start,
        "seconds_compile": result.seconds_compile,
        **provenance(),
    }


def _chosen(recipe: Recipe, name: str | None) -> str:
    """The name of the evaluation to make."""
    known = list(recipe.evaluations.settings)
    if (name is None and not known) or (name is not None and name not in known):
        raise ValueError(
            "An evaluation is one of those in the section `evaluations`, which are "
            f"{', '.join(known) or 'none'}. Received {name}: choose one of them, or "
            "add it there."
        )
    return known[0] if name is None else name


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
