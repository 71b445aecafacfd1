"""The stages of a pipeline's runs: which are over, and the commands of the others."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..io.atomic import lock_directory
from ..io.run_directory import CONFIG, SUMMARY
from ..recipe.load import dump, load
from ..recipe.schema import Recipe
from .plan import Cell, Plan


class Stage(NamedTuple):
    """One command of a run.

    **Fields:**

    - `name`: `train`, or `evaluate`, with the name of the evaluation if it has one.
    - `path`: the directory that it writes.
    - `log`: the file for what it says.
    - `arguments`: of `grpojax`.
    """

    name: str
    path: Path
    log: Path
    arguments: tuple[str, ...]

    def is_complete(self, recipe: Recipe, trained: Path) -> bool:
        """Whether it has finished, with the same recipe, and of the last step.

        **Arguments:**

        - `recipe`: of the training run.
        - `trained`: its directory.
        """
        summary = _mapping(self.path / SUMMARY)
        if summary.get("complete") is not True:
            return False
        if self.path != trained:
            return summary.get("step") == _mapping(trained / SUMMARY).get("steps")
        return dump(load(Recipe(), self.path / CONFIG)) == dump(recipe)


def stages_of(plan: Plan, cell: Cell) -> Iterator[Stage]:
    """The commands of a run, in order; its report is none."""
    train = ["train", os.fspath(cell.recipe), "--resume", "--out", os.fspath(cell.path)]
    for assignment in cell.assignments:
        train += ["--set", assignment]
    if "train" in plan.stages:
        yield Stage("train", cell.path, cell.beside("train.log"), tuple(train))
    if "evaluate" in plan.stages:
        for name in plan.evaluations or [None]:
            suffix = ".".join(filter(None, ["evaluation", name]))
            path = cell.beside(suffix)
            words = ["evaluate", os.fspath(cell.path), "--resume"]
            words += ["--out", os.fspath(path)]
            words += [] if name is None else ["--evaluation", name]
            yield Stage(
                "evaluate", path, path.with_name(f"{path.name}.log"), tuple(words)
            )


def recipe_of(cell: Cell, environment: Mapping[str, str]) -> Recipe:
    """The recipe of a run, checked as `grpojax train` checks it.

    **Raises:** `ValueError` or `OSError` that names the run.
    """
    try:
        return load(Recipe(), cell.recipe, cell.assignments, environment)
    except (ValueError, OSError) as error:
        raise type(error)(f"{cell.path}: {error}") from None


def run_stage(
    stage: Stage,
    environment: Mapping[str, str],
    *,
    log: Callable[[str], None],
    command: Sequence[str] = (sys.executable, "-m", "grpojax"),
) -> int:
    """Runs a command to its end, and ends it if this process has to end.

    A directory that another process still writes, as that of a pipeline that was killed
    may, is waited for.

    **Arguments:**

    - `stage`: what to run; what it says is added to its log.
    - `environment`: the variables of the command.
    - `log`: called with a line when it waits.
    - `command`: before the arguments.

    **Returns:** its exit code; 128 plus its number for a signal that ended it.
    """
    stage.log.parent.mkdir(parents=True, exist_ok=True)
    _wait_for(stage.path, log)
    with stage.log.open("ab") as file:
        child = subprocess.Popen(
            [*command, *stage.arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            code = child.wait()
        except BaseException:
            # A run that is told to leave writes a checkpoint first.
            child.terminate()
            child.wait()
            raise
    return 128 - code if code < 0 else code


def last_line(path: Path) -> str:
    """The last line of a log that has any words; empty without one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return next((x.strip() for x in reversed(text.splitlines()) if x.strip()), "")


def _wait_for(path: Path, log: Callable[[str], None]) -> None:
    said = False
    while path.is_dir():
        try:
            os.close(lock_directory(path))
            return
        except BlockingIOError as error:
            if not said:
                log(f"waits: {error.strerror}")
            said = True
            time.sleep(1)


def _mapping(path: Path) -> Mapping[str, object]:
    """A file of JSON; empty if it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
