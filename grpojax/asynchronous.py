"""Rollouts that run while the policy learns, within a bound of staleness.

`TrainStep(actors=mesh)` is all that a run needs. The two parts of it here are for loops
of one's own: `Ledger` counts, and `RolloutQueue` runs tasks in threads as it allows.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ._checks import check_counts


class Ledger(NamedTuple):
    """How many rollouts may begin, so that none is too stale when it is trained on.

        capacity = min(max_concurrent - running,
                       (max_staleness + version + 1) · batch - (accepted + running))

    If rollouts are trained on in the order in which they began, `batch` in each step,
    one that begins at version v is trained on at v + `max_staleness` at the latest.

    **Fields:**

    - `max_concurrent`: number of rollouts that may run at a time.
    - `batch`: number of rollouts that a step trains on.
    - `max_staleness`: number of versions; 0 is synchronous training.
    - `running`: number of rollouts that have begun and not ended.
    - `accepted`: number that ended and are trained on, since the run began.
    - `rejected`: number that ended and are not, since the run began.

    !!! example

        ```python
        ledger = Ledger(max_concurrent=100, batch=4, max_staleness=2)
        assert ledger.capacity(version=0) == 12
        assert ledger.begin(5).accept(3).capacity(version=0) == 7
        ```

    Source: AReaL, arXiv:2505.24298, section 5.1.
    """

    max_concurrent: int
    batch: int
    max_staleness: int
    running: int = 0
    accepted: int = 0
    rejected: int = 0

    def capacity(self, version: int) -> int:
        """Number of rollouts that may begin now; below 0 if there are too many.

        **Arguments:**

        - `version`: number of steps taken.
        """
        fresh = (self.max_staleness + version + 1) * self.batch
        return min(
            self.max_concurrent - self.running, fresh - self.accepted - self.running
        )

    def begin(self, count: int = 1) -> "Ledger":
        """After so many rollouts have begun."""
        return self._replace(running=self.running + count)

    def accept(self, count: int = 1) -> "Ledger":
        """After so many rollouts have ended and are trained on."""
        running, accepted = self.running - count, self.accepted + count
        return self._replace(running=running, accepted=accepted)

    def reject(self, count: int = 1) -> "Ledger":
        """After so many rollouts have ended and are not trained on."""
        running, rejected = self.running - count, self.rejected + count
        return self._replace(running=running, rejected=rejected)

    def resume(self, version: int) -> "Ledger":
        """The ledger of a run that resumes from a checkpoint.

        **Arguments:**

        - `version`: number of steps that the checkpoint has taken.
        """
        return self._replace(running=0, accepted=version * self.batch)


class RolloutQueue:
    """Tasks that run in threads as a `Ledger` allows, and their results in order.

    A task is a function without arguments that returns a rollout, of any type, or
    `None` to reject it. What one raises is raised by the next call of a method. No
    result overtakes that of a task that began earlier, unlike in AReaL: the bound holds
    for tasks that take long, too, and results do not depend on the time that each took.

    **Arguments:**

    - `ledger`: of a run that begins, or `ledger.resume(version)`.
    - `version`: number of steps taken.

    !!! example

        ```python
        ledger = Ledger(max_concurrent=4, batch=2, max_staleness=1)
        with RolloutQueue(ledger) as queue:
            for version in range(10):
                queue.set_version(version)
                batch = queue.prepare_batch(lambda: sample(policy))
                policy = learn(policy, batch)
        ```

    Source: AReaL's `WorkflowExecutor`.
    """

    def __init__(self, ledger: Ledger, version: int = 0):
        check_counts("Ledger", 0, max_staleness=ledger.max_staleness)
        sizes = dict(batch=ledger.batch, max_concurrent=ledger.max_concurrent)
        check_counts("Ledger", 1, **sizes)
        self._ledger, self._version = ledger, version
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(ledger.max_concurrent, "rollout")
        self._waiting: list[tuple[int, Callable[[], Any]]] = []
        self._results: dict[int, Any] = {}
        self._running: set[int] = set()
        self._submitted = 0
        self._error: BaseException | None = None

    @property
    def ledger(self) -> Ledger:
        """The counts of now."""
        with self._changed:
            return self._ledger

    @property
    def capacity(self) -> int:
        """Number of tasks that would begin at once if they were submitted."""
        with self._changed:
            return self._ledger.capacity(self._version) - len(self._waiting)

    def set_version(self, version: int) -> None:
        """The start of a version, after so many steps: further tasks may begin."""
        with self._changed:
            self._version = version
            self._begin()

    def submit(self, task: Callable[[], Any]) -> int:
        """A new task, which begins when the ledger allows it.

        **Returns:** its number, counted from 0.
        """
        with self._changed:
            self._raise()
            number, self._submitted = self._submitted, self._submitted + 1
            self._waiting.append((number, task))
            self._begin()
            return number

    def wait(self, count: int, timeout: float | None = None) -> list[Any]:
        """The results of the `count` oldest accepted tasks, once they have ended.

        **Arguments:**

        - `timeout`: seconds; no limit when `None`.

        **Raises:** `TimeoutError`, after which nothing is lost.
        """
        ready = lambda: self._error is not None or len(self._ended()) >= count
        with self._changed:
            if not self._changed.wait_for(ready, timeout):
                raise TimeoutError(
                    f"RolloutQueue: {count} rollouts were to end within {timeout} s. "
                    f"Received {len(self._ended())}: raise `timeout`."
                )
            self._raise()
            return [self._results.pop(x) for x in self._ended()[:count]]

    def prepare_batch(
        self, task: Callable[[], Any], timeout: float | None = None
    ) -> list[Any]:
        """The rollouts of a step, while those of the next ones run.

        **Arguments:**

        - `task`: submitted as often as the ledger allows, until a batch is there.
        - `timeout`: seconds; no limit when `None`.

        **Raises:** `TimeoutError`, after which nothing is lost.
        """
        batch = self.ledger.batch
        end = None if timeout is None else time.monotonic() + timeout

        def ready() -> bool:
            there = len(self._ended()) >= batch or self._error is not None
            # A rejected rollout is replaced as soon as it ends.
            return there or self._ledger.capacity(self._version) > 0

        while True:
            while self.capacity > 0:
                self.submit(task)
            left = None if end is None else end - time.monotonic()
            with self._changed:
                in_time = self._changed.wait_for(ready, left)
                if not in_time or self._error or len(self._ended()) >= batch:
                    break
        return self.wait(batch, timeout=0.0)

    def close(self) -> None:
        """The end of the queue, after the tasks that run; the others never begin."""
        with self._changed:
            self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "RolloutQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        while self._waiting and self._ledger.capacity(self._version) > 0:
            self._ledger = self._ledger.begin()
            number, task = self._waiting.pop(0)
            self._running.add(number)
            self._pool.submit(self._run, number, task)

    def _ended(self) -> list[int]:
        """The accepted tasks of which no older one still runs, in order."""
        oldest = min(self._running, default=self._submitted)
        return sorted(x for x in self._results if x < oldest)

    def _run(self, number: int, task: Callable[[], Any]) -> None:
        result, error = None, None
        try:
            result = task()
        except BaseException as raised:  # For the thread that waits.
            error = raised
        with self._changed:
            self._running.remove(number)
            if result is None:
                self._ledger = self._ledger.reject()
            else:
                self._ledger = self._ledger.accept()
                self._results[number] = result
            self._error = self._error or error
            self._begin()
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
