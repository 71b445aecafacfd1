"""A run directory as values; what is missing or cut short is said, not raised."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ..statistics import wilson
from ._lines import read_lines, read_mapping, Record


Interval = tuple[float, float]

FILES = ("config.yaml", "metrics.jsonl", "summary.json", "evaluations.jsonl")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number, what it was counted on, and its 95% interval."""

    value: float
    n: int
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One finished evaluation; `asked` is all that two of them must share."""

    step: int
    split: str
    mode: str
    temperature: float | None
    problems: int | None
    samples: int | None
    accuracy: Measure
    metrics: dict[str, Measure]
    baselines: dict[str, Measure]

    @property
    def asked(self) -> tuple[object, ...]:
        """Split, mode, temperature, problems, samples and n."""
        return (*self.series, self.problems, self.samples, self.accuracy.n)

    @property
    def series(self) -> tuple[str, str, float | None]:
        """What is drawn as one curve."""
        return self.split, self.mode, self.temperature


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


def number(value: object) -> float | None:
    """A finite number, or `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


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
    evaluations = _latest(
        _parse_all(
            path / "evaluations.jsonl", _evaluation, flaws, optional=bool(summary)
        )
    )
    return Run(
        path=path,
        recipe=flatten(read_mapping(path / "config.yaml", yaml.safe_load, flaws)),
        metrics=_read_metrics(path / "metrics.jsonl", flaws),
        evaluations=evaluations or _evaluations_of_summary(summary),
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


def measure(record: object) -> Measure | None:
    """A `{"value", "n", "interval"}`, Wilson's interval where none is given."""
    if not isinstance(record, Mapping):
        return None
    value, n = number(record.get("value")), number(record.get("n"))
    if value is None or n is None or not 0 <= value <= 1 or n < 0:
        return None
    interval = record.get("interval")
    ends = [number(x) for x in interval] if isinstance(interval, Sequence) else []
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None:
        low, high = wilson(round(value * n), int(n))
    return Measure(value, int(n), (low, high))


def _measures(records: object) -> dict[str, Measure]:
    if not isinstance(records, Mapping):
        return {}
    found = {str(name): measure(record) for name, record in records.items()}
    return {name: one for name, one in found.items() if one is not None}


def _count(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _evaluation(record: Record) -> Evaluation | None:
    step = _count(record.get("step"))
    accuracy = measure({**record, "value": record.get("accuracy")})
    if step is None or accuracy is None:
        return None
    return Evaluation(
        step=step,
        split=str(record.get("split", "not recorded")),
        mode=str(record.get("mode", "not recorded")),
        temperature=number(record.get("temperature")),
        problems=_count(record.get("problems")),
        samples=_count(record.get("samples")),
        accuracy=accuracy,
        metrics=_measures(record.get("metrics")),
        baselines=_measures(record.get("baselines")),
    )


def _latest(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Of evaluations that were made twice, as after a resume, the later one."""
    return list({(one.step, one.series): one for one in evaluations}.values())


def _evaluations_of_summary(summary: Record) -> list[Evaluation]:
    """Both ends of a run that kept no `evaluations.jsonl`."""
    found = []
    for step, when in ((0, "before"), (_count(summary.get("steps")) or 0, "after")):
        record: Record = {
            "step": step,
            "accuracy": summary.get(f"accuracy_{when}"),
            "interval": summary.get(f"ci95_{when}"),
            "n": summary.get("n_eval"),
        }
        evaluation = _evaluation(record)
        if evaluation is not None and (when == "before" or step > 0):
            found.append(evaluation)
    return found


def _event(record: Record) -> Event | None:
    step = _count(record.get("step"))
    if not isinstance(record.get("kind"), str):
        return None
    return Event(step or 0, str(record["kind"]), str(record.get("message") or ""))


def _completion(record: Record) -> Record | None:
    samples = record.get("samples")
    if number(record.get("step")) is None or not isinstance(samples, list):
        return None
    return record if all(isinstance(sample, dict) for sample in samples) else None
