"""The directory of a run."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from .. import jsonl
from ..atomic import explain_os_error, write_bytes, write_json
from ._checks import (
    check_characters,
    check_writable,
    CHECKPOINTS,
    COMPLETIONS,
    CONFIG,
    CURVE,
    EVALUATIONS,
    EVENTS,
    inspect,
    Kind,
    METRICS,
    MODEL,
    PREDICTIONS,
    SUMMARY,
)
from ._lock import Lock


class RunDirectory:
    """The directory of one run, locked against other runs and processes.

    Nothing is written before `start`, `lock` or `resume`.

    **Arguments:**

    - `path`: the directory; it need not exist, unless a run is resumed.
    - `resume`: whether the run in the directory is resumed, or a new one starts.
    - `kind`: the kind of run; a run is resumed only as the kind that it was started as.

    **Raises:** `FileExistsError` if the directory holds a run and `resume` is false;
    `FileNotFoundError` if it holds none and `resume` is true; `NotADirectoryError` if
    it is a file; `ValueError` if it holds a run of another kind, if its `config.yaml`
    cannot be read, or if checkpoints of a training run could not be read back from such
    a path; `PermissionError` if nothing can be written there.

    !!! example

        ```python
        with RunDirectory("out/run") as directory:
            directory.start("steps: 1\\n", {"status": "running"})
            directory.log({"step": 1, "reward": 0.5})
            directory.finish({"status": "finished", "reward": 0.5})
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        kind: Kind = "training",
    ):
        self._path, self._resume = Path(path), resume
        self._kind: Kind = kind
        self._lock: Lock | None = None
        if kind == "training":
            check_characters(path)
        self._found = self._inspect()
        check_writable(self._path)

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
        """The file of the configuration."""
        return self._path / CONFIG

    @property
    def summary(self) -> Path:
        """The file of the result."""
        return self._path / SUMMARY

    @property
    def model(self) -> Path:
        """The directory of the final policy."""
        return self._path / MODEL

    @property
    def curve(self) -> Path:
        """The file of the plot."""
        return self._path / CURVE

    @property
    def checkpoints(self) -> Path:
        """The directory for `Checkpoints`."""
        return self._path / CHECKPOINTS

    @property
    def tracking(self) -> Path:
        """The directory for trackers."""
        return self._path / "tracking"

    def predictions(self, step: int, mode: str) -> Path:
        """The file for the completions of an evaluation at a step."""
        return self._path / PREDICTIONS / f"{step}-{mode}.jsonl"

    def start(self, config: str, summary: Mapping[str, object]) -> None:
        """Starts a new run: takes the lock, writes the configuration and a summary.

        **Arguments:**

        - `config`: the configuration as YAML, a mapping; empty for none.
        - `summary`: see `update`.

        **Raises:** `BlockingIOError` if another process writes to the directory,
        `FileExistsError` if another run has started there since `__init__`.
        """
        with explain_os_error("a run", self._path, "Nothing was started"):
            self._path.mkdir(parents=True, exist_ok=True)
        self.lock()
        # First: a directory with a configuration in it is a run that can be resumed.
        self.write_config(config)
        self.update(summary)

    def lock(self) -> None:
        """Locks the directory for this process, until `close` or the process's end.

        **Raises:** `BlockingIOError` if another process has locked it or has run in it
        since `__init__`, and what `__init__` raises for what is there now.
        """
        if self._lock is not None:
            return
        self._lock = Lock(self._path)
        try:
            # Another process may have run here between `__init__` and the lock.
            if self._inspect() != self._found:
                raise BlockingIOError(
                    errno.EWOULDBLOCK,
                    f"A run is written by one process. {os.fspath(self.config)!r} was "
                    "changed by another one while this one was loading: start this "
                    "one again.",
                )
        except BaseException:
            self.close()
            raise

    def resume(
        self,
        step: int,
        summary: Mapping[str, object],
        snapshot: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """Resumes the run: takes the lock and truncates its records to a step.

        Unfinished last lines and records of later steps, which will be written again,
        are removed. Events are kept: they are the run's history.

        **Arguments:**

        - `step`: the checkpoint's; 0 without one.
        - `summary`: see `update`.
        - `snapshot`: what `snapshot` returned when the checkpoint was saved.

        **Returns:** a sentence for each file that was damaged, and how it was repaired.

        **Raises:** as `lock`.
        """
        self.lock()
        self.update(summary)
        saved, problems = snapshot or {}, []
        for name in (METRICS, COMPLETIONS, EVALUATIONS):
            found = self._read(name)
            kept, problem = jsonl.truncate(found, step, saved.get(name, b""))
            if kept != found:
                write_bytes(self._path / name, kept)
            if problem is not None:
                problems.append(f"{name} {problem}.")
        events = self._read(EVENTS)
        if jsonl.complete_lines(events) != events:
            write_bytes(self._path / EVENTS, jsonl.complete_lines(events))
        return problems

    def write_config(self, config: str) -> None:
        """Replaces the configuration, some keys of which may change on resume."""
        write_bytes(self.config, (config if config.strip() else "{}\n").encode())

    def snapshot(self) -> dict[str, bytes]:
        """The files that a checkpoint keeps, from which `resume` repairs damage."""
        return {METRICS: self._read(METRICS)}

    def log(self, *records: Mapping[str, object]) -> None:
        """Appends the metrics of steps."""
        jsonl.append(self._path / METRICS, *records)

    def log_completions(self, *records: Mapping[str, object]) -> None:
        """Appends prompts with their completions."""
        jsonl.append(self._path / COMPLETIONS, *records)

    def log_evaluation(self, record: Mapping[str, object]) -> None:
        """Appends the result of an evaluation."""
        jsonl.append(self._path / EVALUATIONS, record)

    def log_event(self, record: Mapping[str, object]) -> None:
        """Appends an event."""
        jsonl.append(self._path / EVENTS, record)

    def update(self, summary: Mapping[str, object]) -> None:
        """Replaces the summary by one that says `"complete": false`."""
        self._write_summary(summary, complete=False)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Replaces the summary by the final one."""
        self._write_summary(summary, complete=True)

    def close(self) -> None:
        """Releases the lock."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def metrics(self) -> list[dict]:
        """The records of the steps."""
        return jsonl.parse(self._read(METRICS))

    def evaluations(self) -> list[dict]:
        """The records of the evaluations."""
        return jsonl.parse(self._read(EVALUATIONS))

    def _read(self, name: str) -> bytes:
        path = self._path / name
        return path.read_bytes() if path.exists() else b""

    def _write_summary(self, summary: Mapping[str, object], complete: bool) -> None:
        write_json(self.summary, {"kind": self._kind, **summary, "complete": complete})

    def _inspect(self) -> bytes:
        return inspect(self._path, resume=self._resume, kind=self._kind)
