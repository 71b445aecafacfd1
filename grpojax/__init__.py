"""GRPO post-training of language models as one pure JAX function.

Names are imported on first access: a command that needs no JAX, such as printing a
recipe, does not import it.
"""

import importlib
from typing import TYPE_CHECKING

from ._extras import named_extras


if TYPE_CHECKING:
    from . import (
        advantage as advantage,
        algorithms as algorithms,
        asynchronous as asynchronous,
        curriculum as curriculum,
        env as env,
        host as host,
        masked as masked,
        models as models,
        policy as policy,
        reward as reward,
        rollout as rollout,
        runs as runs,
        sharding as sharding,
        testing as testing,
        text as text,
        types as types,
        update as update,
    )
    from ._train import (
        averaged as averaged,
        Averaging as Averaging,
        collect as collect,
        Demonstrations as Demonstrations,
        Experience as Experience,
        init as init,
        learn as learn,
        measure as measure,
        SupervisedStep as SupervisedStep,
        train as train,
        train_step as train_step,
        TrainStep as TrainStep,
    )
    from .rollout import RolloutConfig as RolloutConfig
    from .runs.training.fit import fit as fit
    from .types import (
        Metrics as Metrics,
        Prompt as Prompt,
        Rewards as Rewards,
        TrainState as TrainState,
        Trajectory as Trajectory,
    )
    from .update import UpdateConfig as UpdateConfig
    from .validation import validate as validate, ValidationError as ValidationError


_MODULES = (
    "advantage",
    "algorithms",
    "asynchronous",
    "curriculum",
    "env",
    "host",
    "masked",
    "models",
    "policy",
    "reward",
    "rollout",
    "runs",
    "sharding",
    "testing",
    "text",
    "types",
    "update",
)
_NAMES = {
    "_train": (
        "averaged",
        "Averaging",
        "collect",
        "Demonstrations",
        "Experience",
        "init",
        "learn",
        "measure",
        "SupervisedStep",
        "train",
        "train_step",
        "TrainStep",
    ),
    "rollout": ("RolloutConfig",),
    "runs.training.fit": ("fit",),
    "types": ("Metrics", "Prompt", "Rewards", "TrainState", "Trajectory"),
    "update": ("UpdateConfig",),
    "validation": ("validate", "ValidationError"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str):
    module = name if name in _MODULES else _HOMES.get(name)
    if module is not None:
        with named_extras(f"grpojax.{name}"):
            found = importlib.import_module(f".{module}", __name__)
        return found if module == name else vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_HOMES})
