"""Run log: metrics, completions and events in files and trackers; health checks."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..checkpoint.checkpoints import Restored
from ..distributed import processes
from ..distributed.preemption import PreemptedError
from ..distributed.provenance import provenance
from ..evaluation.evaluate import Evaluation
from ..evaluation.result import EvaluationResult
from ..evaluation.statistics import accuracies_by_task
from ..io.integrity.checksums import Checksum
from ..io.jsonl import parse
from ..io.run_directory import EVALUATIONS, EVENTS, METRICS, RunDirectory
from ..io.samples import to_records
from ..tracking.build import start, TrackerRun
from ..tracking.trackers import EvaluationTracker, JsonLines, Tracker
from .display.curve import Accuracy
from .health import DivergedError, Monitor
from .metrics_buffer import StepRecord
from .recorded import measures_of, name_of, with_predictions
from .settings import Prepared


logger = logging.getLogger(__name__)

_STATUS = {
    KeyboardInterrupt: "stopped",
    DivergedError: "stopped",
    PreemptedError: "preempted",
}


class _RewardErrors(logging.Handler):
    """The last error of each reward function, of the warnings that are logged."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.last: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        component, error = (vars(record).get(x) for x in ("component", "error"))
        if component is not None:
            self.last[str(component)] = str(error)

    def __enter__(self) -> None:
        logging.getLogger("grpojax.reward").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("grpojax.reward").removeHandler(self)


