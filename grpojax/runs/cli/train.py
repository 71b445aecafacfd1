"""Training from a recipe: `grpojax train`, and the same as a function."""

import dataclasses
import datetime
import os
from pathlib import Path

from rich.console import Console

from ...types import TrainState
from ..checkpoint.files import saved_contents
from ..distributed import processes
from ..io.run_directory import CHECKPOINTS
from ..recipe import build
from ..recipe.schema import Recipe
from ..sweeps.grid import is_sweep
from ..sweeps.programs import Programs, with_programs, with_rate_as_input
from ..sweeps.sweep import Sweep
from ..tracking import build as trackers
from ..training import fit


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
    weights: bool = True,
    programs: Programs | None = None,
    rate_is_input: bool = False,
) -> fit.Prepared:
    """Loads a recipe's parts, and checks that they fit together.

    What takes no time is checked first: the directory, the trackers, all names.

    **Arguments:**

    - `recipe`: what to run.
    - `out`: the run's directory; nothing is written to it yet.
    - `resume`: continue the run that is there, from its last good checkpoint.
    - `console`: where progress is shown; nowhere by default.
    - `weights`: otherwise nothing is read but configurations and data, and the run can
        be compiled but not started. Its state is that of a new run, of shapes; with
        `actors` its weights are read all the same.
    - `programs`: of another run of a sweep, which this one shares.
    - `rate_is_input`: whether runs with other learning rates will share this one's.

    **Raises:** `ValueError`, `TypeError`, `OSError` or `ImportError` for what is
    missing or does not fit, for a directory in use, and for a recipe that computes
    something else than the run to resume.
    """
    if is_sweep(recipe):
        raise ValueError(
            "`run.seeds` and `sweep` describe several runs, of `train_sweep`. Received "
            f"run.seeds={recipe.run.seeds} and sweep={recipe.sweep} for one run: leave "
            "them null."
        )
    fit.claim(out, resume=resume, config=build.config_of(recipe))
    path = None if out is None else Path(out)
    factories = trackers.factories(**vars(recipe.tracking))
    processes.on_process_0(lambda: trackers.check(path, factories))
    today = processes.broadcast_from_0(lambda: _day(path))
    weights = weights or recipe.actors.data > 0
    arguments = build.build(recipe, today=today, weights=weights)
    if console is not None:
        logging = dataclasses.replace(arguments["logging"], console=console)
        arguments["logging"] = logging
    if not weights:
        return fit.prepare(**{**arguments, "trackers": None})
    if programs is not None:
        arguments = with_programs(programs, arguments)
    elif rate_is_input:
        arguments = with_rate_as_input(arguments)
    return fit.prepare(**arguments, out=out, resume=resume)


def _day(out: Path | None) -> datetime.date | None:
    """The date that chat templates were told when a run that is resumed started."""
    contents = {} if out is None else saved_contents(out / CHECKPOINTS)
    metadata = contents.get("metadata")
    today = metadata.get("today") if isinstance(metadata, dict) else None
    return None if today is None else datetime.date.fromisoformat(today)


def train(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> TrainState:
    """Trains what a recipe describes: `grpojax.fit(**build(recipe))`.

    The arguments and errors are those of `prepare` and of `grpojax.fit`.

    **Returns:** the state after the last step.

    !!! example

        ```python
        state = train(load(Recipe(), "recipe.yaml"), "out/run")
        ```
    """
    return fit.run(prepare(recipe, out, resume=resume, console=console))


def prepare_sweep(
    recipe: Recipe,
    out: str | os.PathLike[str] | None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Sweep:
    """The runs of a recipe with `run.seeds` or `sweep`; see `train_sweep`."""
    if out is None:
        raise ValueError(
            "The runs of `run.seeds` and `sweep` are directories of their own. "
            "Received no directory for them: name one with --out."
        )
    return Sweep(recipe, Path(out), prepare, resume=resume, console=console)


def train_sweep(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Trains the runs of a recipe with `run.seeds` or `sweep`, and compares them.

    Each is a run of its own in `out/NAME`, such as `out/seed-0`: what it computes is
    what it would compute alone. They run one after another through one compiled
    program, as long as they differ in nothing but the seed and a learning rate.

    **Arguments:**

    - `recipe`: what to run.
    - `out`: the directory of the sweep.
    - `resume`: goes on with the sweep that is there: finished runs stay as they are,
        and others go on from their last checkpoints.
    - `console`: where progress is shown; nowhere by default.

    **Returns:** the path of the report over all runs, `out/report.md`.

    **Raises:** as `train`. A run that diverges leaves the others to go on: its
    `DivergedError` is raised at the end.

    !!! example

        ```python
        recipe = load(Recipe(), "recipe.yaml", ["run.seeds=8"])
        report = train_sweep(recipe, "out/seeds")
        ```
    """
    return prepare_sweep(recipe, out, resume=resume, console=console).run()
