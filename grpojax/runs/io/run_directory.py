"""The directory of a run: its files, its lock, and its records.

config.yaml        the complete configuration
metrics.jsonl      one record per step
completions.jsonl  one record per logged prompt
evaluations.jsonl  one record per evaluation
events.jsonl       the run's history: starts, checkpoints, warnings
summary.json       the kind of run and its result; `"complete": false` until finished
predictions/       the completions of evaluations
checkpoints/       train states to resume from
tracking/          the files and positions of trackers
curve.png          reward and accuracy over the steps
model/             the policy, in Hugging Face's format
adapter/           its trained LoRA adapters, in PEFT's format, if there are any
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from . import jsonl
from .atomic import explain_os_error, lock_directory, write_bytes, write_json


Kind = Literal["training", "evaluation"]

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"
EVALUATIONS = "evaluations.jsonl"
EVENTS = "events.jsonl"
SUMMARY = "summary.json"
PREDICTIONS = "predictions"
CHECKPOINTS = "checkpoints"
CURVE = "curve.png"
MODEL = "model"
ADAPTER = "adapter"
AVERAGE = "average"
DEFAULT_EVALUATION = "held_out"
"""The name of an evaluation that is given none."""

_OF_TRAINING = (METRICS, COMPLETIONS, EVENTS, CHECKPOINTS, CURVE, MODEL, ADAPTER)
_NAMES = (CONFIG, SUMMARY, EVALUATIONS, PREDICTIONS, AVERAGE, *_OF_TRAINING)

# Orbax joins directories into glob patterns when it merges what the processes wrote,
# and takes a backslash for a separator: a checkpoint below `lr[1e-4]` would have no
# arrays, and one below `run?` might have those of `run1`.
_UNSUPPORTED = "*?[\\"


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
            directory.append("metrics.jsonl", {"step": 1, "reward": 0.5})
            directory.update({"status": "finished", "reward": 0.5}, complete=True)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        kind: Kind = "training",
    ):
        self.path, self.resumes, self._kind = Path(path), resume, kind
        self.config = self.path / CONFIG
        self._lock: int | None = None
        if kind == "training":
            check_characters(path)
        self._found = self._inspect()
        _check_writable(self.path)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def start(self, config: str, summary: Mapping[str, object]) -> None:
        """Starts a new run: takes the lock, writes the configuration and a summary.

        **Raises:** as `lock`, such as `FileExistsError` if another run has started.
        """
        with explain_os_error("a run", self.path, "Nothing was started"):
            self.path.mkdir(parents=True, exist_ok=True)
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
        self._lock = lock_directory(self.path)
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
        are removed. Events are kept: they are the run's history. A file that does not
        begin with the `snapshot` of the checkpoint is restored from it.

        **Returns:** a sentence for each file that was damaged, and how it was repaired.

        **Raises:** as `lock`.
        """
        self.lock()
        self.update(summary)
        saved, problems = snapshot or {}, []
        for name in (METRICS, COMPLETIONS, EVALUATIONS, EVENTS):
            found = self._read(name)
            if name == EVENTS:
                kept, problem = jsonl.complete_lines(found), None
            else:
                kept, problem = jsonl.truncate(found, step, saved.get(name, b""))
            if kept != found:
                write_bytes(self.path / name, kept)
            if problem is not None:
                problems.append(f"{name} {problem}.")
        return problems

    def write_config(self, config: str) -> None:
        """Replaces the configuration, some keys of which may change on resume."""
        write_bytes(self.config, (config if config.strip() else "{}\n").encode())

    def update(self, summary: Mapping[str, object], *, complete: bool = False) -> None:
        """Replaces the summary, which says whether the run is complete."""
        values = {"kind": self._kind, **summary, "complete": complete}
        write_json(self.path / SUMMARY, values)

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        """Appends records to one of the files, such as `METRICS`."""
        jsonl.append(self.path / name, *records)

    def records(self, name: str) -> list[dict]:
        """The records in one of the files."""
        return jsonl.parse(self._read(name))

    def snapshot(self) -> dict[str, bytes]:
        """The files that a checkpoint keeps, from which `resume` repairs damage."""
        return {name: self._read(name) for name in (METRICS, EVALUATIONS)}

    def predictions(self, step: int, mode: str, name: str = DEFAULT_EVALUATION) -> Path:
        """The file for the completions of an evaluation at a step."""
        return predictions_file(self.path, step, mode, name)

    def _read(self, name: str) -> bytes:
        path = self.path / name
        return path.read_bytes() if path.exists() else b""

    def _inspect(self) -> bytes:
        """Checks that a new run may start or the run there resume, as `__init__` says.

        The result is the content of `config.yaml`, empty for a new run.
        """
        path, where = self.path, repr(os.fspath(self.path))
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(
                f"A run is written to a directory. {where} is a file: choose another "
                "name."
            )
        found = [name for name in _NAMES if (path / name).exists()]
        if not self.resumes:
            if found:
                raise FileExistsError(
                    f"A run never overwrites another. {where} holds "
                    f"{', '.join(found)} already: resume it, choose another "
                    "directory, or move that one away."
                )
            return b""
        if CONFIG not in found:
            raise FileNotFoundError(
                f"A run that is resumed has been started. {where} holds no {CONFIG}: "
                "check the path, or start a run there."
            )
        held = _kind_in(path, found)
        if held not in (None, self._kind):
            raise ValueError(
                f"A directory holds one kind of run. {where} holds one of kind "
                f"{held!r}. Received {self._kind!r}: choose another directory for it."
            )
        config = self.config.read_bytes()
        _check_config(config, self.config)
        return config


