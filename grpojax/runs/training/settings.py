"""Settings of `fit`, as values: logging, checkpoints, and what a run computes."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from rich.console import Console

from ... import models
from ..._train import TrainStep
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ...types import TrainState
from ..evaluation.evaluate import Evaluation
from ..io.description import describe, describe_arrays
from ..io.run_directory import ADAPTER, MODEL
from .step import Step


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Logging:
    """What `fit` records and shows while it runs.

    **Fields:**

    - `every`: steps whose metrics are read from the device together.
    - `samples`: prompts whose completions are recorded each time; 0 for none.
    - `tokenizer`: decodes completions; without one none are recorded.
    - `console`: shows progress; nowhere by default.

    **Raises:** `ValueError` for counts that are too small.
    """

    every: int = 1
    samples: int = 2
    tokenizer: AbstractTokenizer | None = None
    console: Console = dataclasses.field(default_factory=lambda: Console(quiet=True))

    def __post_init__(self):
        if self.every < 1 or self.samples < 0:
            raise ValueError(
                "Logging(every=..., samples=...): `every` is at least 1 and `samples` "
                f"at least 0. Received every={self.every}, samples={self.samples}."
            )


Export = Callable[[AbstractPolicy, Path], None]
"""Writes the final policy into a run's directory."""


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """What `fit` saves of a run that has a directory.

    **Fields:**

    - `every`: steps between two checkpoints; `None` for none at all.
    - `keep_last`: how many of the latest checkpoints are kept.
    - `keep_best`: how many of those with the highest reward are kept besides.
    - `export`: writes the final policy; by default in Hugging Face's format, if it is
        one of `grpojax.models`.

    **Raises:** `ValueError` for counts that are too small.
    """

    every: int | None = 10
    keep_last: int = 2
    keep_best: int = 0
    export: Export | None = None

    def __post_init__(self):
        for name, value, least in (
            ("every", self.every, 1),
            ("keep_last", self.keep_last, 1),
            ("keep_best", self.keep_best, 0),
        ):
            if value is not None and value < least:
                raise ValueError(
                    f"Checkpointing({name}=...) must be at least {least}. Received "
                    f"{value}."
                )


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run computes: written to its directory, and compared when it is resumed.

    **Fields:**

    - `values`: names and plain values, nested.
    - `parse`: from the YAML of a run to its `values`.
    - `summary`: what is shown when a run starts, a few lines.
    - `text`: the values as YAML, if it has a format of its own.
    """

    values: Mapping[str, object]
    parse: Callable[[str], Mapping[str, object]] = yaml.safe_load
    summary: str = ""
    text: str | None = None

    def to_yaml(self) -> str:
        """The values as YAML."""
        if self.text is not None:
            return self.text
        return yaml.safe_dump(dict(self.values), sort_keys=False, allow_unicode=True)


def described(
    state: TrainState, step: Step, steps: int, evaluation: Evaluation | None
) -> Config:
    """The configuration of a run without a recipe: names and plain values."""
    parts = vars(step) if isinstance(step, TrainStep) else {"step": step}
    if evaluation is not None:
        parts = {**parts, "evaluation": evaluation}
    described = {name: describe(part) for name, part in parts.items()}
    values = {"steps": steps, "policy": describe(state.policy), **described}
    values["arrays"] = describe_arrays(parts)
    return Config(values)


def export_to(
    tokenizer: AbstractTokenizer | None, *, base: str | None = None
) -> Export:
    """An export in Hugging Face's format, and of adapters in PEFT's as well.

    Policies that are none of `grpojax.models` are not exported: their checkpoints hold
    them.

    **Arguments:**

    - `tokenizer`: written beside the weights.
    - `base`: the model that adapters were trained on, as their file names it.
    """

    def export(policy: AbstractPolicy, directory: Path) -> None:
        if not isinstance(policy, models.Transformer):
            logger.info("the policy has no export: its checkpoints hold it")
            return
        if models.adapters(policy):
            models.save_adapters(policy, directory / ADAPTER, base=base)
        models.save(models.merge(policy), directory / MODEL, tokenizer=tokenizer)

    return export
