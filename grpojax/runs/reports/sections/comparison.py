"""Several runs compared: their differences, means over seeds, and every result."""

from collections.abc import Sequence

import numpy as np

from ..analysis import (
    Change,
    ConfigGroup,
    group_by_config,
    mean_interval,
    measure_changes,
    run_labels,
    welch,
)
from ..document import (
    Block,
    Bullets,
    Callout,
    Code,
    Heading,
    Line,
    Paragraph,
    Strong,
    Table,
)
from ..read import Run, SEED_KEYS
from .configuration import summary
from .wording import (
    percent,
    percent_interval,
    points,
    points_interval,
    setting_text,
)


_NONE = "-"  # A cell without a value.
_ONE_SEED = "none (one seed)"


def comparison(runs: Sequence[Run]) -> list[Block]:
    """Everything above the curves."""
    groups = group_by_config(runs)
    labels = dict(zip(map(id, runs), run_labels(runs), strict=True))
    return [
        Heading(1, f"Comparison of {len(runs)} runs"),
        *_unfinished(runs, labels),
        *_differences(groups),
        *_over_seeds(groups),
        *_all_runs(groups, labels),
        *_flaws(runs, labels),
    ]


def _unfinished(runs: Sequence[Run], labels: dict[int, str]) -> list[Block]:
    lines: list[Line] = [
        [
            Strong(f"{labels[id(run)]} did not finish"),
            f": its last step is {run.progress}. It is excluded from the means below.",
        ]
        for run in runs
        if not run.complete
    ]
    return [Callout("alarm", lines)] if lines else []


def _differences(groups: list[ConfigGroup]) -> list[Block]:
    configs = [group.runs[0] for group in groups]
    summaries = Bullets([[f"Config {x.name}: ", *summary(x.runs[0])] for x in groups])
    if len(groups) == 1:
        seeds = {repr(run.seed) for run in groups[0].runs}
        same = "The runs differ only in the seed."
        if len(seeds) == 1:
            same = "The recorded settings of the runs are equal."
        return [summaries, Paragraph(same)]
    keys = dict.fromkeys(key for config in configs for key in config.settings)
    rows: list[list[Line]] = []
    for key in keys:
        cells = [
            setting_text(config.settings[key]) if key in config.settings else _NONE
            for config in configs
        ]
        if key not in SEED_KEYS and len(set(cells)) > 1:
            rows.append([[Code(key)], *cells])
    header = ["key", *(f"config {group.name}" for group in groups)]
    table = [Table(header, rows, texts=len(header))] if rows else []
    return [summaries, Heading(2, "Differences"), *table]


def _all_runs(groups: list[ConfigGroup], labels: dict[int, str]) -> list[Block]:
    rows: list[list[Line]] = []
    refusals: list[Line] = []
    for group in groups:
        for run in group.runs:
            label, changes = labels[id(run)], measure_changes(run)
            state = "finished" if run.complete else "not finished"
            seed = _NONE if run.seed is None else setting_text(run.seed)
            head = [group.name, label, seed, f"{state}, {run.progress}"]
            rows += [[*head, *_change_cells(change)] for change in changes.measured]
            if not changes.measured:
                rows.append([*head, *[_NONE] * 7])
            refusals += [f"{label}: {text}" for text in changes.refusals]
    header = ["config", "run", "seed", "steps", "evaluation", "before", "after"]
    header += ["95% interval", "n", "change, points", "95% interval"]
    bullets = [Bullets(refusals)] if refusals else []
    return [Heading(2, "All runs"), Table(header, rows, texts=5), *bullets]


def _change_cells(change: Change) -> list[Line]:
    after = change.after.accuracy
    return [
        change.after.label,
        percent(change.before.accuracy.value),
        percent(after.value),
        percent_interval(after.interval),
        f"{after.n:,}",
        points(change.difference),
        points_interval(change.interval),
    ]


def _over_seeds(groups: list[ConfigGroup]) -> list[Block]:
    """Means over seeds of the evaluations whose protocol is the same in all runs."""
    changes = {
        group.name: [
            x for run in group.independent for x in measure_changes(run).measured
        ]
        for group in groups
    }
    series = dict.fromkeys(x.after.series for found in changes.values() for x in found)
    rows: list[list[Line]] = []
    lines: list[Line] = []
    for one in series:
        by_config = {
            name: [change for change in found if change.after.series == one]
            for name, found in changes.items()
        }
        by_config = {name: found for name, found in by_config.items() if found}
        compared = [change for found in by_config.values() for change in found]
        label = compared[0].after.label
        if len({change.after.protocol for change in compared}) > 1:
            lines.append(f"{label}: not compared, the runs have different protocols.")
            continue
        rows += [[name, label, *_mean_cells(x)] for name, x in by_config.items()]
        lines += _between_configs(label, by_config)
    lines += _repeated_seeds(groups)
    header = ["config", "evaluation", "seeds", "after", "95% t-interval"]
    header += ["change, points", "95% t-interval"]
    lines.append(
        "A t-interval over seeds covers the mean over all seeds, on the problems that "
        "these runs were evaluated on."
    )
    table = [Table(header, rows, texts=2)] if rows else []
    return [Heading(2, "Over seeds"), *table, Bullets(lines)]


def _mean_cells(changes: list[Change]) -> list[Line]:
    after = [change.after.accuracy.value for change in changes]
    gains = [change.difference for change in changes]
    interval, gain = mean_interval(after), mean_interval(gains)
    return [
        str(len(changes)),
        percent(float(np.mean(after))),
        _ONE_SEED if interval is None else percent_interval(interval),
        points(float(np.mean(gains))),
        _ONE_SEED if gain is None else points_interval(gain),
    ]


def _between_configs(label: str, by_config: dict[str, list[Change]]) -> list[Line]:
    """The difference of each configuration to the first."""
    accuracies = {
        name: [change.after.accuracy.value for change in changes]
        for name, changes in by_config.items()
    }
    (first, reference), *others = accuracies.items()
    lines: list[Line] = []
    for name, values in others:
        interval = welch(reference, values)
        text = f"{label.capitalize()}: config {name} minus config {first}: "
        if interval is None:
            lines.append(f"{text}not known; each needs two seeds.")
            continue
        difference = float(np.mean(values) - np.mean(reference))
        verdict = "includes" if interval[0] <= 0 <= interval[1] else "excludes"
        lines.append(
            f"{text}{points(difference)} points, 95% interval "
            f"{points_interval(interval)} (Welch's, over seeds): it {verdict} zero."
        )
    return lines


def _repeated_seeds(groups: list[ConfigGroup]) -> list[Line]:
    lines: list[Line] = []
    for group in groups:
        if len(group.complete) == len(group.independent):
            continue
        why = "several runs with one seed"
        if any(run.seed is None for run in group.complete):
            why = "several runs without a recorded seed, which may be repeats"
        lines.append(f"Config {group.name} has {why}: only the first counts.")
    return lines


def _flaws(runs: Sequence[Run], labels: dict[int, str]) -> list[Block]:
    lines: list[Line] = [
        f"{labels[id(run)]}: {flaw.replace('`', '')}"
        for run in runs
        for flaw in run.flaws
    ]
    return [Heading(2, "Missing or damaged"), Bullets(lines)] if lines else []
