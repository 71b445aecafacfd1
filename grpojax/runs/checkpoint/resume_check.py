"""Whether a run may be resumed with a configuration."""

import fnmatch
from collections.abc import Mapping

from ..io.tables import flatten


# Keys that do not change what is computed: length, logging and devices of a run.
_FREE = [
    *("run.steps", "steps", "log.every", "checkpoint.*", "tracking.*", "health.*"),
    *("mesh.*", "actors", "actors.*", "distributed.*", "run.compile_cache"),
]
_OF_ALL_STEPS = ("linear", "cosine")
_ABSENT = "(absent)"


_WORDS = {
    "model": "the weights that it starts from (model.path)",
    "data": "the problems that are trained on, or their prompts and end tokens",
    "columns": "the columns of the rows that reward functions read",
    "evaluation": "the held-out problems, or their prompts and end tokens",
}


def check_digests(old: object, new: Mapping[str, object]) -> None:
    """Checks that the model and the data are those that the run was started with.

    **Arguments:**

    - `old`: fingerprints in a checkpoint, by what they are of; those of older versions
        have none.
    - `new`: those of now.

    **Raises:** `ValueError` that says what has changed.
    """
    changed = [
        f"{_WORDS.get(name, name)} ({value} then, {new.get(name, 'none')} now)"
        for name, value in (old.items() if isinstance(old, Mapping) else ())
        if value != new.get(name)
    ]
    if changed:
        raise ValueError(
            "A run is resumed with the model and the data that it was started with, so "
            f"that it computes what it would have. Changed: {'; '.join(changed)}. "
            "Restore the files, or start another run with --from."
        )


def check_resumable(
    old: Mapping[str, object],
    new: Mapping[str, object],
    *,
    where: str = "it",
) -> None:
    """Checks that a configuration is compatible with that of the run to resume.

    A learning rate that decays until the last step depends on the number of steps: with
    `optimizer.schedule` linear or cosine, `run.steps` must not change either.

    **Arguments:**

    - `old`: the configuration of the run, nested.
    - `new`: the one to resume with, nested.
    - `where`: what the old one was read from, for the message.

    **Raises:** `ValueError` that names each changed key, with both values.
    """
    before, now = flatten(old, lists=True), flatten(new, lists=True)
    of_all_steps = now.get("optimizer.schedule") in _OF_ALL_STEPS
    free = [key for key in _FREE if not (of_all_steps and key == "run.steps")]
    changed = [
        f"`{key}` was {before.get(key, _ABSENT)!r} and is {now.get(key, _ABSENT)!r}"
        for key in {**before, **now}
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in free)
    ]
    if changed:
        raise ValueError(
            "A run is resumed with the configuration that it was started with, as "
            f"{where} records it, so that it computes what it would have. "
            f"{'; '.join(changed)}: set these back, or start another run."
        )
