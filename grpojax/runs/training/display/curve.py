"""Curves of a run."""

import os
from collections.abc import Mapping, Sequence

import numpy as np


Accuracy = tuple[int, float, Sequence[float]]
"""A step, the accuracy after it, and its interval."""


def plot_curve(
    path: str | os.PathLike[str],
    records: Sequence[Mapping[str, float | int]],
    evaluations: Mapping[str, Sequence[Accuracy]],
) -> None:
    """Plots reward and accuracy per step, with the points of each evaluation."""
    # Slow to import, and of use only here. A `Figure` of its own needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [record["step"] for record in records]
    supervised = bool(records) and "reward" not in records[0]
    for name, label, style in (
        ("loss", "loss", "-") if supervised else ("reward", "reward", "-"),
        ("rewards/correct/mean", "accuracy, training problems", "--"),
    ):
        if records and name in records[0]:
            values = [record[name] for record in records]
            axes.plot(steps, values, style, label=label)
    for name, points in evaluations.items():
        places, values, ends = zip(*points, strict=True)
        low, high = zip(*ends, strict=True)
        bars = np.abs(np.array([low, high]) - np.array(values))
        label = f"{name}: {values[0]:.1%} to {values[-1]:.1%}"
        axes.errorbar(places, values, bars, fmt="o-", capsize=4, label=label)
    axes.set_xlabel("step")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=150)
