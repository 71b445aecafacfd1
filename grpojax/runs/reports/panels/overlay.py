"""Curves of several runs on shared axes, with means over seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..analysis import ConfigGroup, group_by_config, mean_interval, run_labels
from ..read import Run
from .panels import Curve, Panel, run_panels


# Panels of which every curve is compared; of the others the first one.
_ALL_CURVES = ("accuracy", "components", "time")
_NOTE = "Bold: mean over seeds, with its 95% t-interval at each step for three or more."

# A panel for each curve that runs share: its panel's name and its label.
_Key = tuple[str, str]


def overlay_panels(runs: Sequence[Run]) -> list[Panel]:
    """The panels of several runs: each run's curve, and means over seeds.

    Runs with one configuration have one color; their curves are faint beside the mean.
    """
    labels = dict(zip(map(id, runs), run_labels(runs), strict=True))
    panels: dict[_Key, Panel] = {}
    for color, group in enumerate(group_by_config(runs)):
        averaged = _add_runs(panels, group, labels, color)
        for key, curves in averaged.items():
            if len(curves) > 1:
                panels[key].curves.append(_mean_curve(group.name, curves, color))
                panels[key] = dataclasses.replace(panels[key], note=_NOTE)
    return list(panels.values())


def _add_runs(
    panels: dict[_Key, Panel], group: ConfigGroup, labels: dict[int, str], color: int
) -> dict[_Key, list[Curve]]:
    """Adds the curves of a group's runs to `panels`; returns those to average."""
    independent = {id(run) for run in group.independent}
    averaged: dict[_Key, list[Curve]] = {}
    for run in group.runs:
        for panel in run_panels(run)[0]:
            compared = panel.curves if panel.name in _ALL_CURVES else panel.curves[:1]
            for curve in compared:
                key = (panel.name, curve.label)
                if key not in panels:
                    panels[key] = _empty_panel(panel, curve, number=len(panels) + 1)
                panels[key].curves.append(
                    dataclasses.replace(
                        curve,
                        label=f"{group.name}: {labels[id(run)]}",
                        low=None,
                        high=None,
                        color=color,
                        faint=len(independent) > 1,
                    )
                )
                if id(run) in independent:
                    averaged.setdefault(key, []).append(curve)
    return averaged


def _empty_panel(panel: Panel, curve: Curve, number: int) -> Panel:
    """A panel for one curve of a run's panel, with a unique name."""
    title = panel.title if len(panel.curves) == 1 else f"{panel.title}: {curve.label}"
    name = f"{panel.name}-{number}"
    return dataclasses.replace(panel, name=name, title=title, curves=[], note="")


def _mean_curve(name: str, curves: list[Curve], color: int) -> Curve:
    """The mean at the steps that all curves have, with its t-interval."""
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = [
        step
        for step in curves[0].steps
        if all(table.get(step) is not None for table in tables)
    ]
    columns = [[table[step] or 0.0 for table in tables] for step in steps]
    # The t-interval of two seeds is wider than any plot.
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
