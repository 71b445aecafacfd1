"""Runs grouped by configuration, and compared over their seeds."""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from statistics import fmean

from ..read.run import Run, SEED_KEYS
from ..text.numbers import setting_text
from .changes import Change, Changes
from .intervals import Interval, mean_interval, share_interval, welch


_MAX_NAME = 60  # Characters.


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
    """Groups runs by configuration, in the given order, named by what differs.

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
    members = list(groups.values())
    names = _names([x[0] for x in members])
    return [ConfigGroup(*x) for x in zip(names, members, strict=True)]


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that differ, with their value in each run."""
    found = {}
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = [
            setting_text(run.settings[key]) if key in run.settings else "-"
            for run in runs
        ]
        if key not in SEED_KEYS and len(set(values)) > 1:
            found[key] = values
    return found


def _names(runs: Sequence[Run]) -> list[str]:
    """A name for each of several configurations: the settings that differ.

    Where these are too many or too long for a name, it begins with a letter.
    """
    different = differences(runs)
    last = [key.rpartition(".")[2] for key in different]
    short = [
        x if last.count(x) == 1 else key for key, x in zip(different, last, strict=True)
    ]
    columns = list(zip(short, different.values(), strict=True))
    names = [", ".join(f"{key}={x[i]}" for key, x in columns) for i in range(len(runs))]
    if all(0 < len(name) <= _MAX_NAME for name in names):
        return names
    letters = string.ascii_uppercase
    made = (letters[i] if i < len(letters) else f"C{i + 1}" for i in range(len(runs)))
    cut = [name[:_MAX_NAME] + "..." * (len(name) > _MAX_NAME) for name in names]
    return [f"{x}: {y}" if y else x for x, y in zip(made, cut, strict=True)]


@dataclasses.dataclass(frozen=True)
class Seeds:
    """The results of one series of evaluations over the seeds of a configuration.

    **Fields:**

    - `after`: the measure after training, by seed.
    - `gain`: its change.
    - `is_share`: whether it is a share, and no reward.
    """

    after: dict[str, float]
    gain: list[float]
    is_share: bool

    @property
    def values(self) -> list[float]:
        """The measure after training of each seed."""
        return list(self.after.values())

    @property
    def interval(self) -> Interval | None:
        """The 95% interval of its mean over all seeds."""
        return (share_interval if self.is_share else mean_interval)(self.values)

    @property
    def gain_interval(self) -> Interval | None:
        """The 95% interval of the mean change."""
        return self._within(mean_interval(self.gain))

    def minus(self, other: "Seeds") -> tuple[float, Interval | None, str]:
        """The mean difference to another configuration, its interval, and the method.

        Runs with the same seed are pairs, if one of the two has no other seeds.
        """
        common = [x for x in self.after if x in other.after and x != repr(None)]
        if 2 <= len(common) == min(len(self.after), len(other.after)):
            gaps = [self.after[x] - other.after[x] for x in common]
            method = f"paired by seed, over {len(common)} seeds"
            return fmean(gaps), self._within(mean_interval(gaps)), method
        difference = fmean(self.values) - fmean(other.values)
        interval = self._within(welch(other.values, self.values))
        return difference, interval, "Welch's, over seeds"

    def _within(self, interval: Interval | None) -> Interval | None:
        if interval is None or not self.is_share:
            return interval
        return max(interval[0], -1.0), min(interval[1], 1.0)


def compare_seeds(
    groups: Sequence[ConfigGroup], changes: Mapping[Run, Changes]
) -> list[tuple[str, dict[str, Seeds]]]:
    """The results of each series of evaluations over the seeds of each configuration.

    **Returns:** for each series its label, and the results by the configuration's name:
    none where the protocols differ.
    """
    series: dict[tuple, dict[str, dict[str, Change]]] = {}
    for group in groups:
        for run in group.independent:
            for change in changes[run].measured:
                by_config = series.setdefault(change.after.series, {})
                by_config.setdefault(group.name, {})[repr(run.seed)] = change
    return [_compare(by_config) for by_config in series.values()]


def _compare(
    by_config: Mapping[str, Mapping[str, Change]],
) -> tuple[str, dict[str, Seeds]]:
    every = [x.after for changes in by_config.values() for x in changes.values()]
    if len({evaluation.protocol for evaluation in every}) > 1:
        return every[0].label, {}
    seeds = {
        name: Seeds(
            after={seed: x.after.measure.value for seed, x in changes.items()},
            gain=[x.difference for x in changes.values()],
            is_share=every[0].is_share,
        )
        for name, changes in by_config.items()
    }
    return every[0].label, seeds