def predictions_file(path: Path, step: int, mode: str, name: str) -> Path:
    """The file for the completions of an evaluation in the directory of a run."""
    middle = "" if name == DEFAULT_EVALUATION else f"-{name}"
    return path / PREDICTIONS / f"{step}{middle}-{mode}.jsonl"


def check_characters(path: str | os.PathLike[str]) -> None:
    r"""Checks that checkpoints below a path can be read back.

    **Raises:** `ValueError` if the absolute path contains one of `*`, `?`, `[`, `\`.
    """
    absolute = os.fspath(Path(path).absolute())
    found = [character for character in _UNSUPPORTED if character in absolute]
    if found:
        raise ValueError(
            "Checkpoints cannot be read back from a path with a glob character or a "
            f"backslash. Received {absolute!r}, which contains {' '.join(found)}: "
            "choose another name, such as lr-1e-4 for lr[1e-4]."
        )


def _check_writable(path: Path) -> None:
    """Checks that a directory is writable, or can be created."""
    parents = [path, *path.absolute().parents]
    existing = next(parent for parent in parents if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            f"A run must be able to write. {os.fspath(existing)!r} is read-only: "
            "change its permissions, or choose another directory.",
        )


def _kind_in(path: Path, found: list[str]) -> str | None:
    """The kind of run in a directory; `None` if it ended before that was recorded."""
    try:
        summary = dict(json.loads((path / SUMMARY).read_bytes()))
    except (OSError, ValueError, TypeError):
        summary = {}
    # Directories of older versions: only training writes these files and this key.
    if "accuracy_before" in summary or not set(_OF_TRAINING).isdisjoint(found):
        return summary.get("kind", "training")
    return summary.get("kind", "evaluation" if len(found) > 1 else None)


def _check_config(config: bytes, path: Path) -> None:
    """Checks that a configuration is a YAML mapping, as every run writes one."""
    try:
        values = yaml.safe_load(config)
        problem = None if isinstance(values, dict) else "not a YAML mapping"
    except (UnicodeDecodeError, yaml.YAMLError):
        problem = "not YAML"
    if not config.strip():
        problem = "empty"
    if problem is not None:
        raise ValueError(
            "A run is resumed with the configuration that it was started with. "
            f"{os.fspath(path)!r} is {problem}: restore it from a backup, or from the "
            f"recipe.yaml of the last checkpoint in {CHECKPOINTS}."
        )
