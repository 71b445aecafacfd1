"""From a recipe's section `tracking` to sinks."""

import dataclasses
import importlib.util
from collections.abc import Callable

from ..io.run_directory import RunDirectory
from ..recipe.schema import Recipe
from .trackers import Guarded, Sink, TensorBoard, Trackio, WandB


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


def check(recipe: Recipe, directory: RunDirectory | None) -> None:
    """Looks for what the trackers of a recipe need.

    **Raises:** `ImportError` for a package that is not installed, `ValueError` for
    trackers without a directory, which they need to go on after an interruption.
    """
    wanted = _wanted(recipe)
    if wanted and directory is None:
        raise ValueError(
            f"A tracker keeps its place in the run's directory. Received {wanted[0]} "
            "without one: name it with --out, or leave the tracker off."
        )
    for name in wanted:
        package = _PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"`tracking.{name}` needs the package {package}, which is not "
                "installed: `pip install 'grpojax[tracking]'`, or switch it off."
            )


def build(
    recipe: Recipe,
    directory: RunDirectory,
    warn: Callable[[str], None],
    *,
    after: int,
) -> list[Sink]:
    """The trackers of a recipe, none of which can stop the run.

    **Arguments:**

    - `warn`: is given a sentence when one of them has failed.
    - `after`: the step that a resumed run goes on from; 0 for one that begins.
    """
    tracking, place = recipe.tracking, directory.tracking
    project, name = tracking.project, tracking.name or directory.path.name
    config = dataclasses.asdict(recipe)
    makers: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: TensorBoard(
            place / "tensorboard", after=after if after > 0 else None
        ),
        "wandb": lambda: WandB(
            place / "wandb",
            project=project,
            name=name,
            config=config,
            offline=tracking.wandb == "offline",
        ),
        "trackio": lambda: Trackio(
            place / "trackio", project=project, name=name, config=config
        ),
    }
    return [Guarded(name, makers[name], warn) for name in _wanted(recipe)]


def _wanted(recipe: Recipe) -> list[str]:
    tracking = recipe.tracking
    asked = {
        "tensorboard": tracking.tensorboard,
        "wandb": tracking.wandb != "off",
        "trackio": tracking.trackio,
    }
    return [name for name, is_asked in asked.items() if is_asked]
