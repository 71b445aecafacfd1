"""What a run writes down while it goes on."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence

from ...text import AbstractTokenizer
from ..cli import evaluate as evaluating
from ..distributed import processes
from ..distributed.preemption import PreemptedError
from ..evaluation.evaluate import Evaluation
from ..io import samples as completions
from ..io.jsonl import parse
from ..io.run_directory import METRICS, RunDirectory
from ..recipe import load as recipes
from ..recipe.schema import Recipe
from ..tracking import build as trackers
from ..tracking.trackers import JsonLines, Tracker
from .health import Bounds, DivergedError, Guard
from .step import Reading


logger = logging.getLogger(__name__)

_STATUS = {
    KeyboardInterrupt: "stopped",
    DivergedError: "stopped",
    PreemptedError: "preempted",
}


class Journal:
    """Writes to a run's directory, if there is one, and remembers what matters.

    **Arguments:**

    - `recipe`: what is run.
    - `directory`: where to write; `None` also in all processes but the first.
    - `tokenizer`: turns completions into text.
    - `start`: when the run began, by `time.perf_counter`.

    `records` holds the metrics of every step; `seconds_compile` is how much of the time
    went into compiling, to which others may add.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory | None,
        tokenizer: AbstractTokenizer,
        start: float,
    ):
        self._recipe, self._directory = recipe, directory
        self._tokenizer, self._start = tokenizer, start
        self._guard = Guard(Bounds(**vars(recipe.guard)))
        self._stop: str | None = None
        self._trackers: list[Tracker] = []
        self.records: list[dict[str, float | int]] = []
        self.seconds_compile = 0.0
        self._measured: dict[str, tuple[float, tuple[float, float]]] = {}
        self._judged = 0

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return time.perf_counter() - self._start

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return len(self.records)

    @property
    def in_order(self) -> bool:
        """Whether the last step changed the policy, as far as is known."""
        return self._guard.bad_steps == 0

    def accuracy(self, end: str) -> tuple[float, tuple[float, float]] | None:
        """What was measured `"before"` or `"after"` the steps, with its interval."""
        return self._measured.get(end)

    @contextlib.contextmanager
    def open(
        self,
        resumed: tuple[int, Mapping[str, bytes]] | None = None,
        problems: Sequence[str] = (),
    ) -> Iterator[None]:
        """Begins the run's files or goes on with them, and says how the run has ended.

        **Arguments:**

        - `resumed`: the step that the run goes on from, and the journals of its
            checkpoint; `None` for a run that begins.
        - `problems`: what was found on the way there, a sentence each.
        """
        if self._directory is None:
            if resumed is not None:
                self._take_up(parse(resumed[1].get(METRICS, b"")))
            yield
            return
        with self._directory:
            if resumed is None:
                self._directory.start(recipes.dump(self._recipe), self._now("running"))
                self.event("start", f"{self._recipe.run.steps} steps are to be taken")
            else:
                self._resume(*resumed, problems)
            tracking = self._recipe.tracking
            others = trackers.build(
                self._directory.tracking,
                self._warn,
                tensorboard=tracking.tensorboard,
                wandb=tracking.wandb,
                trackio=tracking.trackio,
                project=tracking.project,
                name=tracking.name or self._directory.path.name,
                config=dataclasses.asdict(self._recipe),
                resume_step=self.steps,
            )
            # Each takes what it lacks of the steps that there have been.
            for tracker in others:
                for record in self.records:
                    _log(tracker, record)
            self._trackers = [JsonLines(self._directory), *others]
            try:
                yield
                self.event("finish", f"{self.steps} steps were taken")
                self._directory.finish(self._now("finished"))
            except BaseException as error:
                # What ended the run may be that nothing can be written any more.
                with contextlib.suppress(OSError):
                    status = _STATUS.get(type(error), "failed")
                    kind = "preempted" if status == "preempted" else "stopped"
                    self.event(kind, f"{type(error).__name__}: {error}")
                    self._directory.update(self._now(status))
                raise
            finally:
                for tracker in self._trackers:
                    tracker.close()

    def _resume(
        self, step: int, saved: Mapping[str, bytes], problems: Sequence[str]
    ) -> None:
        """Takes up the records as they were after a step."""
        if self._directory is None:
            return
        mended = self._directory.resume(step, self._now("running"), saved)
        self._take_up(self._directory.metrics())
        for record in self._directory.evaluations():
            accuracy = record["accuracy"], tuple(record["interval"])
            self._remember(record["step"], accuracy, record["n"])
        for sentence in (*problems, *mended):
            self._warn(sentence)
        self._directory.write_config(recipes.dump(self._recipe))
        self.event("resume", f"goes on after step {step}")

    def _take_up(self, records: Sequence[Mapping[str, float | int | None]]) -> None:
        """Remembers the steps that there have been."""
        self.records = [
            {name: math.nan if x is None else x for name, x in record.items()}
            for record in records
        ]
        self._guard = self._guard.replay(self.records)
        if self.records:
            # The clock goes on from the last step that counts.
            self._start -= float(self.records[-1]["time"])

    def event(self, kind: str, message: str) -> None:
        """Writes down what happened."""
        if self._directory is not None:
            event = {"step": self.steps, "kind": kind, "message": message}
            self._directory.log_event(event | {"time": self.seconds})

    def _warn(self, message: str) -> None:
        if processes.is_process_0():
            logger.warning(message)
        self.event("warning", message)

    def reading(self, reading: Reading) -> None:
        """Writes down one step's metrics, and what was said if it is there."""
        record = {"step": reading.step, "time": self.seconds, **reading.metrics}
        self.records.append(record)
        for tracker in self._trackers:
            _log(tracker, record)
        if reading.completions is not None and self._trackers:
            said = list(
                completions.to_records(
                    reading.step, reading.completions, self._tokenizer
                )
            )
            for tracker in self._trackers:
                tracker.table("completions", reading.step, said)
        self._guard, verdict = self._guard.observe(record)
        self._stop = verdict.stop
        for warning in verdict.warnings:
            self._warn(f"step {reading.step}: {warning}")

    def check(self) -> None:
        """Ends a run that is not worth its time any more.

        **Raises:** `DivergedError`.
        """
        if self._stop is not None:
            raise DivergedError(self._stop)

    def evaluated(self, measured: Evaluation) -> None:
        """Writes down an accuracy, unless a run that went on has it already."""
        accuracy = measured.accuracy, measured.interval
        self._remember(self.steps, accuracy, measured.count)
        self.seconds_compile += measured.seconds_compile
        if self._directory is None:
            return
        line = evaluating.record(measured, self._recipe, self.steps)
        names = ("step", "split", "mode")
        there = [[old[name] for name in names] for old in self._directory.evaluations()]
        if [line[name] for name in names] not in there:
            self._directory.log_evaluation(line)

    def _remember(
        self, step: int, accuracy: tuple[float, tuple[float, float]], count: int
    ) -> None:
        self._judged = count
        if step == 0:
            self._measured["before"] = accuracy
        if step == self._recipe.run.steps:  # Of a run of no steps, both.
            self._measured["after"] = accuracy

    def _now(self, status: str) -> dict[str, object]:
        """The summary."""
        nothing = None, None
        before, after = (self._measured.get(x, nothing) for x in ("before", "after"))
        return {
            "status": status,
            "accuracy_before": before[0],
            "accuracy_after": after[0],
            "ci95_before": before[1],
            "ci95_after": after[1],
            "n_eval": self._judged,
            "steps": self.steps,
            "seconds_total": self.seconds,
            "seconds_compile": self.seconds_compile,
        }


def _log(tracker: Tracker, record: Mapping[str, float | int]) -> None:
    metrics = {name: value for name, value in record.items() if name != "step"}
    tracker.log(int(record["step"]), metrics)
