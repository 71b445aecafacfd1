"""Experiment trackers by name: which packages they need, and how they are made."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from .trackers import FailSafe, TensorBoard, Tracker, Trackio, WandB


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}

WandBMode = Literal["off", "offline", "online"]


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
    - `tensorboard`, `wandb`, `trackio`: as in `build`.

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


def build(
    directory: Path,
    warn: Callable[[str], None],
    *,
    tensorboard: bool = False,
    wandb: WandBMode = "off",
    trackio: bool = False,
    project: str = "grpojax",
    name: str | None = None,
    config: Mapping[str, object] | None = None,
    resume_step: int = 0,
) -> list[Tracker]:
    """The requested trackers, none of which can stop the run.

    **Arguments:**

    - `directory`: where the trackers keep their files, `RunDirectory.tracking`.
    - `warn`: called with a sentence when a tracker has failed.
    - `tensorboard`: write TensorBoard event files.
    - `wandb`: log to Weights & Biases: `"online"`, `"offline"` (files for `wandb sync`)
        or `"off"`.
    - `trackio`: log to trackio.
    - `project`, `name`: the project and run under which W&B and trackio show it.
    - `config`: hyperparameters to show with the run, as nested mappings.
    - `resume_step`: the step of the checkpoint that is resumed; 0 for a new run.

    !!! example

        ```python
        trackers = build(directory.tracking, logger.warning, tensorboard=True)
        ```
    """
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(
            directory / "tensorboard", after=resume_step if resume_step > 0 else None
        ),
        "wandb": lambda: WandB(
            directory / "wandb",
            project=project,
            name=name,
            config=config,
            offline=wandb == "offline",
        ),
        "trackio": lambda: Trackio(
            directory / "trackio", project=project, name=name, config=config
        ),
    }
    names = _requested(tensorboard, wandb, trackio)
    return [FailSafe(name, makers[name], warn) for name in names]


def _requested(tensorboard: bool, wandb: WandBMode, trackio: bool) -> list[str]:
    requested = {
        "tensorboard": tensorboard,
        "wandb": wandb != "off",
        "trackio": trackio,
    }
    return [name for name, is_requested in requested.items() if is_requested]
