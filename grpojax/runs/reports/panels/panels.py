"""Curves of a run, grouped into panels."""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from ..read.evaluations import by_series
from ..read.run import Metrics, Run


Values = list[float | None]

# Recorded and not plotted: the extremes of the lengths of each kind.
_BANDS = "Bands are 95% intervals."
_NOT_PLOTTED = ("step", "time", "completions/min_*_length", "completions/max_*_length")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a panel, with a band if `low` and `high` are given.

    **Fields:**

    - `label`: in the legend.
    - `steps`, `values`: the points; `None` breaks the line.
    - `low`, `high`: the ends of the band at each step.
    - `color`: an index into the palette.
    - `faint`: thinner, for a single run whose mean over seeds is drawn too.
    - `dots`: marks the points, where they are few.
    """

    label: str
    steps: list[int]
    values: Values
    low: Values | None = None
    high: Values | None = None
    color: int = 0
    faint: bool = False
    dots: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes with curves over the steps.

    **Fields:**

    - `section`: the heading that it is shown under.
    - `name`: a unique file name, without suffix.
    - `title`, `unit`: of the axes; the unit "share" is shown in percent.
    - `note`: a sentence below the panel.
    """

    section: str
    name: str
    title: str
    unit: str
    curves: list[Curve]
    note: str = ""


def run_panels(run: Run) -> tuple[list[Panel], list[str]]:
    """The panels of one run, as `panels.yaml` lists them.

    **Returns:** the panels, and the titles of the expected ones without data.
    """
    records = [_with_throughput(record) for record in run.metrics]
    names = sorted({name for record in records for name in record})
    used = {name for pattern in _NOT_PLOTTED for name in fnmatch.filter(names, pattern)}
    panels, missing = [], []
    accuracy, reward = _accuracy_panel(run), _evaluations(run, "mean reward")
    if accuracy is None:
        missing.append("Accuracy")
    else:
        panels.append(accuracy)
    if reward:
        title = "Mean reward of evaluations"
        panels.append(Panel("Result", "evaluation-reward", title, "", reward, _BANDS))
    source = resources.files("grpojax.runs.reports.panels") / "panels.yaml"
    sections = yaml.safe_load(source.read_text(encoding="utf-8"))
    for section, specs in sections.items():
        for spec in specs:
            labels = _match(spec["metrics"], names)
            if labels:
                band = [name for name in spec.get("band", []) if name in names]
                used |= {*labels, *band}
                panels.append(_panel(section, spec, labels, band, records))
            elif not spec.get("optional", False):
                missing.append(spec["title"])
    others = [name for name in names if name not in used]
    for number, name in enumerate(others, start=1):
        spec = {"name": f"other-{number}", "title": name}
        panels.append(_panel("Other", spec, {name: name}, [], records))
    return panels, missing


def _with_throughput(record: Metrics) -> Metrics:
    """Adds `tokens_per_second` where a record has tokens and time, but not that."""
    tokens, seconds = record.get("num_tokens"), record.get("step_time")
    if tokens is None or not seconds:
        return record
    return {"tokens_per_second": tokens / seconds, **record}


def _match(metrics: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The recorded metrics of a panel, each with its label."""
    labels: dict[str, str] = {}
    for pattern, label in metrics.items():
        head, star, tail = pattern.partition("*")
        for name in fnmatch.filter(names, pattern):
            inner = name[len(head) : len(name) - len(tail)] if star else name
            labels.setdefault(name, label or inner)
    return labels


def _steps(records: Sequence[Metrics]) -> list[int]:
    return [int(record["step"] or 0) for record in records]


def _panel(
    section: str,
    spec: Mapping[str, Any],
    labels: Mapping[str, str],
    band: Sequence[str],
    records: Sequence[Metrics],
) -> Panel:
    column = lambda name: [record.get(name) for record in records]
    steps, low, high = _steps(records), None, None
    if len(band) == 2:
        low, high = map(column, band)
    curves = [
        Curve(label, steps, column(name), low, high, color)
        for color, (name, label) in enumerate(labels.items())
    ]
    title, unit, note = spec["title"], spec.get("unit", ""), spec.get("note", "")
    return Panel(section, spec["name"], title, unit, curves, note)


def _evaluations(run: Run, quantity: str) -> list[Curve]:
    """The points of each series of evaluations, with their intervals."""
    curves = []
    for evaluations in by_series(run.evaluations).values():
        points = [x for x in evaluations if x.quantity == quantity]
        if not points:
            continue
        intervals = [x.measure.interval for x in points]
        low, high = (
            [x[end] if math.isfinite(x[end]) else None for x in intervals]
            for end in (0, 1)
        )
        steps: list[int] = [x.step for x in points]
        values: Values = [x.measure.value for x in points]
        color, label = len(curves), points[0].label
        curves.append(Curve(label, steps, values, low, high, color, dots=True))
    return curves


def _accuracy_panel(run: Run) -> Panel | None:
    """Accuracies of evaluations, and that on the training problems."""
    curves = _evaluations(run, "accuracy")
    notes = [_BANDS] if curves else []
    name = "rewards/correct/mean"
    if any(name in record for record in run.metrics):
        values = [record.get(name) for record in run.metrics]
        label = "training problems of each step"
        steps, color = _steps(run.metrics), len(curves)
        curves.append(Curve(label, steps, values, color=color, faint=True))
        notes.append("Every step has other training problems, so they have no band.")
    if not curves:
        return None
    return Panel("Result", "accuracy", "Accuracy", "share", curves, " ".join(notes))
