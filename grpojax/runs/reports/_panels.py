"""The curves of a run, put together in panels."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from ._evaluations import Evaluation
from ._plans import chosen, Plan, PLANS, UNDRAWN
from ._read import Run


Values = list[float | None]
Records = Sequence[Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a panel, with a band around it where `low` and `high` are given.

    **Fields:**

    - `color`: the place in the palette; curves of one color belong together.
    - `faint`: drawn thinner: one run of several, whose mean is drawn too.
    - `dots`: the points are few and are marked.
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
    """Axes with curves over the steps."""

    section: str
    name: str
    title: str
    unit: str
    curves: list[Curve]
    note: str = ""


def metric_names(records: Records) -> list[str]:
    """Every name in some record, sorted."""
    return sorted({name for record in records for name in record})


def with_throughput(records: Records) -> list[dict[str, float | None]]:
    """The records, each with `tokens_per_second` where it follows from the others."""
    return [_throughput(record) | dict(record) for record in records]


def _throughput(record: Mapping[str, float | None]) -> dict[str, float | None]:
    tokens, seconds = record.get("num_tokens"), record.get("step_time")
    if tokens is None or not seconds:
        return {}
    return {"tokens_per_second": tokens / seconds}


def panels_of(run: Run) -> tuple[list[Panel], list[str]]:
    """The panels of one run, and the titles of those for which there is nothing."""
    records = with_throughput(run.metrics)
    names = metric_names(records)
    steps = [int(record["step"] or 0) for record in records]
    column = lambda name: [record.get(name) for record in records]
    panels = [panel] if (panel := _accuracy(run)) else []
    absent = [] if panels else ["Accuracy"]
    used = {name for pattern in UNDRAWN for name in fnmatch.filter(names, pattern)}
    for plan in PLANS:
        curves = []
        for color, (name, label) in enumerate(chosen(plan, names).items()):
            used.add(name)
            low, high = plan.band if plan.band is not None else (None, None)
            banded = low in names and high in names
            curves.append(
                Curve(
                    label,
                    steps,
                    column(name),
                    column(low) if banded else None,
                    column(high) if banded else None,
                    color,
                )
            )
            used |= set(plan.band or ())
        if curves:
            panels.append(_panel(plan, curves))
        elif plan.expected:
            absent.append(plan.title)
    others = [name for name in names if name not in used]
    for place, name in enumerate(others, start=1):
        curve = Curve(name, steps, column(name))
        panels.append(Panel("Other", f"other-{place}", name, "", [curve]))
    return panels, absent


def _panel(plan: Plan, curves: list[Curve]) -> Panel:
    return Panel(plan.section, plan.name, plan.title, plan.unit, curves, plan.note)


def _accuracy(run: Run) -> Panel | None:
    """Held-out accuracy with its intervals, and what training problems said."""
    series: dict[tuple, list[Evaluation]] = {}
    for one in run.evaluations:
        series.setdefault(one.series, []).append(one)
    curves = [
        Curve(
            describe(found[0]),
            [one.step for one in found],
            [one.accuracy.value for one in found],
            [one.accuracy.interval[0] for one in found],
            [one.accuracy.interval[1] for one in found],
            color,
            dots=True,
        )
        for color, found in enumerate(series.values())
    ]
    name = "rewards/correct/mean"
    if any(name in record for record in run.metrics):
        steps = [int(record["step"] or 0) for record in run.metrics]
        values = [record.get(name) for record in run.metrics]
        label = "training problems, each step's own"
        curves.append(Curve(label, steps, values, color=len(curves), faint=True))
    if not curves:
        return None
    note = "Bands are 95% intervals. " if series else ""
    if len(curves) > len(series):
        note += "A step's training problems differ from the last one's: no band."
    return Panel("Result", "accuracy", "Accuracy", "share", curves, note.strip())


def describe(one: Evaluation) -> str:
    """Split, mode and temperature of an evaluation, in words."""
    split = "held out" if one.split in ("held_out", "not recorded") else one.split
    mode = "" if one.mode == "not recorded" else f", {one.mode}"
    warm = one.mode == "sampled" and one.temperature is not None
    return f"{split}{mode}{f' at temperature {one.temperature:g}' if warm else ''}"