class RunLog:
    """The log of a run: metrics, completions, evaluations, events and health checks.

    `records` holds the metrics of every step, also where there is no directory, as on
    processes other than 0. `stop` says why the health checks stop the run, if they do.
    `seconds_compile` is the time spent compiling; callers add to it.
    """

    def __init__(self, run: Prepared):
        self._run, self._directory, self._start = run, run.directory, run.start
        self._reward_errors = _RewardErrors()
        self._monitor = Monitor(run.health, self._reward_errors.last)
        self._trackers: list[Tracker] = []
        self._evaluations: list[dict] = []
        self.records: list[dict[str, float | int]] = []
        self.stop: str | None = None
        self.seconds_compile = 0.0

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

    @property
    def accuracies(self) -> dict[str, list[Accuracy]]:
        """The accuracies of each evaluation, in the order of their steps."""
        found: dict[str, list[Accuracy]] = {}
        for record in self._evaluations:
            if "accuracy" in record:
                measured = record["step"], record["accuracy"], record["interval"]
                found.setdefault(name_of(record), []).append(measured)
        return found

    def unrecorded(self, names: Sequence[str], step: int) -> list[str]:
        """Those of some evaluations that are not recorded for a step."""
        known = [(name_of(record), record["step"]) for record in self._evaluations]
        return [name for name in names if (name, step) not in known]

    def scores(self, name: str, measure: str | None) -> dict[int, float]:
        """A measure of an evaluation by step; of none, the one that sums it up."""
        found: dict[int, float] = {}
        for record in self._evaluations:
            key = measure or ("accuracy" if "accuracy" in record else "reward")
            value = measures_of(record).get(key)
            if name_of(record) == name and value is not None:
                found[record["step"]] = value
        return found

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Starts or resumes the run's files, and records how the run ended."""
        with self._reward_errors, self._open():
            yield

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        run, directory = self._run, self._directory
        if directory is None:
            if run.restored is not None:
                self._restore_records(parse(run.restored.files.get(METRICS, b"")))
            self._warn_early()
            yield
            return
        with directory:
            if run.restored is None:
                directory.start(run.config.to_yaml(), self._summary("running"))
                self.event("start", f"{run.steps} steps are to be taken")
            else:
                self._resume(directory, run.restored)
            self._start_trackers(directory)
            self._warn_early()
            try:
                yield
                self.event("finish", f"{self.steps} steps were taken")
                directory.update(self._summary("finished"), complete=True)
            except BaseException as error:
                # The error itself may be a failed write, such as a full disk.
                directory.release()
                with contextlib.suppress(OSError):
                    status = _STATUS.get(type(error), "failed")
                    kind = "preempted" if status == "preempted" else "stopped"
                    self.event(kind, f"{type(error).__name__}: {error}")
                    directory.update(self._summary(status))
                raise
            finally:
                for tracker in self._trackers:
                    tracker.close()

    def _start_trackers(self, directory: RunDirectory) -> None:
        config, path = dict(self._run.config.values), directory.path
        made = frozenset((name_of(x), x["step"]) for x in self._evaluations)
        run = TrackerRun(path / "tracking", path.name, config, self.steps, made)
        others = start(self._run.trackers, run, self.warn)
        # Replays restored steps; a tracker ignores those it has already logged. In
        # their order: W&B takes no step after a later one.
        restored = sorted([*self.records, *self._evaluations], key=lambda x: x["step"])
        for tracker in others:
            for record in restored:
                _log(tracker, record)
        self._trackers = [JsonLines(directory), *others]

    def _resume(self, directory: RunDirectory, restored: Restored) -> None:
        """Restores the records to what they were at a checkpoint."""
        step, running = restored.step, self._summary("running")
        repaired = directory.resume(step, running, restored.files)
        self._restore_records(directory.records(METRICS))
        recorded, flaws = with_predictions(self._run, directory, step)
        self._evaluations = recorded
        for sentence in (*restored.problems, *repaired, *flaws):
            self.warn(sentence)
        directory.write_config(self._run.config.to_yaml())
        self.event("resume", f"goes on after step {step}")

    def _restore_records(
        self, records: Sequence[Mapping[str, float | int | None]]
    ) -> None:
        for record in records:
            values = {k: math.nan if x is None else x for k, x in record.items()}
            self.records.append(values)
            self._monitor.observe(values)
        if self.records:
            # Wall time continues from the last restored step.
            self._start -= float(self.records[-1]["time"])

    def event(self, kind: str, message: str) -> None:
        """Records an event."""
        if self._directory is not None:
            event = {"step": self.steps, "kind": kind, "message": message}
            self._directory.append(EVENTS, event | {"time": self.seconds})

    def _warn_early(self) -> None:
        for warning in self._run.config.warnings:
            self.warn(warning)

    def warn(self, message: str) -> None:
        """Logs a warning, and records it as an event."""
        if processes.is_process_0():
            logger.warning(message)
        self.event("warning", message)

    def step(self, record: StepRecord) -> None:
        """Records one step's metrics, and its samples if there are any."""
        values = {"step": record.step, "time": self.seconds, **record.metrics}
        self.records.append(values)
        for tracker in self._trackers:
            _log(tracker, values)
        tokenizer = self._run.logging.tokenizer
        if record.samples is not None and tokenizer is not None and self._trackers:
            samples = list(to_records(record.step, record.samples, tokenizer))
            for tracker in self._trackers:
                tracker.table("completions", record.step, samples)
        warnings, self.stop = self._monitor.observe(values)
        for warning in warnings:
            self.warn(f"step {record.step}: {warning}")

    def evaluated(
        self,
        name: str,
        evaluation: Evaluation,
        result: EvaluationResult,
        step: int,
        predictions: Path | None,
    ) -> None:
        """Records an evaluation after a step, with the file of its completions."""
        self.seconds_compile += result.seconds_compile
        settings = {"step": step, "name": name, **evaluation.to_json()}
        self._evaluations.append({**settings, **result.to_json()})
        if self._directory is not None:
            if predictions is not None:
                checksum = Checksum.of_file(predictions)
                self._evaluations[-1]["predictions"] = checksum._asdict()
            self._directory.append(EVALUATIONS, self._evaluations[-1])
            self._directory.write_summary()
        for tracker in self._trackers:
            _log(tracker, self._evaluations[-1])

    def _summary(self, status: str) -> dict[str, object]:
        first = next(iter(self._run.evaluators), None)
        measured = {step: x for step, *x in self.accuracies.get(first or "", [])}
        before = measured.get(0, (None, None))
        after = measured.get(self._run.steps, (None, None))
        made = {x["step"]: x for x in self._evaluations if name_of(x) == first}
        tasks = {
            f"tasks_{when}": accuracies_by_task(made[step])
            for when, step in (("before", 0), ("after", self._run.steps))
            if step in made
        }
        return {
            "status": status,
            "accuracy_before": before[0],
            "accuracy_after": after[0],
            "ci95_before": before[1],
            "ci95_after": after[1],
            **{name: x for name, x in tasks.items() if x},
            "n_eval": [*made.values()][-1]["n"] if made else 0,
            "steps": self.steps,
            "seconds_total": self.seconds,
            "seconds_compile": self.seconds_compile,
            "origin": self._run.config.origin,
            **provenance(),
        }


def _log(tracker: Tracker, record: Mapping) -> None:
    """Logs the metrics of a step, or the measures of an evaluation."""
    step = int(record["step"])
    if not isinstance(record.get("metrics"), Mapping):
        tracker.log(step, {name: x for name, x in record.items() if name != "step"})
    elif isinstance(tracker, EvaluationTracker):
        tracker.evaluation(name_of(record), step, measures_of(record))
