"""Training runs: everything around the train step, side effects included.

Rooms, each of which imports only those before it:

- `distributed`: several processes and devices; preemption.
- `io`: a run's directory, JSON lines, records of samples, fingerprints.
- `checkpoint`: train states on disk, and whether a run may be resumed.
- `evaluation`: accuracy on held-out problems, with intervals; completions to look at.
- `tracking`: TensorBoard, Weights & Biases, trackio, or a tracker of yours.
- `training`: `fit`, and what it is given: checkpointing, logging, health checks.
- `serve`: a server of chat and completions in OpenAI's protocol.
- `agents`: rollouts that a black-box agent samples over HTTP.
- `recipe`: runs described in YAML, and the arguments of `fit` that they stand for.
- `replay`: a step of a recorded run, taken again bit for bit, and taken apart.
- `reports`: Markdown and HTML about runs; reads directories, needs no JAX.
- `sweeps`: runs over seeds and values of keys, which share compiled programs.
- `pipeline`: many runs from one file, as commands one after another.
- `cli`: the command `grpojax`.

The names below are imported on first access, so that what needs no JAX stays fast.
"""

import importlib
from typing import TYPE_CHECKING

from .._extras import named_extras


if TYPE_CHECKING:
    from .agents.environment import AgentEnvironment as AgentEnvironment
    from .cli.evaluate import evaluate as evaluate
    from .cli.generate import generate as generate
    from .cli.train import train as train, train_sweep as train_sweep
    from .evaluation.evaluate import Evaluation as Evaluation
    from .evaluation.generate import Prompts as Prompts
    from .recipe.build import build as build
    from .recipe.load import dump as dump, load as load
    from .recipe.schema import Recipe as Recipe
    from .replay.recipe import replay_run as replay_run
    from .replay.replay import replay_step as replay_step
    from .reports import (
        write_catalogue as write_catalogue,
        write_report as write_report,
    )
    from .training.fit import fit as fit
    from .training.health import Thresholds as Thresholds
    from .training.settings import (
        Checkpointing as Checkpointing,
        Config as Config,
        Logging as Logging,
    )


_ROOMS = (
    "agents",
    "checkpoint",
    "cli",
    "distributed",
    "evaluation",
    "io",
    "pipeline",
    "recipe",
    "replay",
    "reports",
    "serve",
    "sweeps",
    "tracking",
    "training",
)
_HOMES = {
    "AgentEnvironment": "agents.environment",
    "build": "recipe.build",
    "Checkpointing": "training.settings",
    "Config": "training.settings",
    "dump": "recipe.load",
    "evaluate": "cli.evaluate",
    "Evaluation": "evaluation.evaluate",
    "fit": "training.fit",
    "generate": "cli.generate",
    "load": "recipe.load",
    "Logging": "training.settings",
    "Prompts": "evaluation.generate",
    "Recipe": "recipe.schema",
    "replay_run": "replay.recipe",
    "replay_step": "replay.replay",
    "Thresholds": "training.health",
    "train": "cli.train",
    "train_sweep": "cli.train",
    "write_catalogue": "reports",
    "write_report": "reports",
}


def __getattr__(name: str):
    module = name if name in _ROOMS else _HOMES.get(name)
    if module is not None:
        with named_extras(f"grpojax.runs.{name}"):
            found = importlib.import_module(f".{module}", __name__)
        return found if module == name else vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_HOMES})
