"""Runs grouped by configuration: those that differ in the seed alone."""

import dataclasses
import string
from collections.abc import Sequence

from ..read import Run, SEED_KEYS


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


def run_labels(runs: Sequence[Run]) -> list[str]:
    """The runs' directory names, or their full paths if two share a name."""
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return names if unique else [str(run.path) for run in runs]
