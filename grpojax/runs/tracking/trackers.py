"""Experiment trackers: what a run logs to, its own files first.

`metrics.jsonl` is the run's record; the other trackers display it and may fail.

A resumed run logs every record of `metrics.jsonl` and `evaluations.jsonl` to a tracker
again, from the first: each tracker skips what it has stored.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from ...calls import CallThread
from ..io.run_directory import COMPLETIONS, METRICS, RunDirectory
from ..io.tables import Row


Metrics = Mapping[str, float | None]


@runtime_checkable
class Tracker(Protocol):
    """A destination of metrics and tables."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Logs a step's metrics; `None` is a missing value."""
        ...

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        """Logs a table, such as `completions`; see `io.tables.tabulate`."""
        ...

    def close(self) -> None:
        """Flushes everything and ends the tracker's run."""
        ...


@runtime_checkable
class EvaluationTracker(Tracker, Protocol):
    """A tracker with a fourth method, which is called for every evaluation."""

    def evaluation(self, name: str, step: int, measures: Metrics) -> None:
        """Logs the measures of the evaluation `name` after a step, such as accuracy."""
        ...


class TrackerRun(NamedTuple):
    """The run that a tracker is started for.

    **Fields:**

    - `directory`: where trackers keep their files, `RunDirectory.tracking`.
    - `name`: the run's, its directory's by default.
    - `config`: hyperparameters to show with the run, as nested mappings.
    - `resume_step`: the step of the checkpoint that is resumed; 0 for a new run.
    - `evaluated`: name and step of the evaluations that a resumed run has recorded.
    """

    directory: Path
    name: str
    config: Mapping[str, object]
    resume_step: int
    evaluated: frozenset[tuple[str, int]] = frozenset()


TrackerFactory = Callable[[TrackerRun], Tracker]
"""Starts a tracker for a run."""


class JsonLines:
    """`metrics.jsonl`, and `completions.jsonl` for the table `completions`."""

    def __init__(self, directory: RunDirectory):
        self._directory = directory

    def log(self, step: int, metrics: Metrics) -> None:
        self._directory.append(METRICS, {"step": step, **metrics})

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if name != "completions":
            raise ValueError(
                "A run's directory stores one table, 'completions'. Received "
                f"{name!r}: log it under that name, or to another tracker."
            )
        records = [{"step": step, **row} for row in rows]
        self._directory.append(COMPLETIONS, *records)

    def close(self) -> None:
        """Does nothing: every line is on the disk already."""


class FailSafe:
    """A tracker that never stops a run: its first failure warns and disables it.

    It lives in a thread of its own: a call that hangs holds up the run once, and not
    for longer than the time limit.

    **Arguments:**

    - `name`: the tracker's name, for the warning.
    - `make`: builds the tracker.
    - `warn`: called with a sentence.
    - `seconds`: the time limit of a call.

    **Raises:** `ModuleNotFoundError` if the tracker's package is not installed.

    !!! example

        ```python
        FailSafe("wandb", lambda: open_wandb(run), logger.warning).log(1, {"loss": 0.5})
        ```
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Tracker],
        warn: Callable[[str], None],
        *,
        seconds: float = 60.0,
    ):
        self._name, self._warn, self._seconds = name, warn, seconds
        self._thread, self._tracker = CallThread(), None
        with self._disabled_on_failure(ModuleNotFoundError):
            self._tracker = self._thread.call(make, seconds)

    def log(self, step: int, metrics: Metrics) -> None:
        self._try(lambda tracker: tracker.log(step, metrics))

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        self._try(lambda tracker: tracker.table(name, step, rows))

    def evaluation(self, name: str, step: int, measures: Metrics) -> None:
        def call(tracker: Tracker) -> None:
            if isinstance(tracker, EvaluationTracker):
                tracker.evaluation(name, step, measures)

        self._try(call)

    def close(self) -> None:
        self._try(lambda tracker: tracker.close())
        self._thread.stop()

    def _try(self, call: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is not None:
            with self._disabled_on_failure():
                self._thread.call(lambda: call(tracker), self._seconds)

    @contextlib.contextmanager
    def _disabled_on_failure(self, *passed: type[Exception]):
        try:
            yield
        except passed:
            raise
        except (Exception, SystemExit) as error:
            self._tracker = None
            self._thread.stop()
            self._warn(
                f"{self._name} failed and is disabled for the rest of the run; "
                f"metrics.jsonl has everything. {type(error).__name__}: {error}"
            )
