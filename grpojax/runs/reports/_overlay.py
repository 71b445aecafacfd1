"""The curves of several runs over one another."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ._compare import grouped, labels
from ._intervals import mean_interval
from ._panels import Curve, Panel, panels_of
from ._read import Run


# Panels of which every curve is compared; of the others the leading one.
_WHOLE = ("accuracy", "components", "time")
_NOTE = "Bold: mean over seeds; from three on with its 95% t-interval at each step."


def compared_panels(runs: Sequence[Run]) -> list[Panel]:
    """Each run's curves over one another, and their mean over seeds."""
    groups = grouped(runs)
    names = dict(zip(map(id, runs), labels(runs), strict=True))
    panels: dict[tuple[str, str], Panel] = {}
    for color, group in enumerate(groups):
        counted = {id(run) for run in group.over_seeds}
        mean: dict[tuple[str, str], list[Curve]] = {}
        for run in group.runs:
            for panel in panels_of(run)[0]:
                kept = panel.curves if panel.name in _WHOLE else panel.curves[:1]
                for curve in kept:
                    key = (panel.name, curve.label)
                    label = f"{group.name}: {names[id(run)]}"
                    drawn = dataclasses.replace(
                        curve, label=label, low=None, high=None, color=color
                    )
                    drawn = dataclasses.replace(drawn, faint=len(counted) > 1)
                    _target(panels, key, panel).curves.append(drawn)
                    if id(run) in counted:
                        mean.setdefault(key, []).append(curve)
        for key, curves in mean.items():
            if len(curves) > 1:
                panels[key].curves.append(_mean_curve(group.name, curves, color))
                panels[key] = dataclasses.replace(panels[key], note=_NOTE)
    return list(panels.values())


def _target(
    panels: dict[tuple[str, str], Panel], key: tuple[str, str], panel: Panel
) -> Panel:
    place = len(panels) + 1
    made = dataclasses.replace(
        panel,
        name=f"{panel.name}-{place}",
        title=panel.title if len(panel.curves) == 1 else f"{panel.title}: {key[1]}",
        curves=[],
        note="",
    )
    return panels.setdefault(key, made)


def _mean_curve(name: str, curves: list[Curve], color: int) -> Curve:
    """The mean at the steps that all have, with its t-interval."""
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = [
        step
        for step in curves[0].steps
        if all(table.get(step) is not None for table in tables)
    ]
    columns = [[table[step] or 0.0 for table in tables] for step in steps]
    # Of two seeds the interval is wider than any picture.
    intervals = [mean_interval(column) for column in columns] if len(curves) > 2 else []
    known = [interval for interval in intervals if interval is not None]
    return Curve(
        f"{name}: mean of {len(curves)} seeds",
        steps,
        [float(np.mean(column)) for column in columns],
        [low for low, _ in known] if len(curves) > 2 else None,
        [high for _, high in known] if len(curves) > 2 else None,
        color,
        dots=curves[0].dots,
    )
