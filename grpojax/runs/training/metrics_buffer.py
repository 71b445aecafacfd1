"""Metrics of steps, kept on the device until several steps' are read together."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, SupportsFloat

import jax

from ...types import Metrics
from ..io.samples import Samples


class StepRecord(NamedTuple):
    """Metrics of one step, on the host.

    **Fields:**

    - `step`: its number, from 1.
    - `metrics`: with `step_time`, in seconds: the mean over the steps read together.
    - `samples`: completions, if this is the last of the steps read together.
    """

    step: int
    metrics: dict[str, float]
    samples: Samples | None


class MetricsBuffer:
    """Metrics of steps on the device, read `every` so many steps in one transfer.

    `report` is called with each step's record, in order. Leaving the context reads what
    is pending, whatever the reason.
    """

    def __init__(self, report: Callable[[StepRecord], None], *, every: int = 1):
        self._report, self._every = report, every
        self._pending: list[tuple[int, Metrics]] = []
        self._samples: Samples | None = None
        self._since = time.perf_counter()

    def __enter__(self) -> "MetricsBuffer":
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, step: int, metrics: Metrics, samples: Samples | None) -> None:
        """Adds what a step returned; flushes if enough steps are pending."""
        self._pending.append((step, metrics))
        self._samples = samples
        if step % self._every == 0:
            self.flush()

    def restart_clock(self) -> None:
        """Leaves the time since the last flush out of `step_time`."""
        self._since = time.perf_counter()

    def flush(self) -> None:
        """Reads and reports all pending steps; if one has failed, those before it."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        try:
            # Waits for the last of the steps: the clock is read after it.
            metrics, samples = jax.device_get(([x for _, x in pending], self._samples))
        except jax.errors.JaxRuntimeError:
            for step, values in pending:
                self._report_all([(step, jax.device_get(values))], None)
            raise
        numbers = [step for step, _ in pending]
        self._report_all(list(zip(numbers, metrics, strict=True)), samples)

    def _report_all(
        self,
        steps: Sequence[tuple[int, Mapping[str, SupportsFloat]]],
        samples: Samples | None,
    ) -> None:
        """Reports steps that were read together."""
        now = time.perf_counter()
        seconds, self._since = (now - self._since) / len(steps), now
        last = steps[-1][0]
        for step, values in steps:
            record = {name: float(x) for name, x in values.items()}
            record = {"step_time": seconds, **record}
            self._report(StepRecord(step, record, samples if step == last else None))
