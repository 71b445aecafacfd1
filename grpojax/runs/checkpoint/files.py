"""The checkpoints in a directory: listed, verified, replaced and pruned.

Only a directory that is named by a step and holds files of a checkpoint counts as one.
Anything else in the directory is neither counted nor deleted.
"""

import itertools
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..io import run_directory
from . import manifest


STATE = "state"
CONFIG = "recipe.yaml"
CONTENTS = "contents.json"
FILES = "files"

_UNFINISHED = ".unfinished"
_DISCARDED = ".discarded"
_TEMPORARY = re.compile(f"[0-9]+({re.escape(_UNFINISHED)}|{re.escape(_DISCARDED)})")


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, intact or not, in order."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if _is_checkpoint(path)]
    return sorted(map(int, names))


def last_intact(
    directory: Path, max_step: int | None = None
) -> tuple[int | None, tuple[str, ...]]:
    """The last checkpoint whose files match their checksums.

    **Returns:** its step, or `None`; and a sentence for each later one that is damaged.
    Checkpoints of steps above `max_step` are ignored.
    """
    problems = []
    for step in reversed(steps(directory)):
        if max_step is not None and step > max_step:
            continue
        problem = manifest.verify(directory / str(step))
        if problem is None:
            return step, tuple(problems)
        problems.append(f"The checkpoint of step {step} cannot be used: {problem}.")
    return None, tuple(problems)


def saved_config(directory: Path) -> str | None:
    """The configuration in the last checkpoint that holds an intact one, if any.

    Reads no arrays: only the configuration's checksum is verified.
    """
    for step in reversed(steps(directory)):
        if manifest.verify(directory / str(step), [CONFIG]) is None:
            return (directory / str(step) / CONFIG).read_text(encoding="utf-8")
    return None


def find_run(path: Path) -> Path | None:
    """The run that a path leads to, or whose checkpoint it leads to, if any."""
    inside = path.parent.name == run_directory.CHECKPOINTS
    run = path.parent.parent if inside else path
    return run if (run / run_directory.CONFIG).is_file() else None


def saved_contents(directory: Path) -> dict[str, object]:
    """What contents.json of the last checkpoint that holds an intact one says.

    Empty if there is none. Reads no arrays, as `saved_config`.
    """
    for step in reversed(steps(directory)):
        if manifest.verify(directory / str(step), [CONTENTS]) is None:
            return json.loads((directory / str(step) / CONTENTS).read_bytes())
    return {}


def begin(directory: Path, step: int) -> None:
    """Makes an empty directory at `unfinished_path`, to be completed by `publish`."""
    directory.mkdir(parents=True, exist_ok=True)
    _remove_temporary(directory)
    _move_aside(unfinished_path(directory, step))
    (unfinished_path(directory, step) / FILES).mkdir(parents=True)


def unfinished_path(directory: Path, step: int) -> Path:
    """Where a checkpoint is written before it is published."""
    return directory / f"{step}{_UNFINISHED}"


def publish(directory: Path, step: int) -> None:
    """Gives a complete checkpoint its name, in place of a damaged one."""
    path = directory / str(step)
    if _is_checkpoint(path):
        _discard(path)
    else:
        _move_aside(path)
    unfinished_path(directory, step).rename(path)


def prune(
    directory: Path,
    step: int,
    keep_last: int | None,
    keep_best: int,
    known: Mapping[int, float] | None = None,
) -> None:
    """Deletes all but the last and the best checkpoints.

    The best have the highest scores: those they were saved with, or those `known` now.

    That of `step` was just written and read back: it is kept, and later ones, which the
    run has not written, are neither counted nor deleted.
    """
    candidates = [
        other
        for other in steps(directory)
        if other <= step and (directory / str(other) / manifest.MANIFEST).is_file()
    ]
    scores = [
        (_score(directory / str(x)) if known is None else known.get(x), x)
        for x in candidates
    ]
    ranked = sorted((score, other) for score, other in scores if score is not None)
    best = {other for _, other in ranked[::-1][:keep_best]}
    for other in set(candidates) - {step, *best, *candidates[::-1][:keep_last]}:
        _discard(directory / str(other))
    _remove_temporary(directory)


def _is_checkpoint(path: Path) -> bool:
    if not re.fullmatch("0|[1-9][0-9]*", path.name) or not path.is_dir():
        return False
    # Any of them: one that has lost its manifest is a damaged checkpoint.
    return any((path / name).exists() for name in (manifest.MANIFEST, CONTENTS, STATE))


def _discard(path: Path) -> None:
    """Renames a checkpoint, to be deleted: one that is half deleted must not count."""
    path.rename(path.with_name(path.name + _DISCARDED))


def _remove_temporary(directory: Path) -> None:
    """Deletes the directories that an interrupted save or pruning left."""
    for path in directory.iterdir():
        is_directory = path.is_dir() and not path.is_symlink()
        if is_directory and _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path)


def _move_aside(path: Path) -> None:
    """Renames what has a checkpoint's name and is none, such as a person's folder."""
    if not path.exists():
        return
    names = (f"{path.name}.moved-{number}" for number in itertools.count(1))
    path.rename(next(x for x in map(path.with_name, names) if not x.exists()))


def _score(path: Path) -> float | None:
    """A checkpoint's score; `None` without one, or if it cannot be read."""
    try:
        score = json.loads((path / CONTENTS).read_bytes())["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return score if isinstance(score, int | float) else None
