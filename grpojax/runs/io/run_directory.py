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

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from . import jsonl
from .atomic import explain_os_error, lock_directory, write_bytes, write_json
from .integrity import checksums
from .integrity.checks import check_characters, check_config, check_writable, kind_in
from .integrity.repair import LINES, record_file, to_snapshot


Kind = Literal["training", "evaluation", "sweep"]

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
ADAPTER, AVERAGE = "adapter", "average"
RESERVE = ".reserve"
_RESERVED = 2**16  # Bytes: of a summary, twice, and of an event.
DEFAULT_EVALUATION = "held_out"
"""The name of an evaluation that is given none."""

_OF_TRAINING = (METRICS, COMPLETIONS, EVENTS, CHECKPOINTS, CURVE, MODEL, ADAPTER)
_RECORDS = (METRICS, COMPLETIONS, EVALUATIONS, EVENTS)
_NAMES = (CONFIG, SUMMARY, EVALUATIONS, PREDICTIONS, AVERAGE, *_OF_TRAINING)


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
        self._summary: dict[str, object] = {}
        self._checksums: dict[str, checksums.RunningChecksum] = {}
        self._configs: list[checksums.Checksum] = []
        self._digests: list[str] = []
        if kind == "training":
            check_characters(path)
        self._found = self._inspect()
        check_writable(self.path)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self.release()
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
            with contextlib.suppress(OSError):
                (self.path / RESERVE).write_bytes(bytes(_RESERVED))
        except BaseException:
            self.close()
            raise

    def release(self) -> None:
        """Frees the space that is kept for saying how the run ended on a full disk."""
        with contextlib.suppress(OSError):
            (self.path / RESERVE).unlink(missing_ok=True)

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
        recorded = checksums.of_summary(self.path / SUMMARY)
        kept, problems = {}, self._flaws_of_config(recorded)
        for name in _RECORDS:
            file = record_file(name, self._read(name), recorded, snapshot or {})
            kept[name], problem = file.at(step)
            if problem is not None:
                problems.append(f"{name} {problem}.")
            self._checksums[name] = checksums.RunningChecksum(kept[name])
        self._digests = list(checksums.line_digests(kept[COMPLETIONS]))
        # First the summary: files that are longer than it says are no damage.
        self.update(summary)
        for name, content in kept.items():
            if content != self._read(name):
                write_bytes(self.path / name, content)
        return problems

    def _flaws_of_config(self, recorded: checksums.Checksums) -> list[str]:
        """Whether the configuration is another than the run wrote."""
        found = checksums.Checksum.of(self.config.read_bytes())
        self._configs = [found]
        if found in recorded.get(CONFIG, (found,)):
            return []
        fault = "is not as the run wrote it: it was edited or damaged"
        return [f"{CONFIG} {fault}, in keys that change nothing that is computed."]

    def write_config(self, config: str) -> None:
        """Replaces the configuration, some keys of which may change on resume."""
        content = (config if config.strip() else "{}\n").encode()
        if self._configs:
            # A kill may leave the old one or the new one.
            self._configs.append(checksums.Checksum.of(content))
            self.write_summary()
        write_bytes(self.config, content)
        self._configs = [checksums.Checksum.of(content)]

    def update(self, summary: Mapping[str, object], *, complete: bool = False) -> None:
        """Replaces the summary, which says whether the run is complete.

        It has the checksums of what is written, and of the model of a complete run.
        """
        self._summary = {"kind": self._kind, **summary, "complete": complete}
        self.write_summary()

    def write_summary(self) -> None:
        """Writes the summary again, with checksums of what has been written since."""
        files: dict[str, checksums.Checksum | Sequence[checksums.Checksum]] = {
            x: y.checksum for x, y in self._checksums.items()
        }
        if self._configs:
            files[CONFIG] = self._configs
        if self._summary.get("complete"):
            for folder in (MODEL, ADAPTER):
                files |= checksums.of_folder(self.path, folder)
        values = {**self._summary, checksums.CHECKSUMS: checksums.to_json(files)}
        write_json(self.path / SUMMARY, checksums.with_checksum(values))

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        """Appends records to one of the files, such as `METRICS`."""
        written = jsonl.append(self.path / name, *records)
        self._checksums.setdefault(name, checksums.RunningChecksum()).append(written)
        if name == COMPLETIONS:
            self._digests += checksums.line_digests(written)

    def rewrite(self, name: str, records: Sequence[Mapping[str, object]]) -> None:
        """Replaces the records in one of the files."""
        content = jsonl.encode(*records)
        write_bytes(self.path / name, content)
        self._checksums[name] = checksums.RunningChecksum(content)

    def records(self, name: str) -> list[dict]:
        """The records in one of the files."""
        return jsonl.parse(self._read(name))

    def snapshot(self) -> dict[str, bytes]:
        """The files that a checkpoint keeps, from which `resume` repairs damage.

        Completions are large: of each of their lines there is a digest.
        """
        copies = {name: self._read(name) for name in (METRICS, EVALUATIONS)}
        return {**copies, LINES: to_snapshot({COMPLETIONS: self._digests})}

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
        training = not set(_OF_TRAINING).isdisjoint(found)
        held = kind_in(path / SUMMARY, training=training, begun=len(found) > 1)
        if held not in (None, self._kind):
            raise ValueError(
                f"A directory holds one kind of run. {where} holds one of kind "
                f"{held!r}. Received {self._kind!r}: choose another directory for it."
            )
        config = self.config.read_bytes()
        check_config(config, self.config)
        return config


def predictions_file(path: Path, step: int, mode: str, name: str) -> Path:
    """The file for the completions of an evaluation in the directory of a run."""
    middle = "" if name == DEFAULT_EVALUATION else f"-{name}"
    return path / PREDICTIONS / f"{step}{middle}-{mode}.jsonl"
