"""Settings of `fit`, as values, and the run that it prepares from them."""

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, ParamSpec

import yaml
from jax.sharding import Mesh
from rich.console import Console

from ... import models
from ..._checks import check_counts
from ..._train import TrainStep
from ...policy import AbstractPolicy
from ...text import AbstractTokenizer
from ...types import TrainState
from ..checkpoint.checkpoints import Restored
from ..evaluation.evaluate import Evaluation
from ..evaluation.evaluator import Evaluator
from ..evaluation.remarks import remarks
from ..io.description import describe, describe_arrays
from ..io.run_directory import ADAPTER, MODEL, RunDirectory
from ..tracking.build import TrackerFactory
from .health import Thresholds
from .step import LoweredStep, Step


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Logging:
    """Logging settings of `fit`.

    **Fields:**

    - `every`: steps between device-to-host transfers of metrics.
    - `samples`: number of prompts whose completions are logged each time; 0 for none.
    - `tokenizer`: decodes completions; without one none are logged.
    - `console`: rich console for progress output; quiet by default.

    **Raises:** `ValueError` if `every` is below 1 or `samples` is negative.
    """

    every: int = 1
    samples: int = 2
    tokenizer: AbstractTokenizer | None = None
    console: Console = dataclasses.field(default_factory=lambda: Console(quiet=True))

    def __post_init__(self):
        check_counts("Logging", 1, every=self.every)
        check_counts("Logging", 0, samples=self.samples)


Export = Callable[[AbstractPolicy, Path], None]
"""Writes the final policy into a run's directory."""


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """Checkpoint and export settings of `fit`.

    **Fields:**

    - `every`: steps between checkpoints; `None` disables them.
    - `keep_last`: number of latest checkpoints to keep.
    - `keep_best`: number of best checkpoints to keep in addition.
    - `best_by`: what makes one the best: the name of an evaluation, or one of its
        measures, such as `"held_out.pass@4"`; the mean reward of the step when `None`.
        A checkpoint is saved at every step of that evaluation, too.
    - `export`: writes the final policy; by default in Hugging Face format, if it is
        a `models.Transformer`.

    **Raises:** `ValueError` for counts that are too small.
    """

    every: int | None = 10
    keep_last: int = 2
    keep_best: int = 0
    best_by: str | None = None
    export: Export | None = None

    def __post_init__(self):
        check_counts("Checkpointing", 1, every=self.every, keep_last=self.keep_last)
        check_counts("Checkpointing", 0, keep_best=self.keep_best)

    @property
    def split_best_by(self) -> tuple[str | None, str | None]:
        """The evaluation and the measure that `best_by` names, as far as it does."""
        name, _, measure = (self.best_by or "").partition(".")
        return name or None, measure or None


@dataclasses.dataclass(frozen=True)
class Config:
    """Configuration of a run: saved in its directory, and compared on resume.

    **Fields:**

    - `values`: the configuration, as nested mappings of plain values.
    - `parse`: parses the saved YAML of a run into its `values`.
    - `summary`: text printed when the run starts.
    - `text`: custom YAML of `values`; by default `yaml.safe_dump`.
    - `warnings`: sentences that are logged, and recorded as events, at the start.
    - `origin`: the run or checkpoint whose policy is trained on, for the summary.
    - `today`: the date that chat templates were told, `YYYY-MM-DD`.
    """

    values: Mapping[str, object]
    parse: Callable[[str], Mapping[str, object]] = yaml.safe_load
    summary: str = ""
    text: str | None = None
    warnings: tuple[str, ...] = ()
    origin: str | None = None
    today: str | None = None

    def to_yaml(self) -> str:
        """The values as YAML."""
        if self.text is not None:
            return self.text
        return yaml.safe_dump(dict(self.values), sort_keys=False, allow_unicode=True)


class Prepared(NamedTuple):
    """A run that is loaded, checked and traced; its step is not compiled.

    No record is written yet. A directory that is resumed is locked.

    In a multi-process run only process 0 has `directory`; all processes save to and
    restore from the checkpoints in `out`. `start` is the start time, by
    `time.perf_counter`; `metadata` is what every checkpoint keeps besides the state.
    """

    state: TrainState
    step: LoweredStep
    steps: int
    out: Path | None
    directory: RunDirectory | None
    restored: Restored | None
    evaluators: Mapping[str, Evaluator]
    checkpoint: Checkpointing
    trackers: Mapping[str, TrackerFactory]
    health: Thresholds
    logging: Logging
    config: Config
    mesh: Mesh | None
    start: float
    metadata: Mapping[str, object]


def described(
    state: TrainState, step: Step, steps: int, evaluations: Mapping[str, Evaluation]
) -> Config:
    """Configuration of a run without a recipe, derived from its objects."""
    parts: dict[str, object] = {"step": step}
    if isinstance(step, TrainStep):
        parts = dict(vars(step))
    values = {"steps": steps, "policy": describe(state.policy)}
    # A part that is left out is no key: runs of older versions had no such parts.
    values |= {name: describe(x) for name, x in parts.items() if x is not None}
    if evaluations:
        values["evaluations"] = describe(evaluations)
    warnings = ()
    if isinstance(step, TrainStep):
        warnings = remarks(state.policy, step.env)
    values |= {"arrays": describe_arrays(parts)}
    return Config(values, warnings=warnings)


def export_to(
    tokenizer: AbstractTokenizer | None, *, base: str | None = None
) -> Export:
    """Export function: Hugging Face format, and PEFT format for adapters.

    Policies other than `models.Transformer` are not exported; their weights are in the
    checkpoints.

    **Arguments:**

    - `tokenizer`: written beside the weights.
    - `base`: name of the adapters' base model, recorded in their config file.
    """

    def export(policy: AbstractPolicy, directory: Path) -> None:
        if not isinstance(policy, models.Transformer):
            logger.info("no export format for this policy; see its checkpoints")
            return
        if models.adapters(policy) and models.has_peft_format(policy):
            models.save_adapters(policy, directory / ADAPTER, base=base)
        models.save(models.merge(policy), directory / MODEL, tokenizer=tokenizer)

    return export


_P = ParamSpec("_P")


def with_signature_of(
    prepare: Callable[_P, Prepared],
) -> Callable[[Callable[..., TrainState]], Callable[_P, TrainState]]:
    """A decorator of a function that takes the arguments of another one."""

    def with_signature(function: Callable[..., TrainState]) -> Callable[_P, TrainState]:
        signature = inspect.signature(prepare)
        signature = signature.replace(return_annotation=TrainState)
        function.__dict__["__signature__"] = signature
        return function

    return with_signature
