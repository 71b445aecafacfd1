"""Runs grouped by configuration, and compared over their seeds."""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..read.run import Run, SEED_KEYS
from .changes import Change, Changes


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


class Seeds(NamedTuple):
    """One number for each seed: the accuracy after training, and its change."""

    after: list[float]
    gain: list[float]


def compare_seeds(
    groups: Sequence[ConfigGroup], changes: Mapping[Run, Changes]
) -> list[tuple[str, dict[str, Seeds]]]:
    """The results of each series of evaluations over the seeds of each configuration.

    **Returns:** for each series its label, and the results by the configuration's name:
    none where the protocols differ.
    """
    series: dict[tuple, dict[str, list[Change]]] = {}
    for group in groups:
        for run in group.independent:
            for change in changes[run].measured:
                by_config = series.setdefault(change.after.series, {})
                by_config.setdefault(group.name, []).append(change)
    return [_compare(by_config) for by_config in series.values()]


def _compare(by_config: Mapping[str, list[Change]]) -> tuple[str, dict[str, Seeds]]:
    every = [change.after for changes in by_config.values() for change in changes]
    if len({evaluation.protocol for evaluation in every}) > 1:
        return every[0].label, {}
    seeds = {
        name: Seeds(
            after=[change.after.accuracy.value for change in changes],
            gain=[change.difference for change in changes],
        )
        for name, changes in by_config.items()
    }
    return every[0].label, seeds
