"""What a run leaves behind: written so that nothing is lost and nothing looks done.

config.yaml        the whole recipe
metrics.jsonl      one line for each step
completions.jsonl  one line for each prompt that was logged
evaluations.jsonl  one line for each evaluation
events.jsonl       what happened to the run: starts, checkpoints, warnings
summary.json       the result; `"complete": false` until there is one
predictions/       what was answered in evaluations
checkpoints/       states to go on from
tracking/          what the trackers need to go on
curve.png          reward and accuracy over the steps
model/             the policy, in Hugging Face's format
adapter/           what was trained of it, in PEFT's format, if that was adapters
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from . import jsonl as _journals
from .atomic import (
    append_json as append_json,
    explained,
    write_bytes,
    write_json as write_json,
)


METRICS = "metrics.jsonl"
_COMPLETIONS = "completions.jsonl"
_EVALUATIONS = "evaluations.jsonl"
_EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"
MODEL = "model"
ADAPTER = "adapter"
_NAMES = (
    "config.yaml",
    METRICS,
    _COMPLETIONS,
    _EVALUATIONS,
    _EVENTS,
    "summary.json",
    "predictions",
    CHECKPOINTS,
    "curve.png",
    MODEL,
    ADAPTER,
)


class RunDirectory:
    """The directory of one run, which no other run and no other process may write to.

    Nothing is written before `start` or `resume`.

    **Arguments:**

    - `path`: the directory; it need not exist, unless a run is resumed.
    - `resume`: whether a run that is there is continued, or a new one begins.

    **Raises:** `FileExistsError` if it holds a run and a new one was to begin,
    `FileNotFoundError` if it holds none to resume, `NotADirectoryError` if it is a
    file, `OSError` if nothing can be written there.

    !!! example

        ```python
        with RunDirectory("out/run") as directory:
            directory.start(recipes.dump(recipe), {"status": "running"})
            directory.log({"step": 1, "reward": 0.5})
            directory.finish({"status": "finished", "reward": 0.5})
        ```
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = False):
        self._path = Path(path)
        self._lock: int | None = None
        if self._path.exists() and not self._path.is_dir():
            raise NotADirectoryError(
                f"A run is written to a directory. {os.fspath(path)!r} is a file: "
                "choose another name."
            )
        found = [name for name in _NAMES if (self._path / name).exists()]
        if found and not resume:
            raise FileExistsError(
                f"A run never overwrites another. {os.fspath(path)!r} holds "
                f"{', '.join(found)} already: resume it, choose another directory, or "
                "move that one away."
            )
        if resume and "config.yaml" not in found:
            raise FileNotFoundError(
                f"A run that is resumed has begun. {os.fspath(path)!r} holds no "
                "config.yaml: check the path, or start a run there."
            )
        _check_writable(self._path)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The directory itself."""
        return self._path

    @property
    def config(self) -> Path:
        """Where the recipe is."""
        return self._path / "config.yaml"

    @property
    def summary(self) -> Path:
        """Where the result is."""
        return self._path / "summary.json"

    @property
    def model(self) -> Path:
        """Where the policy goes."""
        return self._path / MODEL

    @property
    def curve(self) -> Path:
        """Where the picture goes."""
        return self._path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        """Where `Checkpoints` go."""
        return self._path / CHECKPOINTS

    def predictions(self, step: int, mode: str) -> Path:
        """Where what was said in an evaluation goes."""
        return self._path / "predictions" / f"{step}-{mode}.jsonl"

    @property
    def tracking(self) -> Path:
        """Where trackers keep what they need."""
        return self._path / "tracking"

    def start(self, recipe: str, summary: Mapping[str, object]) -> None:
        """Writes the recipe's YAML and a summary that says `"complete": false`.

        **Raises:** `BlockingIOError` if another process writes the run.
        """
        with explained("a run", self._path, "Nothing was begun"):
            self._path.mkdir(parents=True, exist_ok=True)
        self.hold()
        # First: a directory with a recipe in it is a run that can be resumed.
        write_bytes(self.config, recipe.encode())
        self.update(summary)

    def hold(self) -> None:
        """Keeps other processes from writing the run, until `close` or the end.

        **Raises:** `BlockingIOError` if another one does.
        """
        if self._lock is not None:
            return
        path = self._path / ".lock"
        with explained("a lock", path, "Nothing was changed"):
            # Of the open file and not of its presence: the system frees it when the
            # process ends, however that ends.
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 20).decode(errors="replace").strip()
            os.close(lock)
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"A run is written by one process. {os.fspath(self._path)!r} is being "
                f"written by process {holder}: wait for it, or stop it.",
            ) from error
        except OSError:
            pass  # A file system without locks: then nobody is kept out.
        with contextlib.suppress(OSError):
            os.truncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def resume(
        self,
        step: int,
        summary: Mapping[str, object],
        journals: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """Brings the run's records to where they were after a step.

        Half a last line goes, and so do records of later steps, which will come again.
        Events stay: they are the run's history.

        **Arguments:**

        - `step`: the checkpoint's; 0 if there is none.
        - `summary`: says that the run goes on.
        - `journals`: what `journals` returned when the checkpoint was made.

        **Returns:** what was damaged and how it was mended, a sentence each.

        **Raises:** `BlockingIOError` if another process writes the run.
        """
        self.hold()
        self.update(summary)
        saved, problems = journals or {}, []
        for name in (METRICS, _COMPLETIONS, _EVALUATIONS):
            found = self._read(name)
            kept, problem = _journals.cut(found, step, saved.get(name, b""))
            if kept != found:
                write_bytes(self._path / name, kept)
            if problem is not None:
                problems.append(f"{name} {problem}.")
        events = self._read(_EVENTS)
        if _journals.whole(events) != events:
            write_bytes(self._path / _EVENTS, _journals.whole(events))
        return problems

    def replace_recipe(self, recipe: str) -> None:
        """Writes the recipe anew, of which some keys may change on the way."""
        write_bytes(self.config, recipe.encode())

    def journals(self) -> dict[str, bytes]:
        """What a checkpoint keeps, so that a damaged journal can be brought back."""
        return {METRICS: self._read(METRICS)}

    def log(self, *records: Mapping[str, object]) -> None:
        """Appends the metrics of steps."""
        append_json(self._path / METRICS, *records)

    def log_completions(self, *records: Mapping[str, object]) -> None:
        """Appends prompts and what was sampled for each."""
        append_json(self._path / _COMPLETIONS, *records)

    def log_evaluation(self, record: Mapping[str, object]) -> None:
        """Appends the result of an evaluation."""
        append_json(self._path / _EVALUATIONS, record)

    def log_event(self, record: Mapping[str, object]) -> None:
        """Appends something that happened."""
        append_json(self._path / _EVENTS, record)

    def update(self, summary: Mapping[str, object]) -> None:
        """Replaces the summary by another that says `"complete": false`."""
        write_json(self.summary, {**summary, "complete": False})

    def finish(self, summary: Mapping[str, object]) -> None:
        """Replaces the summary by the final one."""
        write_json(self.summary, {**summary, "complete": True})

    def close(self) -> None:
        """Lets other processes write the run."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def metrics(self) -> list[dict]:
        """The records of the metrics."""
        return _journals.records(self._read(METRICS))

    def evaluations(self) -> list[dict]:
        """The records of the evaluations."""
        return _journals.records(self._read(_EVALUATIONS))

    def _read(self, name: str) -> bytes:
        path = self._path / name
        return path.read_bytes() if path.exists() else b""


def _check_writable(path: Path) -> None:
    """Asks, before anything is computed, whether a directory can be written or made."""
    place = next(place for place in [path, *path.absolute().parents] if place.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            f"A run must be able to write. {os.fspath(place)!r} is read-only: change "
            "its permissions, or choose another directory.",
        )
