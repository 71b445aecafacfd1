"""Training from a recipe: `grpojax train`, and the same as a function."""

import dataclasses
import os

from rich.console import Console

from ...types import TrainState
from ..distributed import processes
from ..io.run_directory import RunDirectory
from ..recipe import build
from ..recipe.schema import Recipe
from ..tracking import build as trackers
from ..training import fit


def prepare(
    recipe: Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> fit.Prepared:
    """Loads a recipe's parts, and checks that they fit together.

    What takes no time is checked first: the directory, the trackers, all names.

    **Arguments:**

    - `recipe`: what to run.
    - `out`: the run's directory; nothing is written to it yet.
    - `resume`: continue the run that is there, from its last good checkpoint.
    - `console`: where progress is shown; nowhere by default.

    **Raises:** `ValueError`, `TypeError`, `OSError` or `ImportError` for what is
    missing or does not fit, for a directory in use, and for a recipe that computes
    something else than the run to resume.
    """
    resume = processes.broadcast_from_0(lambda: resume)

    def claim() -> RunDirectory | None:
        directory = fit.claim(out, resume=resume)
        names = ("tensorboard", "wandb", "trackio")
        requested = {name: vars(recipe.tracking)[name] for name in names}
        trackers.check(None if directory is None else directory.path, **requested)
        return directory

    directory = processes.on_process_0(claim)
    if resume and out is not None:
        fit.check_config(directory, out, build.config_of(recipe))
    arguments = build.build(recipe)
    if console is not None:
        logging = dataclasses.replace(arguments["logging"], console=console)
        arguments["logging"] = logging
    claimed = out if directory is None else directory
    return fit.prepare(**arguments, out=claimed, resume=resume)


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
