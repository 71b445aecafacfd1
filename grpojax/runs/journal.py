"""What a run writes down while it goes on."""

import contextlib
import time
from collections.abc import Iterator

from ..text import AbstractTokenizer
from . import completions, evaluating, files, recipes
from .evaluation import Evaluation
from .loop import Reading
from .recipe import Recipe


class Journal:
    """Writes to a run's directory, if there is one, and remembers the metrics.

    **Arguments:**

    - `recipe`: what is run.
    - `directory`: where to write.
    - `tokenizer`: turns completions into text.
    - `start`: when the run began, by `time.perf_counter`.

    `records` holds the metrics of every step; `seconds_compile` is how much of the time
    went into compiling, to which others may add.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: files.RunDirectory | None,
        tokenizer: AbstractTokenizer,
        start: float,
    ):
        self._recipe, self._directory = recipe, directory
        self._tokenizer, self._start = tokenizer, start
        self.records: list[dict[str, float | int]] = []
        self.seconds_compile = 0.0
        self._summary: dict[str, object] = {
            "status": "running",
            "accuracy_before": None,
            "accuracy_after": None,
            "ci95_before": None,
            "ci95_after": None,
            "n_eval": 0,
            "steps": 0,
            "seconds_total": None,
            "seconds_compile": None,
        }

    @property
    def seconds(self) -> float:
        """How long ago the run began."""
        return time.perf_counter() - self._start

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return len(self.records)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Begins the run's files, and says at the end how the run has ended."""
        if self._directory is not None:
            self._directory.start(recipes.dump(self._recipe), self._summary)
        self.event("start", f"{self._recipe.run.steps} steps are to be taken")
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # What ended the run may be that nothing can be written any more.
            with contextlib.suppress(OSError):
                self.event("stopped", f"{type(error).__name__}: {error}")
                self._summarize("stopped" if interrupted else "failed")
            raise
        self.event("finish", f"{self.steps} steps were taken")
        self._summarize("finished")

    def event(self, kind: str, message: str) -> None:
        """Writes down what happened."""
        if self._directory is not None:
            event = {"step": self.steps, "kind": kind, "message": message}
            self._directory.append("events.jsonl", event | {"time": self.seconds})

    def reading(self, reading: Reading) -> None:
        """Writes down one step's metrics, and what was said if it is there."""
        record = {"step": reading.step, "time": self.seconds, **reading.metrics}
        self.records.append(record)
        if self._directory is None:
            return
        self._directory.append("metrics.jsonl", record)
        if reading.completions is not None:
            for said in completions.records(
                reading.step, reading.completions, self._tokenizer
            ):
                self._directory.append("completions.jsonl", said)

    def evaluated(self, measured: Evaluation, *ends: str) -> None:
        """Writes down an accuracy, `"before"` or `"after"` the steps or both."""
        for end in ends:
            self._summary[f"accuracy_{end}"] = measured.accuracy
            self._summary[f"ci95_{end}"] = measured.interval
        self._summary["n_eval"] = measured.count
        self.seconds_compile += measured.seconds_compile
        if self._directory is not None:
            line = evaluating.record(measured, self._recipe, self.steps)
            self._directory.append("evaluations.jsonl", line)

    def _summarize(self, status: str) -> None:
        if self._directory is None:
            return
        summary = self._summary | {
            "status": status,
            "steps": self.steps,
            "seconds_total": self.seconds,
            "seconds_compile": self.seconds_compile,
        }
        if status == "finished":
            self._directory.finish(summary)
        else:
            self._directory.stop(summary)
