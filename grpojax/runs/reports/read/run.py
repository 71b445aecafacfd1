"""A run directory as values; what is missing or damaged is reported, not raised."""

import dataclasses
import json
import os
from pathlib import Path

import yaml

from ...io.jsonl import read_tolerant, Record
from ...io.records import finite_float, SampleGroup
from ...io.tables import flatten
from .evaluations import (
    deduplicate,
    EvaluationRecord,
    evaluations_of_summary,
    parse_evaluation,
)
from .files import read_mapping, read_records


FILES = ("config.yaml", "metrics.jsonl", "summary.json", "evaluations.jsonl")

SEED_KEYS = ("run.seed", "seed")
_STEPS_KEYS = ("run.steps", "steps")
# Of a recipe's configuration, which has every key.
_RECIPE_KEYS = ("run.steps", "model.path", "data.task")

Metrics = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Event:
    """An event of a run: a start, a checkpoint, a warning, an interruption."""

    step: int
    kind: str
    message: str


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a run directory.

    **Fields:**

    - `path`: the directory, as it was passed.
    - `settings`: `config.yaml`, from dotted keys to values; see `flatten`.
    - `metrics`: a record for each step, in order, with its number under `step`; values
        that were not finite are `None`.
    - `evaluations`, `events`, `completions`: in the order of their files.
    - `summary`: empty if there is none.
    - `checkpoints`: steps with a checkpoint.
    - `has_model`: whether the final policy was saved.
    - `flaws`: what is missing or damaged, a sentence each.
    """

    path: Path
    settings: Record
    metrics: list[Metrics]
    evaluations: list[EvaluationRecord]
    events: list[Event]
    completions: list[SampleGroup]
    summary: Record
    checkpoints: list[int]
    has_model: bool
    flaws: list[str]

    def setting(self, *keys: str) -> object:
        """The value of the first of some dotted keys that is set; `None` if none is.

        The value of a section is a mapping of the keys in it.
        """
        for key in keys:
            value = self.settings.get(key)
            if value is None:
                value = self.section(key) or None
            if value is not None:
                return value
        return None

    def section(self, key: str) -> Record:
        """The settings below a dotted key, without that prefix."""
        prefix = f"{key}."
        return {
            name.removeprefix(prefix): value
            for name, value in self.settings.items()
            if name.startswith(prefix)
        }

    @property
    def has_recipe(self) -> bool:
        """Whether `config.yaml` is a recipe, which the command line can run again."""
        return all(key in self.settings for key in _RECIPE_KEYS)

    @property
    def last_step(self) -> int:
        """The last step with metrics; 0 without any."""
        return int(self.metrics[-1]["step"] or 0) if self.metrics else 0

    @property
    def steps(self) -> int | None:
        """The number of steps that were configured, if recorded."""
        steps = finite_float(self.setting(*_STEPS_KEYS))
        return None if steps is None else int(steps)

    @property
    def progress(self) -> str:
        """The last step, and of how many, if recorded."""
        of = "" if self.steps is None else f" of {self.steps:,}"
        return f"{self.last_step:,}{of}"

    @property
    def complete(self) -> bool:
        """Whether the run's summary calls it complete."""
        return self.summary.get("complete") is True

    @property
    def seed(self) -> object:
        """The configured seed; `None` if not recorded."""
        return self.setting(*SEED_KEYS)


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run directory, however incomplete.

    **Raises:** `FileNotFoundError` if it is no directory, or contains none of a run's
    files.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in FILES):
        raise FileNotFoundError(
            f"A run is a directory that contains one of {', '.join(FILES)}. Received "
            f"{os.fspath(path)!r}, which contains none: check the path."
        )
    summary, flaws = read_mapping(path / "summary.json", json.loads)
    evaluations, found = read_records(
        path / "evaluations.jsonl", parse_evaluation, optional=bool(summary)
    )
    flaws += found
    config, found = read_mapping(path / "config.yaml", yaml.safe_load)
    flaws += found
    metrics, found = _read_metrics(path / "metrics.jsonl")
    flaws += found
    events, found = read_records(path / "events.jsonl", _parse_event, optional=True)
    flaws += found
    completions, found = read_records(
        path / "completions.jsonl", SampleGroup.from_json, optional=True
    )
    return Run(
        path=path,
        settings=flatten(config),
        metrics=metrics,
        evaluations=deduplicate(evaluations) or evaluations_of_summary(summary),
        events=events,
        completions=completions,
        summary=summary,
        checkpoints=sorted(
            int(child.name)
            for child in (path / "checkpoints").glob("*")
            if child.is_dir() and child.name.isdecimal()
        ),
        has_model=(path / "model").is_dir(),
        flaws=[*flaws, *found],
    )


def _read_metrics(path: Path) -> tuple[list[Metrics], list[str]]:
    records, flaws = read_tolerant(path)
    by_step: dict[int, Metrics] = {}
    for record in records:
        values = {name: finite_float(value) for name, value in record.items()}
        step = values.get("step")
        if step is not None:
            by_step[int(step)] = values
    if len(by_step) < len(records):
        flaws.append(
            f"`{path.name}` has {len(records)} lines for {len(by_step)} steps; the last"
            " line of each step is used."
        )
    steps = sorted(by_step)
    if steps and steps[-1] - steps[0] + 1 != len(steps):
        flaws.append(
            f"`{path.name}` has {len(steps)} of the steps {steps[0]} to {steps[-1]}."
        )
    return [by_step[step] for step in steps], flaws


def _parse_event(record: Record) -> Event:
    if not isinstance(record.get("kind"), str):
        raise ValueError(
            f"An event has a kind. Received {record!r:.80}: remove that line."
        )
    step = finite_float(record.get("step"))
    return Event(int(step or 0), str(record["kind"]), str(record.get("message") or ""))
