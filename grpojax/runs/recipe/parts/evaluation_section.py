"""The section `evaluations` of a recipe: evaluations by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..kinds import (
    Arguments,
    check,
    check_ranges,
    kinds_of,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    unknown_key,
)


DEFAULT = "held_out"
"""The evaluation that a recipe has unless it is set to null."""


@dataclass(frozen=True)
class Settings:
    """One evaluation: its problems, how they are sampled and judged, and when."""

    data: object = None  # Keys of `data` that differ; null: the problems of `data`.
    split: Literal["held_out", "train"] = "held_out"
    problems: NonNegativeInt | None = 512  # null: all of them; 0: no evaluation.
    max_problems: PositiveInt | None = None  # Upper limit on problems.
    samples: PositiveInt = 1  # Completions of each.
    temperature: NonNegativeFloat = 1.0  # 0: greedy.
    top_k: PositiveInt | None = None
    top_p: PositiveFloat | None = None
    min_p: NonNegativeFloat | None = None
    # null: the environment's rewards; run: those of the section `reward`; or a mapping
    # with the keys of that section.
    reward: object = None
    success: str | None = None  # The reward that is 1 if right; null: correct, if any.
    measures: object = None  # Measures of answers; null: those of the task, if any.
    every: PositiveInt | None = None  # Steps between two; null: none meanwhile.
    at_start: bool = True
    at_end: bool = True
    average: bool = False  # Of the weights in a run, as `average` says; or the policy.

    @property
    def limit(self) -> int | None:
        """How many problems there are at most; `None` for all."""
        limits = [x for x in (self.problems, self.max_problems) if x is not None]
        return min(limits, default=None)


def _defaults() -> Arguments:
    return Arguments({DEFAULT: vars(Settings())})


@dataclass(frozen=True)
class Evaluations(Section):
    """Evaluations by name, each with the keys of `Settings`; null removes one.

    The first one sums up the run.
    """

    arguments: Arguments = field(default_factory=_defaults)

    @property
    def settings(self) -> dict[str, Settings]:
        """The settings of those that are not removed."""
        given = self.arguments.items()
        return {name: Settings(**x) for name, x in given if x is not None}

    def with_arguments(
        self, given: Mapping[str, object], environment: Mapping[str, str]
    ) -> "Evaluations":
        """The section with evaluations that are added, changed or removed."""
        merged = dict(self.arguments)
        for name, changes in given.items():
            merged[name] = None
            if changes is not None:
                before = self.arguments.get(name) or vars(Settings())
                merged[name] = {**before, **_checked(name, changes, environment)}
                check_ranges(f"evaluations.{name}", Settings(**merged[name]))
        return replace(self, arguments=Arguments(merged))


def _checked(
    name: str, changes: object, environment: Mapping[str, str]
) -> dict[str, object]:
    key, kinds = f"evaluations.{name}", kinds_of(Settings)
    if not isinstance(changes, Mapping):
        raise ValueError(
            f"`{key}` is an evaluation with the keys {', '.join(kinds)}. Received "
            f"{changes!r}: set one of its keys, as in {key}.samples=4, or null for no "
            "such evaluation."
        )
    checked = {}
    for field_name, value in changes.items():
        if field_name not in kinds:
            known = [f"{key}.{x}" for x in kinds]
            raise unknown_key(f"{key}.{field_name}", known, "an evaluation")
        kind = kinds[field_name]
        checked[field_name] = check(f"{key}.{field_name}", kind, value, environment)
    return checked
