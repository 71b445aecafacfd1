"""Checkpoints: a train state on disk, whole or not at all, and equal to the last bit.

A checkpoint is a directory named by its step:

    state/          the state's arrays, as orbax writes them: a tree of their paths
    recipe.yaml     the recipe it belongs to
    contents.json   the step, a score, what the caller added, each array's shape and dtype
    files/          copies of small files that must agree with the state
    manifest.json   a checksum of every other file; written last

It is written beside its place and renamed when it is complete and on the disk.
"""

import concurrent.futures
import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import orbax.checkpoint as ocp

from ..types import TrainState
from ._sealing import problem_with, seal
from ._writing import explained, sync_directory, write_json


_UNFINISHED = ".unfinished"
_DISCARDED = ".discarded"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state from disk, and what was found on the way to it.

    **Fields:**

    - `state`: equal to the one that was saved, to the last bit.
    - `step`: after which it was saved.
    - `recipe`: the YAML it was saved with.
    - `metadata`, `files`: what `save` was given under these names.
    - `problems`: a sentence for each later checkpoint that could not be used.
    """

    state: TrainState
    step: int
    recipe: str
    metadata: Mapping[str, object]
    files: Mapping[str, bytes]
    problems: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run, of which the last and the best are kept.

    Nothing is written before the first `save`. One process writes and reads them: a
    state that is spread over several processes is refused.

    **Arguments:**

    - `directory`: where they go; it need not exist.
    - `keep_last`: so many of the last ones are kept; `None`: all.
    - `keep_best`: so many of those with the greatest scores are kept besides.
    - `in_background`: `save` returns when the state was copied to the host, and the
        rest happens beside the next steps.

    !!! example

        ```python
        with Checkpoints("run/checkpoints", keep_last=2) as checkpoints:
            checkpoints.save(20, state, recipe=recipes.dump(recipe))
            checkpoints.wait()
            restored = checkpoints.restore(like=state)
        ```
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int | None = 2,
        keep_best: int = 0,
        in_background: bool = True,
    ):
        if keep_last is not None and keep_last < 1:
            raise ValueError(
                "At least the last checkpoint must be kept, or there is none to go on "
                f"from. Received keep_last={keep_last}: use 1 or more, or None."
            )
        if keep_best < 0:
            raise ValueError(
                f"keep_best must not be negative. Received {keep_best}: use 0 or more."
            )
        if jax.process_count() > 1:
            raise ValueError(
                "Checkpoints are written by one process. Received a run of "
                f"{jax.process_count()}: start one process."
            )
        self._directory = Path(directory)
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._in_background = in_background
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, good or not, in order."""
        if not self._directory.is_dir():
            return []
        names = (entry.name for entry in self._directory.iterdir())
        return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        recipe: str,
        metadata: Mapping[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
        score: float | None = None,
    ) -> None:
        """Saves a state; its memory may be donated as soon as this returns.

        A good checkpoint of that step is left as it is: a run has one state at a step.

        **Arguments:**

        - `step`: after which the state was taken.
        - `recipe`: the run's, as `recipes.dump` writes it.
        - `metadata`: anything that JSON has.
        - `files`: contents by name, such as `RunDirectory.journals()`.
        - `score`: greater is better; without one it is never among the best.

        **Raises:** `OSError` if this one, or in the background the one before, could not
        be written; all earlier ones are as they were.
        """
        self.wait()
        place = self._directory / str(step)
        if place.exists() and problem_with(place) is None:
            return
        arrays = _arrays(state)
        contents = {
            "step": step,
            "score": None if score is None or math.isnan(score) else score,
            "metadata": dict(metadata or {}),
            "leaves": {name: _describe(leaf) for name, leaf in arrays.items()},
        }
        # Now, not in the background: the next step takes the memory over.
        values = {name: _to_host(leaf) for name, leaf in arrays.items()}
        write = self._writer.submit(
            self._write, place, values, contents, recipe, dict(files or {})
        )
        self._writing = write
        if not self._in_background:
            self.wait()

    def wait(self) -> None:
        """Waits until what was saved is on the disk.

        **Raises:** `OSError` if it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits, and writes no more."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def restore(self, like: TrainState, *, until: int | None = None) -> Restored:
        """The last good state.

        **Arguments:**

        - `like`: a state of the run, such as `grpojax.init` makes: its structure,
            shapes, dtypes, places and everything in it that is no array.
        - `until`: no later step than this one.

        **Raises:** `FileNotFoundError` if there is no checkpoint, `OSError` that names
        what is wrong with each if none is good, `ValueError` that names the first array
        that differs if it is of another model, optimizer or reference.
        """
        self.wait()
        steps = [step for step in self.steps() if until is None or step <= until]
        if not steps:
            raise FileNotFoundError(
                f"A run is continued from a checkpoint. {os.fspath(self._directory)!r} "
                "holds none that is complete: start the run anew."
            )
        problems = []
        for step in reversed(steps):
            place = self._directory / str(step)
            problem = problem_with(place)
            if problem is None:
                return _read(place, like, tuple(problems))
            problems.append(f"The checkpoint of step {step} cannot be used: {problem}.")
        raise OSError(
            f"None of the checkpoints in {os.fspath(self._directory)!r} is good. "
            f"{' '.join(problems)} Bring one back from a copy, or start the run anew."
        )

    def _write(
        self,
        place: Path,
        values: dict[str, np.ndarray],
        contents: dict[str, object],
        recipe: str,
        files: dict[str, bytes],
    ) -> None:
        unfinished = place.with_name(place.name + _UNFINISHED)
        kept = [step for step in self.steps() if str(step) != place.name]
        last = f"The checkpoint of step {kept[-1]} is kept" if kept else "There is none"
        with explained(f"the checkpoint of step {place.name}", place, last):
            self._sweep()
            (unfinished / "files").mkdir(parents=True)
            with ocp.PyTreeCheckpointer(use_compression=False) as writer:
                filled = {name: x for name, x in values.items() if x.size}
                writer.save(unfinished.absolute() / "state", filled)
            (unfinished / "recipe.yaml").write_text(recipe, encoding="utf-8")
            write_json(unfinished / "contents.json", contents)
            for name, content in files.items():
                (unfinished / "files" / name).write_bytes(content)
            seal(unfinished)
            if place.exists():
                place.rename(place.with_name(place.name + _DISCARDED))
            unfinished.rename(place)
            sync_directory(self._directory)
        self._prune()

    def _sweep(self) -> None:
        """Removes what an interrupted `save` left."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for entry in self._directory.iterdir():
            if entry.name.endswith((_UNFINISHED, _DISCARDED)):
                shutil.rmtree(entry)

    def _prune(self) -> None:
        steps = self.steps()
        scores = {step: _score(self._directory / str(step)) for step in steps}
        ranked = sorted(steps, key=lambda step: (scores[step], step))
        best = ranked[len(steps) - self._keep_best :] if self._keep_best else []
        kept = {step for step in best if scores[step] > -math.inf}
        kept |= set(steps if self._keep_last is None else steps[-self._keep_last :])
        for step in set(steps) - kept:
            place = self._directory / str(step)
            place.rename(place.with_name(place.name + _DISCARDED))
        self._sweep()


