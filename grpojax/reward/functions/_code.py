"""A reward for code, run against tests in a process with limits."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..._checks import check_at_least, check_counts
from ...calls import Calls
from ..host import text_of
from ._texts import Completions, last_block


_RUNNER = Path(__file__).with_name("_sandbox.py")

# To start an interpreter, on a machine that is busy.
_SECONDS_TO_START = 30.0


@dataclasses.dataclass(frozen=True)
class CodeTests:
    """The share of a row's tests that the Python code of a completion passes.

    The code is the last fenced code block of the completion, or all of it. Each test is
    a process of its own, in an empty folder, with limits on memory, processor time,
    time, and the size of files, and without a network: in a network namespace of its
    own where the system permits it, else without Python's sockets.

    The limits are for code that is wrong. They are no defense against code that means
    harm: it runs as the user who trains, may read what that user may read, and may
    start processes. Train in a container, without secrets, to be safe from it.

    **Fields:**

    - `column`: of the tests: one, or a list of them, each
        - a text of Python, run after the code: `assert add(2, 3) == 5`, or
        - `{"input": ..., "output": ...}`, what the code reads and should write.
        The reward does not apply (`None`) to a row without tests.
    - `seconds`: the time limit of one test.
    - `memory`: of one test, MiB.
    - `concurrency`: rows at a time.

    **Raises:** `ValueError` for a limit out of range.

    !!! example

        ```python
        passes = CodeTests("test_list", seconds=5.0)
        reward = HostReward(passes, tokenizer.decode, name="passes")
        ```
    """

    column: str = "tests"
    seconds: float = 10.0
    memory: int = 512
    concurrency: int = 4

    def __post_init__(self):
        check_at_least("CodeTests", 0.01, seconds=self.seconds)
        check_counts("CodeTests", 1, concurrency=self.concurrency)
        check_counts("CodeTests", 32, memory=self.memory)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The column of the tests."""
        return (self.column,)

    @property
    def calls(self) -> Calls:
        """One call for each row."""
        return Calls(batch_size=1, concurrency=self.concurrency)

    def __call__(self, completions: Completions, **columns: Sequence) -> list:
        rows = zip(completions, columns[self.column], strict=True)
        return [self._run(last_block(text_of(said)), tests) for said, tests in rows]

    def _run(self, code: str, tests: object) -> float | None:
        tests = _tests_of(tests)
        if not tests:
            return None
        limits = {"seconds": self.seconds, "memory": self.memory * 2**20}
        job = json.dumps({"code": code, "tests": tests, **limits})
        deadline = _SECONDS_TO_START + (self.seconds + 1.0) * len(tests)
        with tempfile.TemporaryDirectory() as folder:
            passed = _call_runner(job, folder, deadline)
        return sum(passed) / len(tests)


def _tests_of(tests: object) -> Sequence[object]:
    if isinstance(tests, str | Mapping) or tests is None:
        tests = [tests]
    if not isinstance(tests, Sequence):
        raise TypeError(
            f"tests are a text, a mapping or a list. Received {tests!r:.80}"
        )
    found = [x for x in tests if x is not None and x != ""]
    for test in found:
        has_both = isinstance(test, Mapping) and {"input", "output"} <= test.keys()
        if not isinstance(test, str) and not has_both:
            raise TypeError(
                'a test is Python, or {"input": ..., "output": ...}. Received '
                f"{test!r:.80}"
            )
    return found


def _call_runner(job: str, folder: str, seconds: float) -> list[bool]:
    """Whether each test passed."""
    runner = subprocess.Popen(
        [sys.executable, "-I", str(_RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={},
        start_new_session=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    try:
        answer, _ = runner.communicate(job, timeout=seconds)
        return json.loads(answer)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no tests within {seconds:g} seconds") from None
    except ValueError:
        raise RuntimeError("the process of the tests died") from None
    finally:
        # What the code has started and left behind, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(runner.pid, signal.SIGKILL)
        runner.communicate()
