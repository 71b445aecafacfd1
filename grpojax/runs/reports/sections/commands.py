"""Shell commands that a report suggests."""

import os
import shlex
from pathlib import Path


RESUME = "grpojax train --out {directory} --resume"
EVALUATE = "grpojax evaluate {directory}"
REPEAT = "grpojax train {recipe} --out NEW_DIRECTORY"


def resume(directory: Path) -> str:
    """Resumes a run."""
    return RESUME.format(directory=_quote(directory))


def evaluate(directory: Path) -> str:
    """Evaluates the final model of a run."""
    return EVALUATE.format(directory=_quote(directory))


def repeat(directory: Path) -> str:
    """Runs the recipe of a run again."""
    return REPEAT.format(recipe=_quote(directory / "config.yaml"))


def _quote(path: Path) -> str:
    return shlex.quote(os.fspath(path))