def _arrays(state: TrainState) -> dict[str, jax.Array | np.ndarray]:
    """All arrays of a state by their paths, such as `policy/layers/0/weight`."""
    return {
        _name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if isinstance(leaf, jax.Array | np.ndarray)
    }


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _describe(leaf: jax.Array | np.ndarray) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _is_key(leaf: jax.Array | np.ndarray) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    value = np.asarray(jr.key_data(leaf) if _is_key(leaf) else leaf)
    # On a CPU that is the device's memory, seen through.
    return value if value.flags.owndata else value.copy()


def _to_device(value: np.ndarray, like: jax.Array | np.ndarray):
    if isinstance(like, np.ndarray):
        return value
    if _is_key(like):
        return jr.wrap_key_data(value, impl=jr.key_impl(like))
    return jax.device_put(value, like.sharding if like.committed else None)


def _score(place: Path) -> float:
    """A checkpoint's score; minus infinity without one, or if it cannot be read."""
    try:
        score = json.loads((place / "contents.json").read_bytes())["score"]
    except (OSError, ValueError, KeyError):
        return -math.inf
    return -math.inf if score is None else score


def _read(place: Path, like: TrainState, problems: tuple[str, ...]) -> Restored:
    """Reads a checkpoint whose checksums are right."""
    contents = json.loads((place / "contents.json").read_text(encoding="utf-8"))
    arrays = _arrays(like)
    _check_fits(place.name, contents["leaves"], arrays)
    with ocp.PyTreeCheckpointer() as reader:
        values = reader.restore(place.absolute() / "state")

    def restore(name: str, leaf: jax.Array | np.ndarray):
        # Of an array without elements orbax keeps nothing.
        return _to_device(values[name], leaf) if leaf.size else leaf

    restored = {name: restore(name, leaf) for name, leaf in arrays.items()}
    state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: restored.get(_name(path), leaf), like
    )
    return Restored(
        state=state,
        step=contents["step"],
        recipe=(place / "recipe.yaml").read_text(encoding="utf-8"),
        metadata=contents["metadata"],
        files={path.name: path.read_bytes() for path in (place / "files").iterdir()},
        problems=problems,
    )


def _check_fits(
    step: str, saved: Mapping[str, str], arrays: Mapping[str, jax.Array | np.ndarray]
) -> None:
    here = {name: _describe(leaf) for name, leaf in arrays.items()}
    for name in [*here, *saved]:
        if saved.get(name) != here.get(name):
            raise ValueError(
                "A checkpoint fits the model, optimizer and reference that it was "
                f"saved from. In that of step {step}, `{name}` is "
                f"{saved.get(name, 'missing')}; in this run it is "
                f"{here.get(name, 'missing')}: this is the wrong model for the "
                "checkpoint, or its optimizer or reference changed. Continue with the "
                "recipe that the run began with."
            )
