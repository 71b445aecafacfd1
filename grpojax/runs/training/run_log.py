"""Run log: metrics, completions and events in files and trackers; health checks."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ...text import AbstractTokenizer
from ..distributed import processes
from ..distributed.preemption import PreemptedError
from ..evaluation.evaluate import Evaluation
from ..evaluation.result import EvaluationResult
from ..io.jsonl import parse
from ..io.run_directory import METRICS, RunDirectory
from ..io.samples import to_records
from ..tracking.build import start, TrackerFactory, TrackerRun
from ..tracking.trackers import JsonLines, Tracker
from .health import DivergedError, Monitor, Thresholds
from .metrics_buffer import StepRecord


logger = logging.getLogger(__name__)

_STATUS = {
    KeyboardInterrupt: "stopped",
    DivergedError: "stopped",
    PreemptedError: "preempted",
}

Accuracy = tuple[float, tuple[float, float]]
"""Accuracy, and its 95% confidence interval."""


class ResumePoint(NamedTuple):
    """The checkpoint that a run is resumed from.

    **Fields:**

    - `step`: the checkpoint's step; 0 if there is none.
    - `files`: the run's files as they were at that checkpoint.
    - `problems`: one message per later checkpoint that could not be used.
    """

    step: int
    files: Mapping[str, bytes]
    problems: tuple[str, ...]


class RunLog:
    """The log of a run: metrics, completions, evaluations, events and health checks.

    **Arguments:**

    - `directory`: the run directory; `None` for no files, as on processes other than
        0.
    - `config`: the run's configuration, as YAML.
    - `steps`: total number of steps of the run.
    - `thresholds`: thresholds of the health checks.
    - `tokenizer`: decodes samples; without one they are not written.
    - `start`: start time of the run, by `time.perf_counter`.

    `records` holds the metrics of every step. `seconds_compile` is the time spent
    compiling; callers add to it.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        *,
        config: str,
        steps: int,
        thresholds: Thresholds,
        tokenizer: AbstractTokenizer | None,
        start: float,
    ):
        self.config, self._steps = config, steps
        self._directory, self._tokenizer = directory, tokenizer
        self._start = start
        self._monitor = Monitor(thresholds)
        self._stop: str | None = None
        self._trackers: list[Tracker] = []
        self.records: list[dict[str, float | int]] = []
        self.seconds_compile = 0.0
        self._accuracies: dict[str, Accuracy] = {}
        self._samples_evaluated = 0

    @property
    def seconds(self) -> float:
        """Wall time of the run in seconds, including the time before a resume."""
        return time.perf_counter() - self._start

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.records)

    @property
    def last_update_finite(self) -> bool:
        """Whether the last reported step had a finite loss and no skipped updates."""
        return self._monitor.bad_steps == 0

    def accuracy(self, when: str) -> Accuracy | None:
        """Held-out accuracy `"before"` or `"after"` training, if evaluated."""
        return self._accuracies.get(when)

    @contextlib.contextmanager
    def open(
        self,
        resume: ResumePoint | None = None,
        trackers: Mapping[str, TrackerFactory] | None = None,
        config: Mapping[str, object] | None = None,
    ) -> Iterator[None]:
        """Starts or resumes the run's files, and records how the run ended.

        **Arguments:**

        - `resume`: where a run is resumed; `None` for a new one.
        - `trackers`: experiment trackers by name.
        - `config`: hyperparameters that trackers show.
        """
        directory = self._directory
        if directory is None:
            if resume is not None:
                self._restore_records(parse(resume.files.get(METRICS, b"")))
            yield
            return
        with directory:
            if resume is None:
                directory.start(self.config, self._summary("running"))
                self.event("start", f"{self._steps} steps are to be taken")
            else:
                self._resume(directory, resume)
            run = TrackerRun(
                directory.tracking, directory.path.name, dict(config or {}), self.steps
            )
            others = start(trackers or {}, run, self._warn)
            # Replays restored steps; a tracker ignores those it has already logged.
            for tracker in others:
                for record in self.records:
                    _log(tracker, record)
            self._trackers = [JsonLines(directory), *others]
            try:
                yield
                self.event("finish", f"{self.steps} steps were taken")
                directory.finish(self._summary("finished"))
            except BaseException as error:
                # The error itself may be a failed write, such as a full disk.
                with contextlib.suppress(OSError):
                    status = _STATUS.get(type(error), "failed")
                    kind = "preempted" if status == "preempted" else "stopped"
                    self.event(kind, f"{type(error).__name__}: {error}")
                    directory.update(self._summary(status))
                raise
            finally:
                for tracker in self._trackers:
                    tracker.close()

    def _resume(self, directory: RunDirectory, resume: ResumePoint) -> None:
        """Restores the records to what they were at a checkpoint."""
        repaired = directory.resume(resume.step, self._summary("running"), resume.files)
        self._restore_records(directory.metrics())
        for record in directory.evaluations():
            accuracy = record["accuracy"], tuple(record["interval"])
            self._set_accuracy(record["step"], accuracy, record["n"])
        for sentence in (*resume.problems, *repaired):
            self._warn(sentence)
        directory.write_config(self.config)
        self.event("resume", f"goes on after step {resume.step}")

    def _restore_records(
        self, records: Sequence[Mapping[str, float | int | None]]
    ) -> None:
        self.records = [
            {name: math.nan if x is None else x for name, x in record.items()}
            for record in records
        ]
        self._monitor = self._monitor.replay(self.records)
        if self.records:
            # Wall time continues from the last restored step.
            self._start -= float(self.records[-1]["time"])

    def event(self, kind: str, message: str) -> None:
        """Records an event."""
        if self._directory is not None:
            event = {"step": self.steps, "kind": kind, "message": message}
            self._directory.log_event(event | {"time": self.seconds})

    def _warn(self, message: str) -> None:
        if processes.is_process_0():
            logger.warning(message)
        self.event("warning", message)

    def step(self, record: StepRecord) -> None:
        """Records one step's metrics, and its samples if there are any."""
        values = {"step": record.step, "time": self.seconds, **record.metrics}
        self.records.append(values)
        for tracker in self._trackers:
            _log(tracker, values)
        tokenizer = self._tokenizer
        if record.samples is not None and tokenizer is not None and self._trackers:
            samples = list(to_records(record.step, record.samples, tokenizer))
            for tracker in self._trackers:
                tracker.table("completions", record.step, samples)
        self._monitor, report = self._monitor.observe(values)
        self._stop = report.stop
        for warning in report.warnings:
            self._warn(f"step {record.step}: {warning}")

    def raise_if_diverged(self) -> None:
        """Raises a `DivergedError` if the health checks stop the run."""
        if self._stop is not None:
            raise DivergedError(self._stop)

    def evaluated(self, evaluation: Evaluation, result: EvaluationResult) -> None:
        """Records an evaluation, unless a resumed run has recorded it already."""
        accuracy = result.accuracy, result.interval
        self._set_accuracy(self.steps, accuracy, result.count)
        self.seconds_compile += result.seconds_compile
        if self._directory is None:
            return
        record = {"step": self.steps, **evaluation.to_json(), **result.to_json()}
        names = ("step", "split", "mode")
        known = [[old[name] for name in names] for old in self._directory.evaluations()]
        if [record[name] for name in names] not in known:
            self._directory.log_evaluation(record)

    def _set_accuracy(self, step: int, accuracy: Accuracy, count: int) -> None:
        self._samples_evaluated = count
        if step == 0:
            self._accuracies["before"] = accuracy
        if step == self._steps:  # With zero steps, both.
            self._accuracies["after"] = accuracy

    def _summary(self, status: str) -> dict[str, object]:
        unknown = None, None
        before = self._accuracies.get("before", unknown)
        after = self._accuracies.get("after", unknown)
        return {
            "status": status,
            "accuracy_before": before[0],
            "accuracy_after": after[0],
            "ci95_before": before[1],
            "ci95_after": after[1],
            "n_eval": self._samples_evaluated,
            "steps": self.steps,
            "seconds_total": self.seconds,
            "seconds_compile": self.seconds_compile,
        }


def _log(tracker: Tracker, record: Mapping[str, float | int]) -> None:
    metrics = {name: value for name, value in record.items() if name != "step"}
    tracker.log(int(record["step"]), metrics)
