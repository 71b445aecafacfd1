"""The options of commands, and the recipes that they ask for."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ..recipe.load import load
from ..recipe.schema import check_paths, Recipe


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that change a recipe, or print it."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one key, such as optimizer.learning_rate=1e-4; may be repeated",
    )
    parser.add_argument(
        "--max-eval-samples",
        metavar="N",
        type=int,
        help="evaluate only the first N problems: run.max_eval_problems",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole recipe and stop"
    )


def add_resume_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that resumes an interrupted run."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the run in DIR, with its own recipe; if there is none and "
        "a recipe is named, start it",
    )


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that identify one process of several."""
    group = parser.add_argument_group(
        "multi-process runs",
        "Pass all three to each process, or set distributed.processes=auto in the "
        "recipe under SLURM and on TPU pods.",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, with a free port",
    )
    group.add_argument("--processes", metavar="N", type=int, help="number of processes")
    group.add_argument(
        "--process", metavar="I", type=int, help="index of this process, from 0"
    )


def joins(options: argparse.Namespace, recipe: Recipe) -> bool:
    """Whether this is one of several processes.

    **Raises:** `ValueError` for an incomplete set of options.
    """
    given = vars(options)
    coordinator: str | None = given.get("coordinator")
    count: int | None = given.get("processes")
    index: int | None = given.get("process")
    if coordinator is None and count is None and index is None:
        return recipe.distributed.processes == "auto"
    if coordinator is not None and count is not None and index is not None:
        if coordinator.rpartition(":")[2].isdecimal() and 0 <= index < count:
            return True
    raise ValueError(
        "One of several processes needs HOST:PORT of process 0, their number, "
        f"and its own index. Received --coordinator {coordinator} --processes {count} "
        f"--process {index}: pass all three, with the index counted from 0."
    )


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `grpojax train`, except the recipe."""
    add_recipe_options(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="directory for the recipe, metrics, completions, summary and model",
    )
    add_resume_option(parser)
    add_process_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="load and compile, print memory and shapes, and take no step",
    )


def load_recipe(
    options: argparse.Namespace, environment: Mapping[str, str], model: str | None
) -> Recipe:
    """The recipe of a command line.

    **Arguments:**

    - `options`: parsed options.
    - `environment`: variables that a recipe may use.
    - `model`: overrides `model.path`; the directory of a run brings its recipe.
    """
    path = options.recipe
    if wants_resume(options) and path is None:
        path = options.out / "config.yaml"
    if model is not None and (Path(model) / "config.yaml").is_file():
        path = Path(model) / "config.yaml" if path is None else path
        model = str(Path(model) / "model")
        if not Path(model).is_dir():
            raise FileNotFoundError(
                f"A finished run has a model. There is none at {model!r}: let it "
                "finish, or name another one."
            )
    recipe = load(Recipe(), path, options.set, environment)
    if model is not None:
        section = dataclasses.replace(recipe.model, path=model)
        recipe = dataclasses.replace(recipe, model=section)
    if options.max_eval_samples is not None:
        most = options.max_eval_samples
        section = dataclasses.replace(recipe.run, max_eval_problems=most)
        recipe = dataclasses.replace(recipe, run=section)
    check_paths(recipe)
    return recipe


def wants_resume(options: argparse.Namespace) -> bool:
    """Whether there is a run to resume.

    **Raises:** `ValueError` without a directory, `FileNotFoundError` if there is no run
    in it and no recipe to start one.
    """
    wanted = vars(options)
    if not wanted.get("resume"):
        return False
    if options.out is None:
        raise ValueError(
            "--resume continues the run in a directory. Received none: name it with "
            "--out."
        )
    if (options.out / "config.yaml").is_file():
        return True
    if options.recipe is None and not options.set and "model" not in wanted:
        raise FileNotFoundError(
            f"--resume continues a run. There is none in {str(options.out)!r}: check "
            "the path, or name a recipe to start there."
        )
    return False
