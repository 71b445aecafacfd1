"""Experiment trackers by name: which packages they need, and how they are started."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from .trackers import FailSafe, TensorBoard, Tracker, Trackio, WandB


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}

WandBMode = Literal["off", "offline", "online"]


class TrackerRun(NamedTuple):
    """The run that a tracker is started for.

    **Fields:**

    - `directory`: where trackers keep their files, `RunDirectory.tracking`.
    - `name`: the run's, its directory's by default.
    - `config`: hyperparameters to show with the run, as nested mappings.
    - `resume_step`: the step of the checkpoint that is resumed; 0 for a new run.
    """

    directory: Path
    name: str
    config: Mapping[str, object]
    resume_step: int


TrackerFactory = Callable[[TrackerRun], Tracker]
"""Starts a tracker for a run."""


def start(
    factories: Mapping[str, TrackerFactory],
    run: TrackerRun,
    warn: Callable[[str], None],
) -> list[Tracker]:
    """Starts trackers, none of which can stop the run.

    **Arguments:**

    - `factories`: by name.
    - `run`: the run that they are started for.
    - `warn`: called with a sentence when a tracker has failed.
    """

    def guard(name: str) -> Tracker:
        return FailSafe(name, lambda: factories[name](run), warn)

    return [guard(name) for name in factories]


def check(
    directory: Path | None,
    *,
    tensorboard: bool = False,
    wandb: WandBMode = "off",
    trackio: bool = False,
) -> None:
    """Checks that the requested trackers can be built; builds nothing.

    **Arguments:**

    - `directory`: the run's directory, or `None` without one.
    - `tensorboard`, `wandb`, `trackio`: as in `factories`.

    **Raises:** `ImportError` for a package that is not installed, `ValueError` for a
    tracker of a run without a directory, which keeps the tracker's position.
    """
    names = _requested(tensorboard, wandb, trackio)
    if names and directory is None:
        raise ValueError(
            "A tracker keeps its position in the run's directory. Received "
            f"{names[0]} without one: name it with --out, or leave the tracker off."
        )
    for name in names:
        package = _PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"`tracking.{name}` needs the package {package}, which is not "
                "installed: `pip install 'grpojax[tracking]'`, or switch it off."
            )


def factories(
    *,
    tensorboard: bool = False,
    wandb: WandBMode = "off",
    trackio: bool = False,
    project: str = "grpojax",
    name: str | None = None,
) -> dict[str, TrackerFactory]:
    """Factories of the library's trackers.

    **Arguments:**

    - `tensorboard`: whether to write TensorBoard event files.
    - `wandb`: whether to log to Weights & Biases: `"online"`, `"offline"` (files for
        `wandb sync`) or `"off"`.
    - `trackio`: whether to log to trackio.
    - `project`, `name`: the project and run under which W&B and trackio show it; by
        default the name of the run's directory.

    !!! example

        ```python
        grpojax.fit(state, step, steps=10, out=out, trackers=factories(trackio=True))
        ```
    """
    every: dict[str, TrackerFactory] = {
        "tensorboard": lambda run: TensorBoard(
            run.directory / "tensorboard",
            after=run.resume_step if run.resume_step > 0 else None,
        ),
        "wandb": lambda run: WandB(
            run.directory / "wandb",
            project=project,
            name=name or run.name,
            config=run.config,
            offline=wandb == "offline",
        ),
        "trackio": lambda run: Trackio(
            run.directory / "trackio",
            project=project,
            name=name or run.name,
            config=run.config,
        ),
    }
    return {x: every[x] for x in _requested(tensorboard, wandb, trackio)}


def _requested(tensorboard: bool, wandb: WandBMode, trackio: bool) -> list[str]:
    requested = {
        "tensorboard": tensorboard,
        "wandb": wandb != "off",
        "trackio": trackio,
    }
    return [name for name, is_requested in requested.items() if is_requested]
