"""Checkpoints: a train state on disk, whole or not at all, and equal to the last bit.

A checkpoint is a directory named by its step:

    state/          the state's arrays, as orbax writes them: each process its shards;
                    of frozen weights there is only a digest, in contents.json
    recipe.yaml     the recipe it belongs to
    contents.json   the step, a score, what the caller added, and what the arrays are
    files/          copies of small files that must agree with the state
    manifest.json   a checksum of every other file; written last

It is written beside its place and renamed when it is complete and on the disk. No array
is put together on the way, neither to be written nor to be read: any mesh can read what
any other has written.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import orbax.checkpoint as ocp

from ..._files import fsync_directory
from ...types import TrainState
from ..distributed import processes
from ..io.atomic import explain_os_error
from . import manifest
from .arrays import (
    arrays_of,
    check_fits,
    describe,
    detached,
    frozen_of,
    places,
    with_arrays,
)


_UNFINISHED = ".unfinished"
_DISCARDED = ".discarded"
_PATIENCE = 3600  # Seconds that writing one may take.


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state from disk, and what was found on the way to it.

    **Fields:**

    - `state`: equal to the one that was saved, to the last bit.
    - `step`: after which it was saved.
    - `config`: the configuration that it was saved with.
    - `metadata`, `files`: what `save` was given under these names.
    - `problems`: a sentence for each later checkpoint that could not be used.
    """

    state: TrainState
    step: int
    config: str
    metadata: Mapping[str, object]
    files: Mapping[str, bytes]
    problems: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run, of which the last and the best are kept.

    Nothing is written before the first `save`. All processes of a run save and restore
    together, on a file system that they share: each writes and reads its shards, and
    the first does the rest.

    **Arguments:**

    - `directory`: where they go; it need not exist.
    - `keep_last`: so many of the last ones are kept; `None`: all.
    - `keep_best`: so many of those with the greatest scores are kept besides.
    - `in_background`: `save` returns when the state was copied to the host, and the
        rest happens beside the next steps.

    !!! example

        ```python
        with Checkpoints("run/checkpoints", keep_last=2) as checkpoints:
            checkpoints.save(20, state, config=recipes.dump(recipe))
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
        self._directory = Path(directory)
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._in_background = in_background
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None
        # Its own checkpointer that is not asynchronous would meet the other processes
        # on their devices, in the midst of a step.
        self._arrays = ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(use_compression=False), timeout_secs=_PATIENCE
        )

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
        config: str,
        metadata: Mapping[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
        score: float | None = None,
    ) -> None:
        """Saves a state; its memory may be donated as soon as this returns.

        A good checkpoint of that step is left as it is: a run has one state at a step.

        **Arguments:**

        - `step`: after which the state was taken.
        - `config`: the configuration of the run, as text.
        - `metadata`: anything that JSON has.
        - `files`: contents by name, such as `RunDirectory.snapshot()`.
        - `score`: greater is better; without one it is never among the best.

        **Raises:** `OSError` if this one, or in the background the one before, could
        not be written; all earlier ones are as they were.
        """
        self.wait()
        place = self._directory / str(step)
        if processes.broadcast_from_0(
            lambda: place.exists() and manifest.verify(place) is None
        ):
            return
        arrays = arrays_of(state)
        contents = {
            "step": step,
            "score": score if score is not None and math.isfinite(score) else None,
            "metadata": dict(metadata or {}),
            "arrays": {name: describe(x) for name, x in arrays.items()},
            "frozen": frozen_of(state),
        }
        texts = {
            "recipe.yaml": config.encode(),
            "contents.json": json.dumps(contents, indent=2, allow_nan=False).encode(),
            **{f"files/{name}": content for name, content in (files or {}).items()},
        }
        unfinished = place.with_name(place.name + _UNFINISHED)
        with self._explain(place):
            processes.on_process_0(lambda: self._begin(unfinished))
            # Copies now, not in the background: the next step takes the memory over.
            values = {name: detached(x) for name, x in arrays.items() if x.size}
            self._arrays.save(
                unfinished.absolute() / "state", args=ocp.args.PyTreeSave(values)
            )
        self._writing = self._writer.submit(self._finish, place, unfinished, texts)
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
            self._arrays.close()

    def restore(self, like: TrainState, *, max_step: int | None = None) -> Restored:
        """The last good state.

        **Arguments:**

        - `like`: a state of the run, such as `grpojax.init` makes: its structure,
            shapes, dtypes, places and everything in it that is no array.
        - `max_step`: no later step than this one.

        **Raises:** `FileNotFoundError` if there is no checkpoint, `OSError` that names
        what is wrong with each if none is good, `ValueError` that names the first array
        that differs if it is of another model, optimizer or reference.
        """
        self.wait()
        # One process reads the files to check them, and all take its word.
        step, problems = processes.broadcast_from_0(lambda: self._choose(max_step))
        if step is None and not problems:
            raise FileNotFoundError(
                f"A run is continued from a checkpoint. {os.fspath(self._directory)!r} "
                "holds none that is complete: start the run anew."
            )
        if step is None:
            raise OSError(
                f"None of the checkpoints in {os.fspath(self._directory)!r} is good. "
                f"{' '.join(problems)} Bring one back from a copy, or start the run "
                "anew."
            )
        return _read(self._directory / str(step), like, problems)

    def _choose(self, max_step: int | None) -> tuple[int | None, tuple[str, ...]]:
        """The last good step, if there is one, and what is wrong with later ones."""
        problems = []
        for step in reversed(self.steps()):
            if max_step is not None and step > max_step:
                continue
            problem = manifest.verify(self._directory / str(step))
            if problem is None:
                return step, tuple(problems)
            problems.append(f"The checkpoint of step {step} cannot be used: {problem}.")
        return None, tuple(problems)

    def _begin(self, unfinished: Path) -> None:
        self._sweep()
        (unfinished / "files").mkdir(parents=True)

    def _finish(self, place: Path, unfinished: Path, texts: dict[str, bytes]) -> None:
        """Waits until all processes have written, and makes a checkpoint of it."""
        with self._explain(place):
            try:
                self._arrays.wait_until_finished()
                if not processes.is_process_0():
                    return
                for name, content in texts.items():
                    (unfinished / name).write_bytes(content)
                manifest.write(unfinished)
            except (OSError, ValueError):
                # Room for others, if that is what was missing.
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            if place.exists():
                place.rename(place.with_name(place.name + _DISCARDED))
            unfinished.rename(place)
            fsync_directory(self._directory)
            self._prune()

    def _explain(self, place: Path) -> contextlib.AbstractContextManager[None]:
        kept = [step for step in self.steps() if str(step) != place.name]
        last = f"That of step {kept[-1]} is kept" if kept else "There is none before it"
        return explain_os_error(f"the checkpoint of step {place.name}", place, last)

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
    check_fits(place.name, contents["arrays"], arrays_of(like))
    if contents.get("frozen") != frozen_of(like):
        raise ValueError(
            "A checkpoint holds what is trained, and fits the frozen weights that it "
            f"was trained on. Those of step {place.name} are others than this run's: "
            "bring the model back that the run began with."
        )
    with ocp.PyTreeCheckpointer() as reader:
        values = reader.restore(place.absolute() / "state", restore_args=places(like))
    return Restored(
        state=with_arrays(like, values),
        step=contents["step"],
        config=(place / "recipe.yaml").read_text(encoding="utf-8"),
        metadata=contents["metadata"],
        files={path.name: path.read_bytes() for path in (place / "files").iterdir()},
        problems=problems,
    )
