"""Checkpoints: train states on disk, complete or absent, and restored bit for bit.

A checkpoint is a directory named by its step:

    state/          the state's arrays in Orbax's format, each process its shards; of
                    frozen weights there is only a fingerprint, in contents.json
    recipe.yaml     the configuration of the run
    contents.json   the step, the score, the metadata, and the arrays' shapes and dtypes
    files/          copies of small files that must agree with the state
    manifest.json   a checksum of every other file; written last

It is written under another name, flushed to the disk, read back and renamed. No process
gathers an array, neither to write nor to read it: a checkpoint can be restored on any
mesh.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import orbax.checkpoint as ocp

from ..._checks import check_at_least
from ..._files import fsync_directory
from ...types import TrainState
from ..distributed import processes
from ..io.atomic import explain_os_error
from ..io.integrity.checks import check_characters
from . import arrays, files as store, manifest


# Seconds to write one checkpoint, by a clock that may be set forward meanwhile.
_TIMEOUT = 14 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored train state, and what was saved with it.

    **Fields:**

    - `state`: bit for bit the one that was saved.
    - `step`: the number of steps that it has taken.
    - `config`, `metadata`, `files`: as passed to `Checkpoints.save`.
    - `problems`: a sentence for each later checkpoint that is damaged.
    """

    state: TrainState
    step: int = 0
    config: str = ""
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run, of which the last and the best are kept.

    Nothing is written before the first `save`. `save`, `wait` and `restore` are
    collective: all processes of a run call them, on a file system that they share. Each
    process writes and reads its own shards, and process 0 does the rest.

    **Arguments:**

    - `directory`: for the checkpoints; it need not exist.
    - `keep_last`: how many of the last checkpoints are kept; `None` for all.
    - `keep_best`: how many of those with the highest scores are kept besides.

    **Raises:** `ValueError` for counts that keep nothing, or a path from which
    checkpoints could not be read back.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int | None = 2,
        keep_best: int = 0,
    ):
        check_at_least("Checkpoints", 1, keep_last=keep_last)
        check_at_least("Checkpoints", 0, keep_best=keep_best)
        check_characters(directory)
        self._directory = Path(directory)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None
        # Asynchronous in any case: Orbax's synchronous checkpointer synchronizes the
        # processes by a collective on their devices, in the middle of a step.
        self._orbax = ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(use_compression=False), timeout_secs=_TIMEOUT
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps of the checkpoints, intact or not, in order."""
        return store.steps(self._directory)

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        config: str = "",
        metadata: Mapping[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
        score: float | None = None,
        scores: Mapping[int, float] | None = None,
    ) -> None:
        """Saves a state; its memory may be donated as soon as this returns.

        It is copied to the host now, and written while the next steps run. An intact
        checkpoint of the same step is not written again: a run has one state at a step.

        **Arguments:**

        - `step`: the number of steps that the state has taken.
        - `state`: the state; frozen weights are not written.
        - `config`: the configuration of the run, as text.
        - `metadata`: values that JSON can represent.
        - `files`: contents of files by name, such as `RunDirectory.snapshot()`.
        - `score`: higher is better; a checkpoint without one is never among the best.
        - `scores`: those of earlier steps by which the best are kept, in place of what
            they were saved with.

        **Raises:** `OSError` if this checkpoint, or the previous one in the background,
        could not be written or read back; all earlier ones are unchanged.
        """
        self.wait()
        path = self._directory / str(step)
        if processes.broadcast_from_0(
            lambda: path.exists() and manifest.verify(path) is None
        ):
            return
        leaves = arrays.arrays_of(state)
        contents = {
            "step": step,
            "score": score if score is not None and math.isfinite(score) else None,
            "metadata": dict(metadata or {}),
            "arrays": {name: arrays.describe(leaf) for name, leaf in leaves.items()},
            "frozen": arrays.frozen_fingerprint(state),
        }
        texts = {
            store.CONFIG: config.encode(),
            store.CONTENTS: json.dumps(contents, indent=2, allow_nan=False).encode(),
            **{f"{store.FILES}/{name}": text for name, text in (files or {}).items()},
        }
        with self._explain(step):
            processes.on_process_0(lambda: store.begin(self._directory, step))
            # Copied now, not in the background: the next step reuses the memory.
            values = {
                name: arrays.donation_safe_copy(leaf)
                for name, leaf in leaves.items()
                if leaf.size
            }
            unfinished = store.unfinished_path(self._directory, step)
            self._orbax.save(
                unfinished.absolute() / store.STATE, args=ocp.args.PyTreeSave(values)
            )
        shapes = {name: value.shape for name, value in values.items()}
        self._writing = self._writer.submit(self._finish, step, texts, shapes, scores)

    def wait(self) -> None:
        """Waits until the last save is on the disk; `OSError` if it could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits, and ends the background thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._orbax.close()

    def restore(self, like: TrainState, *, max_step: int | None = None) -> Restored:
        """The state of the last intact checkpoint.

        **Arguments:**

        - `like`: a state of the run, such as from `grpojax.init`: its structure,
            shapes, dtypes, shardings and everything in it that is no array.
        - `max_step`: ignores checkpoints of later steps.

        **Raises:** `FileNotFoundError` if there is no checkpoint; `OSError` that names
        the damage of each if none is intact; `ValueError` that names the first array
        that differs if it was saved from another model, optimizer, reference or
        curriculum.
        """
        self.wait()
        # Process 0 verifies the checksums for all.
        step, problems = processes.broadcast_from_0(
            lambda: store.last_intact(self._directory, max_step)
        )
        if step is None and not problems:
            raise FileNotFoundError(
                f"A run is resumed from a checkpoint. {os.fspath(self._directory)!r} "
                "holds none that is complete: start the run again."
            )
        if step is None:
            raise OSError(
                f"None of the checkpoints in {os.fspath(self._directory)!r} is intact. "
                f"{' '.join(problems)} Restore one from a backup, or start the run "
                "again."
            )
        path = self._directory / str(step)
        contents = json.loads((path / store.CONTENTS).read_text(encoding="utf-8"))
        state = arrays.restore(path / store.STATE, contents["arrays"], like)
        arrays.check_frozen(str(step), contents.get("frozen"), like)
        config = (path / store.CONFIG).read_text(encoding="utf-8")
        files = {x.name: x.read_bytes() for x in (path / store.FILES).iterdir()}
        metadata = contents["metadata"]
        return Restored(state, contents["step"], config, metadata, files, problems)

    def _finish(
        self,
        step: int,
        texts: dict[str, bytes],
        shapes: dict[str, tuple[int, ...]],
        scores: Mapping[int, float] | None,
    ) -> None:
        """Waits for the arrays of all processes, and completes the checkpoint."""
        unfinished = store.unfinished_path(self._directory, step)
        with self._explain(step):
            try:
                self._orbax.wait_until_finished()
                if not processes.is_process_0():
                    return
                for name, content in texts.items():
                    (unfinished / name).write_bytes(content)
                manifest.write(unfinished)
                # Before it replaces anything, and before anything older is deleted.
                arrays.check_readable(unfinished / store.STATE, shapes)
            except (OSError, ValueError):
                # Frees the space, in case that was what was missing.
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            store.publish(self._directory, step)
            fsync_directory(self._directory)
            keep = self._keep_last, self._keep_best
            store.prune(self._directory, step, *keep, scores)

    def _explain(self, step: int) -> contextlib.AbstractContextManager[None]:
        kept = [other for other in self.steps() if other != step]
        last = f"That of step {kept[-1]} is kept" if kept else "There is none before it"
        path = self._directory / str(step)
        return explain_os_error(f"the checkpoint of step {step}", path, last)
