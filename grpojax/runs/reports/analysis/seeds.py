"""Runs grouped by configuration, and compared over their seeds."""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..read.run import Run, SEED_KEYS
from .changes import Change, Changes
from .intervals import Interval, mean_interval, welch


@dataclasses.dataclass(frozen=True)
class ConfigGroup:
    """Runs whose configurations are equal except for the seed."""

    name: str
    runs: list[Run]

    @property
    def complete(self) -> list[Run]:
        """The runs that finished."""
        return [run for run in self.runs if run.complete]

    @property
    def independent(self) -> list[Run]:
        """The finished runs, the first for each seed.

        A repeated seed is no further evidence, and runs with unrecorded seeds may be
        repeats.
        """
        by_seed: dict[str, Run] = {}
        for run in self.complete:
            by_seed.setdefault(repr(run.seed), run)
        return list(by_seed.values())


def group_by_config(runs: Sequence[Run]) -> list[ConfigGroup]:
    """Groups runs by configuration, in the given order, named A, B, C...

    A run without a recorded configuration is a group of its own.
    """
    groups: dict[str, list[Run]] = {}
    for index, run in enumerate(runs):
        settings = sorted(
            (key, repr(value))
            for key, value in run.settings.items()
            if key not in SEED_KEYS
        )
        groups.setdefault(repr(settings or index), []).append(run)
    letters = string.ascii_uppercase
    return [
        ConfigGroup(letters[i] if i < len(letters) else f"C{i + 1}", members)
        for i, members in enumerate(groups.values())
    ]


class SeedMean(NamedTuple):
    """A mean over the seeds of a configuration, with its t-interval if there are two.

    **Fields:**

    - `seeds`: how many.
    - `after`, `gain`: the means of the accuracy after training and of its change.
    - `after_interval`, `gain_interval`: `None` for one seed.
    - `versus_first`: the mean `after`, less that of the first configuration.
    - `versus_interval`: Welch's, of that; `None` if one of them has one seed.
    """

    seeds: int
    after: float
    after_interval: Interval | None
    gain: float
    gain_interval: Interval | None
    versus_first: float
    versus_interval: Interval | None


class SeedComparison(NamedTuple):
    """The configurations in one series of evaluations.

    **Fields:**

    - `label`: of the evaluations.
    - `means`: by the configuration's name; empty where the protocols differ.
    """

    label: str
    means: dict[str, SeedMean]


def compare_seeds(
    groups: Sequence[ConfigGroup], changes: Mapping[Run, Changes]
) -> list[SeedComparison]:
    """The means over seeds of each series of evaluations."""
    series: dict[tuple, dict[str, list[Change]]] = {}
    for group in groups:
        for run in group.independent:
            for change in changes[run].measured:
                by_config = series.setdefault(change.after.series, {})
                by_config.setdefault(group.name, []).append(change)
    return [_compare(by_config) for by_config in series.values()]


def _compare(by_config: dict[str, list[Change]]) -> SeedComparison:
    compared = [change for changes in by_config.values() for change in changes]
    label = compared[0].after.label
    if len({change.after.protocol for change in compared}) > 1:
        return SeedComparison(label, {})
    reference = [x.after.accuracy.value for x in next(iter(by_config.values()))]
    means = {}
    for name, changes in by_config.items():
        after = [change.after.accuracy.value for change in changes]
        gains = [change.difference for change in changes]
        means[name] = SeedMean(
            seeds=len(changes),
            after=float(np.mean(after)),
            after_interval=mean_interval(after),
            gain=float(np.mean(gains)),
            gain_interval=mean_interval(gains),
            versus_first=float(np.mean(after) - np.mean(reference)),
            versus_interval=welch(reference, after),
        )
    return SeedComparison(label, means)
