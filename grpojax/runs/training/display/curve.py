"""Curves of a run."""

import os
from collections.abc import Mapping, Sequence


Measured = tuple[float, tuple[float, float]]
"""An accuracy and its interval."""


def plot_curve(
    path: str | os.PathLike[str],
    records: Sequence[Mapping[str, float | int]],
    *,
    before: Measured | None = None,
    after: Measured | None = None,
) -> None:
    """Plots reward and accuracy per step, with held-out accuracy before and after."""
    # Slow to import, and of use only here. A `Figure` of its own needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [record["step"] for record in records]
    for name, label, style in (
        ("reward", "reward", "-"),
        ("rewards/correct/mean", "accuracy, training problems", "--"),
    ):
        if records and name in records[0]:
            values = [record[name] for record in records]
            axes.plot(steps, values, style, label=label)
    ends = ((0, before, "before"), (max(steps, default=0), after, "after"))
    for step, measured, when in ends:
        if measured is not None:
            accuracy, (low, high) = measured
            axes.errorbar(
                step,
                accuracy,
                [[accuracy - low], [high - accuracy]],
                fmt="o",
                capsize=4,
                label=f"held-out accuracy {when}: {accuracy:.1%}",
            )
    axes.set_xlabel("step")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=150)
