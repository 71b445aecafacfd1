"""A run directory as values; what is missing or damaged is reported, not raised."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from ...io.integrity.checksums import is_broken
from ...io.integrity.repair import flaw_of_predictions
from ...io.jsonl import read_tolerant, Record, unreadable
from ...io.records import finite_float, SampleGroup
from ...io.run_directory import (
    CONFIG,
    EVALUATIONS,
    predictions_file,
    SUMMARY,
)
from ...io.tables import flatten
from ...recipe import yaml_format
from .checksums import unproven_files
from .evaluations import EvaluationRecord, evaluations_of_summary, parse_evaluation
from .replays import read_replays, ReplayedLoss


FILES = ("config.yaml", "metrics.jsonl", "summary.json", "evaluations.jsonl")
SEED_KEYS = ("run.seed", "seed")
# Of a recipe's configuration, which has every key.
_RECIPE_KEYS = ("run.steps", "model.path", "data.task")

Metrics = dict[str, float | None]
Parsed = TypeVar("Parsed")


class Event(NamedTuple):
    """An event of a run: a start, a checkpoint, a warning, an interruption."""

    step: int
    kind: str
    message: str


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The contents of a run directory.

    **Fields:**

    - `path`: the directory, as it was passed.
    - `name`: the directory's name, by which the report calls the run.
    - `settings`: `config.yaml`, from dotted keys to values; see `flatten`.
    - `metrics`: a record for each step, in order, with its number under `step`; values
        that were not finite are `None`.
    - `evaluations`, `events`, `completions`: in the order of their files.
    - `summary`: empty if there is none.
    - `checkpoints`: steps with a checkpoint.
    - `has_model`: whether the final policy was saved.
    - `flaws`: what is missing or damaged, a sentence each.
    - `replays`: the losses of steps that were taken again.
    - `unproven`: names of files that do not match their checksums in the summary. Such
        evaluations are left out.
    """

    path: Path
    name: str
    settings: Record
    metrics: list[Metrics]
    evaluations: list[EvaluationRecord]
    events: list[Event]
    completions: list[SampleGroup]
    summary: Record
    checkpoints: list[int]
    has_model: bool
    flaws: list[str]
    replays: list[ReplayedLoss]
    unproven: frozenset[str] = frozenset()

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

    def number(self, key: str) -> float | None:
        """A finite number of the summary; `None` if it is not recorded."""
        return finite_float(self.summary.get(key))

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
        steps = finite_float(self.setting("run.steps", "steps"))
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


def runs_in(path: Path) -> list[Path]:
    """The runs in the directory of a sweep; of any other path itself."""
    summary = _read_mapping(path / "summary.json", json.loads, [])
    names = summary.get("runs")
    if summary.get("kind") != "sweep" or not isinstance(names, list):
        return [path]
    return [path / str(name) for name in names if (path / str(name)).is_dir()]


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
    flaws: list[str] = []

    def records(name: str, parse: Callable[[Record], Parsed], optional: bool):
        return _read_records(path / name, parse, flaws, optional)

    summary = _read_mapping(path / SUMMARY, json.loads, flaws)
    if is_broken(summary):
        flaws.append(f"`{SUMMARY}` is not as it was written, and is not used.")
        summary = {}
    unproven = frozenset(unproven_files(path, summary, flaws))
    evaluations = records("evaluations.jsonl", parse_evaluation, bool(summary))
    # Of evaluations that were made twice, as after a resume, the later one.
    evaluations = list({(x.step, x.series): x for x in evaluations}.values())
    if EVALUATIONS in unproven:
        evaluations = []
    elif not evaluations:
        evaluations = evaluations_of_summary(summary)
    for x in evaluations:
        file = predictions_file(path, x.step, x.mode, x.name)
        flaw = flaw_of_predictions(file, x.predictions, x.step)
        flaws += [] if flaw is None else [flaw]
    return Run(
        path=path,
        name=path.resolve().name,
        settings=flatten(_read_mapping(path / "config.yaml", _parse_config, flaws)),
        metrics=_read_metrics(path / "metrics.jsonl", flaws),
        evaluations=evaluations,
        events=records("events.jsonl", _parse_event, True),
        completions=records("completions.jsonl", SampleGroup.from_json, True),
        summary=summary,
        checkpoints=sorted(
            int(child.name)
            for child in (path / "checkpoints").glob("*")
            if child.is_dir() and child.name.isdecimal()
        ),
        has_model=(path / "model").is_dir(),
        flaws=flaws,
        replays=read_replays(path, flaws),
        unproven=unproven,
    )


def _parse_config(text: str) -> object:
    return yaml_format.read(text, f"`{CONFIG}`")


def _read_mapping(
    path: Path, parse: Callable[[str], object], flaws: list[str]
) -> Record:
    """A file that holds one mapping; empty if it cannot be read."""
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        flaws.append(unreadable(path, error))
        return {}
    if isinstance(values, dict):
        return values
    flaws.append(f"`{path.name}` does not contain a mapping.")
    return {}


def _read_records(
    path: Path, parse: Callable[[Record], Parsed], flaws: list[str], optional: bool
) -> list[Parsed]:
    """The records of a JSONL file, without those that `parse` rejects."""
    records, found = read_tolerant(path, optional=optional)
    flaws += found
    parsed, rejected = [], 0
    for record in records:
        try:
            parsed.append(parse(record))
        except ValueError:
            rejected += 1
    if rejected:
        flaws.append(
            f"`{path.name}` has {rejected} lines that lack a required key; they were "
            "skipped."
        )
    return parsed


def _read_metrics(path: Path, flaws: list[str]) -> list[Metrics]:
    records, found = read_tolerant(path)
    flaws += found
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
    return [by_step[step] for step in steps]


def _parse_event(record: Record) -> Event:
    if not isinstance(record.get("kind"), str):
        raise ValueError(
            f"An event has a kind. Received {record!r:.80}: remove that line."
        )
    step = finite_float(record.get("step"))
    return Event(int(step or 0), str(record["kind"]), str(record.get("message") or ""))
