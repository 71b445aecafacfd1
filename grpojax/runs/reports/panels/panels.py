"""Curves of a run, grouped into panels."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from ..read import EvaluationRecord, Run
from .specs import match_metrics, NOT_PLOTTED, PANEL_SPECS, PanelSpec


Values = list[float | None]
Records = Sequence[Mapping[str, float | None]]


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
    """The panels of one run.

    **Returns:** the panels, and the titles of the expected ones without data.
    """
    records = with_throughput(run.metrics)
    names = sorted({name for record in records for name in record})
    panels, missing = [], []
    accuracy = _accuracy_panel(run)
    if accuracy is None:
        missing.append("Accuracy")
    else:
        panels.append(accuracy)
    used = {name for pattern in NOT_PLOTTED for name in fnmatch.filter(names, pattern)}
    for spec in PANEL_SPECS:
        labels = match_metrics(spec, names)
        if labels:
            used |= {*labels, *(spec.band or ())}
            panels.append(_panel(spec, labels, records, names))
        elif spec.expected:
            missing.append(spec.title)
    others = [name for name in names if name not in used]
    for number, name in enumerate(others, start=1):
        curve = Curve(name, _steps(records), _column(records, name))
        panels.append(Panel("Other", f"other-{number}", name, "", [curve]))
    return panels, missing


def with_throughput(records: Records) -> list[dict[str, float | None]]:
    """Adds `tokens_per_second` where a record has tokens and time, but not that."""
    return [_throughput(record) | dict(record) for record in records]


def _throughput(record: Mapping[str, float | None]) -> dict[str, float | None]:
    tokens, seconds = record.get("num_tokens"), record.get("step_time")
    if tokens is None or not seconds:
        return {}
    return {"tokens_per_second": tokens / seconds}


def _steps(records: Records) -> list[int]:
    return [int(record["step"] or 0) for record in records]


def _column(records: Records, name: str) -> Values:
    return [record.get(name) for record in records]


def _panel(
    spec: PanelSpec, labels: Mapping[str, str], records: Records, names: Sequence[str]
) -> Panel:
    low, high = None, None
    if spec.band is not None and all(name in names for name in spec.band):
        low, high = (_column(records, name) for name in spec.band)
    curves = [
        Curve(label, _steps(records), _column(records, name), low, high, color)
        for color, (name, label) in enumerate(labels.items())
    ]
    return Panel(spec.section, spec.name, spec.title, spec.unit, curves, spec.note)


def _accuracy_panel(run: Run) -> Panel | None:
    """Held-out accuracies with their intervals, and that on training problems."""
    series: dict[tuple, list[EvaluationRecord]] = {}
    for evaluation in run.evaluations:
        series.setdefault(evaluation.series, []).append(evaluation)
    curves = [
        Curve(
            evaluations[0].label,
            [x.step for x in evaluations],
            [x.accuracy.value for x in evaluations],
            [x.accuracy.interval[0] for x in evaluations],
            [x.accuracy.interval[1] for x in evaluations],
            color,
            dots=True,
        )
        for color, evaluations in enumerate(series.values())
    ]
    note = "Bands are 95% intervals. " if series else ""
    name = "rewards/correct/mean"
    if any(name in record for record in run.metrics):
        steps, values = _steps(run.metrics), _column(run.metrics, name)
        label = "training problems of each step"
        curves.append(Curve(label, steps, values, color=len(curves), faint=True))
        note += "Every step has other training problems, so they have no band."
    if not curves:
        return None
    return Panel("Result", "accuracy", "Accuracy", "share", curves, note.strip())
