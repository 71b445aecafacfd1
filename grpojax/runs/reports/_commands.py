"""The commands that a report names."""

import os
import shlex
from pathlib import Path


RESUME = "grpojax train --out {directory} --resume"
EVALUATE = "grpojax evaluate {directory}"
REPEAT = "grpojax train {recipe} --out NEW_DIRECTORY"


def resume(directory: Path) -> str:
    """Goes on with a run."""
    return RESUME.format(directory=_quote(directory))


def evaluate(directory: Path) -> str:
    """Judges a run's final model."""
    return EVALUATE.format(directory=_quote(directory))


def repeat(directory: Path) -> str:
    """Does the same once more."""
    return REPEAT.format(recipe=_quote(directory / "config.yaml"))


def _quote(path: Path) -> str:
    return shlex.quote(os.fspath(path))
