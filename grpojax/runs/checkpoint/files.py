"""The checkpoints in a directory: listed, verified, replaced and pruned.

Only a directory that is named by a step and holds files of a checkpoint counts as one.
Anything else in the directory is neither counted nor deleted.
"""

import json
import math
import re
import shutil
from pathlib import Path

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

    **Arguments:**

    - `directory`: of checkpoints.
    - `max_step`: ignores checkpoints of later steps.

    **Returns:** its step, or `None`; and a sentence for each later one that is damaged.
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
    """The configuration in the last checkpoint that holds an intact one.

    Reads no arrays: only the configuration's checksum is verified.

    **Returns:** the text that `Checkpoints.save` was given; `None` without checkpoints.
    """
    for step in reversed(steps(directory)):
        if manifest.verify(directory / str(step), [CONFIG]) is None:
            return (directory / str(step) / CONFIG).read_text(encoding="utf-8")
    return None


def begin(directory: Path, step: int) -> Path:
    """An empty directory in which to write a checkpoint; `publish` completes it."""
    directory.mkdir(parents=True, exist_ok=True)
    _remove_temporary(directory)
    unfinished = unfinished_path(directory, step)
    _move_aside(unfinished)
    (unfinished / FILES).mkdir(parents=True)
    return unfinished


def unfinished_path(directory: Path, step: int) -> Path:
    """Where a checkpoint is written before it is published."""
    return directory / f"{step}{_UNFINISHED}"


def publish(directory: Path, step: int) -> None:
    """Gives a complete checkpoint its name, in place of a damaged one."""
    path = directory / str(step)
    if _is_checkpoint(path):
        path.rename(path.with_name(path.name + _DISCARDED))
    _move_aside(path)
    unfinished_path(directory, step).rename(path)


def prune(directory: Path, step: int, *, keep_last: int | None, keep_best: int) -> None:
    """Deletes all but the last and the best checkpoints.

    **Arguments:**

    - `directory`: of checkpoints.
    - `step`: of the checkpoint that was just written and read back: it is kept, and
        later ones, which the run has not written, are neither counted nor deleted.
    - `keep_last`: how many of the last ones are kept; `None` for all.
    - `keep_best`: how many of those with the highest scores are kept besides.
    """
    candidates = [
        other
        for other in steps(directory)
        if other <= step and (directory / str(other) / manifest.MANIFEST).is_file()
    ]
    scores = {other: _score(directory / str(other)) for other in candidates}
    ranked = sorted(candidates, key=lambda other: (scores[other], other))
    best = ranked[-keep_best:] if keep_best > 0 else []
    kept = {other for other in best if scores[other] > -math.inf}
    kept |= set(candidates if keep_last is None else candidates[-keep_last:])
    for other in set(candidates) - kept - {step}:
        path = directory / str(other)
        # Renamed first: a half deleted directory must not count as a checkpoint.
        path.rename(path.with_name(path.name + _DISCARDED))
    _remove_temporary(directory)


def _is_checkpoint(path: Path) -> bool:
    if not re.fullmatch("0|[1-9][0-9]*", path.name) or not path.is_dir():
        return False
    # Any of them: one that has lost its manifest is a damaged checkpoint.
    return any((path / name).exists() for name in (manifest.MANIFEST, CONTENTS, STATE))


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
    number = 1
    while (aside := path.with_name(f"{path.name}.moved-{number}")).exists():
        number += 1
    path.rename(aside)


def _score(path: Path) -> float:
    """A checkpoint's score; minus infinity without one, or if it cannot be read."""
    try:
        score = json.loads((path / CONTENTS).read_bytes())["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf
    return score if isinstance(score, int | float) else -math.inf
