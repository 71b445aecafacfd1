"""Which keys of a recipe may change when a run is resumed."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from ..io.tables import flatten
from .load import Section


FREE = (
    *("run.steps", "log.every", "checkpoint.*", "tracking.*", "guard.*"),
    *("mesh.*", "distributed.*"),
)
"""What says how long a run is, how it is watched and where it is computed."""

_ABSENT = "(absent)"


def check_recipe(
    old: Section | Mapping[str, object],
    new: Section | Mapping[str, object],
    free: Sequence[str] = FREE,
) -> None:
    """Refuses to go on with a recipe that computes something else.

    A learning rate that falls until the last step depends on how many there are: unless
    `optimizer.schedule` is constant, `run.steps` must not change either.

    **Arguments:**

    - `old`: the recipe that the run began with: sections within sections, as a
        dataclass or as mappings, whose keys may also be full names.
    - `new`: the one to go on with.
    - `free`: keys that may change, as patterns: `log.*`.

    **Raises:** `ValueError` that names each key, what it was and what it is.
    """
    before, now = _flat(old), _flat(new)
    if now.get("optimizer.schedule", "constant") != "constant":
        free = [key for key in free if key != "run.steps"]
    changed = [
        f"`{key}` was {before.get(key, _ABSENT)!r} and is {now.get(key, _ABSENT)!r}"
        for key in {**before, **now}
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in free)
    ]
    if changed:
        raise ValueError(
            "A run is resumed with the recipe it began with, so that it computes what "
            f"it would have. {'; '.join(changed)}: set these back, or start another "
            "run."
        )


def _flat(recipe: Section | Mapping[str, object]) -> dict[str, object]:
    return flatten(
        recipe if isinstance(recipe, Mapping) else dataclasses.asdict(recipe)
    )
