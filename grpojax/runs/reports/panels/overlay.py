"""Curves of several runs on shared axes, with means over seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..analysis.intervals import mean_interval, share_interval
from ..analysis.seeds import ConfigGroup
from .panels import Curve, Panel, run_panels


# Panels of which every curve is compared; of the others the first one.
_ALL_CURVES = ("accuracy", "evaluation-reward", "components", "time")
_NOTE = "Bold: mean over seeds, with its 95% interval at each step for three or more."


def overlay_panels(groups: Sequence[ConfigGroup]) -> list[Panel]:
    """The panels of several runs: each run's curve, and means over seeds.

    Runs with one configuration have one color; their curves are faint beside the mean.
    """
    # A panel for each curve that runs share: by its panel's name and its label.
    panels: dict[tuple[str, str], Panel] = {}
    for color, group in enumerate(groups):
        seeds = group.independent
        averaged: dict[tuple[str, str], list[Curve]] = {}
        for run in group.runs:
            for panel in run_panels(run)[0]:
                every = panel.name in _ALL_CURVES
                for curve in panel.curves if every else panel.curves[:1]:
                    key = (panel.name, curve.label)
                    if key not in panels:
                        panels[key] = _empty_panel(panel, curve, len(panels) + 1)
                    plain = dataclasses.replace(curve, low=None, high=None, color=color)
                    label, faint = f"{group.name}: {run.name}", len(seeds) > 1
                    panels[key].curves.append(
                        dataclasses.replace(plain, label=label, faint=faint)
                    )
                    if run in seeds:
                        averaged.setdefault(key, []).append(curve)
        for key, curves in averaged.items():
            if len(curves) > 1:
                panels[key].curves.append(
                    _mean_curve(group.name, curves, color, panels[key].unit)
                )
                panels[key] = dataclasses.replace(panels[key], note=_NOTE)
    return list(panels.values())


def _empty_panel(panel: Panel, curve: Curve, number: int) -> Panel:
    """A panel for one curve of a run's panel, with a unique name."""
    title = panel.title if len(panel.curves) == 1 else f"{panel.title}: {curve.label}"
    name = f"{panel.name}-{number}"
    return dataclasses.replace(panel, name=name, title=title, curves=[], note="")


def _mean_curve(name: str, curves: list[Curve], color: int, unit: str) -> Curve:
    """The mean at the steps that all curves have, with its interval."""
    interval = share_interval if unit == "share" else mean_interval
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = [
        step
        for step in curves[0].steps
        if all(table.get(step) is not None for table in tables)
    ]
    columns = [[table[step] or 0.0 for table in tables] for step in steps]
    band = len(curves) > 2  # The interval of two seeds is wider than any plot.
    known = [x for x in map(interval, columns) if x is not None]
    return Curve(
        f"{name}: mean of {len(curves)} seeds",
        steps,
        [float(np.mean(column)) for column in columns],
        [low for low, _ in known] if band else None,
        [high for _, high in known] if band else None,
        color,
        dots=curves[0].dots,
    )
