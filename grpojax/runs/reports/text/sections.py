"""The sections of a report: which templates they are, with which values."""

from collections.abc import Sequence

from ..analysis.changes import Changes, measure_changes
from ..analysis.seeds import compare_seeds, ConfigGroup, differences
from ..panels.panels import Panel
from ..read.evaluations import table_rows
from ..read.run import Run
from .configuration import summary
from .markdown import render


_INTERRUPTED = ("failed", "stopped", "preempted")
_ROUTINE = ("start", "checkpoint", "finish")
_MAX_EVENTS = 20


def overview(run: Run, changes: Changes) -> str:
    """The text above the curves of one run."""
    recorded = run.number("steps")
    after = run.number("accuracy_after")
    made = [x for x in run.evaluations if x.is_share and x.step == run.last_step]
    last = [x.measure.value for x in made]
    agrees = after is None or any(abs(after - value) <= 1e-9 for value in last)
    events = [event for event in run.events if event.kind not in _ROUTINE]
    return render(
        "run.md",
        run=run,
        evaluations=table_rows(run.evaluations),
        summary=summary(run),
        interrupted=_INTERRUPTED,
        recorded_steps=run.steps or 0 if recorded is None else int(recorded),
        changes=changes,
        contradicted=None if agrees else after,
        kinds=[event.kind for event in run.events],
        events=events[-_MAX_EVENTS:],
    )


def comparison(runs: Sequence[Run], groups: Sequence[ConfigGroup]) -> str:
    """The text above the curves of several runs."""
    changes = {run: measure_changes(run) for run in runs}
    return render(
        "comparison.md",
        runs=runs,
        groups=groups,
        summaries=[summary(group.runs[0]) for group in groups],
        seeds={repr(run.seed) for run in runs},
        differences=differences([group.runs[0] for group in groups]),
        comparisons=compare_seeds(groups, changes),
        changes=changes,
    )


def figures(panels: Sequence[Panel], folder: str) -> str:
    """A figure for each panel, from SVG files in `folder`, under section headings."""
    return render("figures.md", panels=panels, folder=folder)


def appendix(
    run: Run, panels: Sequence[Panel], missing: Sequence[str], *, completions: bool
) -> str:
    """The numbers of a run, the panels without any, and every setting.

    **Arguments:**

    - `completions`: whether to show some of the last logged step.
    """
    curves = [
        (panel.title, x.label, x.values) for panel in panels for x in panel.curves
    ]
    numbers = [
        (title, label, known)
        for title, label, values in curves
        if (known := [x for x in values if x is not None])
    ]
    group = run.completions[-1] if completions and run.completions else None
    return render("appendix.md", numbers=numbers, missing=missing, group=group, run=run)
