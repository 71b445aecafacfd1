"""A run directory as values; what is missing or cut short is said, not raised."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from ._evaluations import (
    Evaluation,
    evaluations_of_summary,
    latest,
    parse_evaluation,
)
from ._lines import number, read_lines, read_mapping, Record


FILES = ("config.yaml", "metrics.jsonl", "summary.json", "evaluations.jsonl")


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a run."""

    step: int
    kind: str
    message: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory says.

    **Fields:**

    - `path`: the directory, as it was named.
    - `recipe`: every key's full name and value.
    - `metrics`: a record for each step, in order, with its number under `step`; what
        was not finite is `None`.
    - `evaluations`, `events`, `completions`: in the order of their files.
    - `summary`: empty if there is none.
    - `checkpoints`: the steps of those that are there.
    - `has_model`: whether the final policy was written.
    - `flaws`: what is missing or cut short, a sentence each.
    """

    path: Path
    recipe: Record
    metrics: list[dict[str, float | None]]
    evaluations: list[Evaluation]
    events: list[Event]
    completions: list[Record]
    summary: Record
    checkpoints: list[int]
    has_model: bool
    flaws: list[str]

    @property
    def last_step(self) -> int:
        """The last step of which there are metrics; 0 if there is none."""
        return int(self.metrics[-1]["step"] or 0) if self.metrics else 0

    @property
    def steps(self) -> int | None:
        """How many steps the recipe asks for, if it says so."""
        steps = self.recipe.get("run.steps")
        return steps if isinstance(steps, int) else None

    @property
    def complete(self) -> bool:
        """Whether the run itself says that it is finished."""
        return self.summary.get("complete") is True

    @property
    def seed(self) -> object:
        """What the recipe calls `run.seed`."""
        return self.recipe.get("run.seed")


def written(value: object) -> str:
    """A recipe's value as YAML has it, a text without its quotes."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run directory, however little of it there is.

    **Raises:** `FileNotFoundError` if it is no directory, or none of a run's files is
    in it.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in FILES):
        raise FileNotFoundError(
            f"A run is a directory that holds one of {', '.join(FILES)}. There is none "
            f"of them in {os.fspath(path)!r}: check the path."
        )
    flaws: list[str] = []
    summary = read_mapping(path / "summary.json", json.loads, flaws)
    evaluations = latest(
        _parse_all(
            path / "evaluations.jsonl", parse_evaluation, flaws, optional=bool(summary)
        )
    )
    return Run(
        path=path,
        recipe=flatten(read_mapping(path / "config.yaml", yaml.safe_load, flaws)),
        metrics=_read_metrics(path / "metrics.jsonl", flaws),
        evaluations=evaluations or evaluations_of_summary(summary),
        events=_parse_all(path / "events.jsonl", _event, flaws, optional=True),
        completions=_parse_all(
            path / "completions.jsonl", _completion, flaws, optional=True
        ),
        summary=summary,
        checkpoints=sorted(
            int(child.name)
            for child in (path / "checkpoints").glob("*")
            if child.is_dir() and child.name.isdecimal()
        ),
        has_model=(path / "model").is_dir(),
        flaws=flaws,
    )


def flatten(values: Mapping, prefix: str = "") -> Record:
    """Nested mappings as one, from full dotted names to values."""
    flat: Record = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _read_metrics(path: Path, flaws: list[str]) -> list[dict[str, float | None]]:
    by_step: dict[int, dict[str, float | None]] = {}
    records = read_lines(path, flaws)
    for record in records:
        values = {name: number(value) for name, value in record.items()}
        step = values.get("step")
        if step is not None:
            by_step[int(step)] = values
    if len(by_step) < len(records):
        flaws.append(
            f"`{path.name}` has {len(records)} lines for {len(by_step)} steps; the last"
            " of a step counts."
        )
    steps = sorted(by_step)
    if steps and steps[-1] - steps[0] + 1 != len(steps):
        flaws.append(
            f"`{path.name}` has {len(steps)} of the steps {steps[0]} to {steps[-1]}."
        )
    return [by_step[step] for step in steps]


def _parse_all(path: Path, parse, flaws: list[str], *, optional: bool = False) -> list:
    records = read_lines(path, flaws, optional=optional)
    parsed = [value for value in map(parse, records) if value is not None]
    if len(parsed) < len(records):
        flaws.append(
            f"`{path.name}` has {len(records) - len(parsed)} lines that lack what such "
            "a line must say; they are left out."
        )
    return parsed


def _event(record: Record) -> Event | None:
    step = number(record.get("step"))
    if not isinstance(record.get("kind"), str):
        return None
    return Event(int(step or 0), str(record["kind"]), str(record.get("message") or ""))


def _completion(record: Record) -> Record | None:
    samples = record.get("samples")
    if number(record.get("step")) is None or not isinstance(samples, list):
        return None
    return record if all(isinstance(sample, dict) for sample in samples) else None
