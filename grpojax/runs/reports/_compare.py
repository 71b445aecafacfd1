"""Several runs: which had one recipe, what differs, and how sure that is over seeds."""

import dataclasses
import string
from collections.abc import Sequence

import numpy as np

from ._document import (
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
from ._intervals import Interval, mean_interval, welch
from ._panels import describe
from ._read import Run, written
from ._recipe import subject
from ._verdict import Change, judge, percent, percents, points


SEED = "run.seed"


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one recipe, but for the seed."""

    name: str
    runs: list[Run]

    @property
    def over_seeds(self) -> list[Run]:
        """The finished runs, one for each seed: a repeat is no further evidence."""
        finished = [run for run in self.runs if run.complete]
        return list({repr(run.seed): run for run in reversed(finished)}.values())[::-1]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Puts together what differs in nothing but the seed, in the order given."""
    found: dict[str, list[Run]] = {}
    for place, run in enumerate(runs):
        keys = sorted((key, repr(x)) for key, x in run.recipe.items() if key != SEED)
        # Of a run without a recipe nothing is known, not even that it is like another.
        found.setdefault(repr(keys or place), []).append(run)
    letters = string.ascii_uppercase
    return [
        Group(letters[i] if i < len(letters) else f"R{i + 1}", runs_)
        for i, runs_ in enumerate(found.values())
    ]


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names, or their whole paths where two have one name."""
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return names if unique else [str(run.path) for run in runs]


def comparison(runs: Sequence[Run]) -> list[Block]:
    """Everything above the curves."""
    groups = grouped(runs)
    names = dict(zip(map(id, runs), labels(runs), strict=True))
    return [
        Heading(1, f"Comparison of {len(runs)} runs"),
        *_unfinished(runs, names),
        *_differences(groups),
        *_over_seeds(groups),
        *_every_run(groups, names),
        *_flaws(runs, names),
    ]


def _unfinished(runs: Sequence[Run], names: dict[int, str]) -> list[Block]:
    lines: list[Line] = [
        [
            Strong(f"{names[id(run)]} did not finish"),
            f": its last step is {run.last_step}"
            f"{'' if run.steps is None else f' of {run.steps}'}. "
            "It is left out of every mean below.",
        ]
        for run in runs
        if not run.complete
    ]
    return [Callout("alarm", lines)] if lines else []


def _differences(groups: list[Group]) -> list[Block]:
    told = Bullets([[f"Recipe {x.name}: ", *subject(x.runs[0])] for x in groups])
    if len(groups) == 1:
        return [told, Paragraph("The runs differ in the seed alone.")]
    recipes = [group.runs[0].recipe for group in groups]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    value = lambda recipe, key: written(recipe[key]) if key in recipe else "-"
    rows = [
        [[Code(key)], *(value(recipe, key) for recipe in recipes)]
        for key in keys
        if key != SEED and len({repr(recipe.get(key)) for recipe in recipes}) > 1
    ]
    header = ["key", *(f"recipe {group.name}" for group in groups)]
    differing = Table(header, rows, texts=len(header))
    return [told, Heading(2, "What differs"), differing]


def _every_run(groups: list[Group], names: dict[int, str]) -> list[Block]:
    rows: list[list[Line]] = []
    refusals: list[Line] = []
    for group in groups:
        for run in group.runs:
            verdict = judge(run)
            of = "" if run.steps is None else f" of {run.steps}"
            state = "finished" if run.complete else "not finished"
            head = [group.name, names[id(run)], written(run.seed)]
            head.append(f"{state}, {run.last_step}{of}")
            for change in verdict.changes:
                rows.append([*head, *_cells(change)])
            if not verdict.changes:
                rows.append([*head, *["-"] * 7])
            refusals += [f"{names[id(run)]}: {text}" for text in verdict.refusals]
    header = ["recipe", "run", "seed", "steps", "evaluation", "before", "after"]
    header += ["95% interval", "n", "change, points", "95% interval"]
    told = [Bullets(refusals)] if refusals else []
    return [Heading(2, "Every run"), Table(header, rows, texts=5), *told]


def _cells(change: Change) -> list[str]:
    after = change.after.accuracy
    return [
        describe(change.after),
        percent(change.before.accuracy.value),
        percent(after.value),
        percents(after.interval),
        f"{after.n:,}",
        points(change.difference),
        _range(change.interval),
    ]


def _range(interval: Interval) -> str:
    return f"{points(interval[0])} to {points(interval[1])}"


def _over_seeds(groups: list[Group]) -> list[Block]:
    """Means over seeds of what was asked alike everywhere, and nothing else."""
    changes = {
        group.name: [
            change for run in group.over_seeds for change in judge(run).changes
        ]
        for group in groups
    }
    series = dict.fromkeys(x.after.series for found in changes.values() for x in found)
    rows: list[list[Line]] = []
    lines: list[Line] = []
    for one in series:
        alike = {
            name: [change for change in found if change.after.series == one]
            for name, found in changes.items()
        }
        some = [change for found in alike.values() for change in found]
        called = describe(some[0].after)
        if len({change.after.asked for change in some}) > 1:
            lines.append(f"{called}: not compared, the runs were asked different sets.")
            continue
        rows += [[name, called, *_mean(x)] for name, x in alike.items() if x]
        lines += _between(called, {name: x for name, x in alike.items() if x})
    for group in groups:
        left = [run for run in group.runs if run.complete]
        if len(left) > len(group.over_seeds):
            lines.append(
                f"Recipe {group.name} has runs of one seed more than once: only the "
                "first of them counts."
            )
    header = ["recipe", "evaluation", "seeds", "after", "95% t-interval"]
    header += ["change, points", "95% t-interval"]
    lines.append(
        "A t-interval over seeds covers the mean over all seeds, on the problems that "
        "these runs were judged on."
    )
    table = [Table(header, rows, texts=2)] if rows else []
    return [Heading(2, "Over seeds"), *table, Bullets(lines)]


def _mean(changes: list[Change]) -> list[Line]:
    after = [change.after.accuracy.value for change in changes]
    gained = [change.difference for change in changes]
    interval, gain = mean_interval(after), mean_interval(gained)
    return [
        str(len(changes)),
        percent(float(np.mean(after))),
        "one seed: none" if interval is None else percents(interval),
        points(float(np.mean(gained))),
        "one seed: none" if gain is None else _range(gain),
    ]


def _between(called: str, found: dict[str, list[Change]]) -> list[Line]:
    """Each recipe against the first."""
    (first, reference), *others = found.items()
    accuracy = lambda changes: [change.after.accuracy.value for change in changes]
    lines: list[Line] = []
    for name, changes in others:
        interval = welch(accuracy(reference), accuracy(changes))
        text = f"{called.capitalize()}: recipe {name} minus recipe {first}: "
        if interval is None:
            lines.append(f"{text}not known; each needs two seeds.")
            continue
        difference = float(np.mean(accuracy(changes)) - np.mean(accuracy(reference)))
        verdict = "includes" if interval[0] <= 0 <= interval[1] else "excludes"
        lines.append(
            f"{text}{points(difference)} points, 95% interval {_range(interval)} "
            f"(Welch's, over seeds): it {verdict} zero."
        )
    return lines


def _flaws(runs: Sequence[Run], names: dict[int, str]) -> list[Block]:
    lines: list[Line] = [
        f"{names[id(run)]}: {flaw.replace('`', '')}"
        for run in runs
        for flaw in run.flaws
    ]
    return [Heading(2, "What is missing"), Bullets(lines)] if lines else []
