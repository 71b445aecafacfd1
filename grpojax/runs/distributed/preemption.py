"""Preemption: termination signals as a flag that the training loop polls per step."""

import signal
import threading
import types
from collections.abc import Callable
from typing import NoReturn


EXIT_PREEMPTED = 75
"""The exit code of a preempted run that can be resumed: EX_TEMPFAIL of sysexits.h, "a
temporary failure, try again later". Python itself exits with 1, argparse with 2, and a
shell reports a process that a signal ended as 128 and more."""


class PreemptedError(Exception):
    """A run was preempted and has saved a checkpoint to resume from."""


_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_Handler = Callable[[int, types.FrameType | None], object] | int | None


class Preemption:
    """A context manager that defers SIGTERM, and the first SIGINT, to the next step.

    A second Ctrl-C interrupts at once, as it would without this. Python runs signal
    handlers in the main thread only: in another thread nothing is ever requested.

    !!! example

        ```python
        with Preemption() as preemption:
            while not preemption.requested:
                state, metrics = step(state)
        ```
    """

    def __init__(self):
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, _Handler] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has been received."""
        return self._received is not None

    @property
    def reason(self) -> str | None:
        """The signal's name, such as `SIGTERM`, or `None`."""
        return None if self._received is None else self._received.name

    def raise_preempted(self) -> NoReturn:
        """Ends the run.

        **Raises:** `PreemptedError` that names the signal, or says that another process
        of the run received one.
        """
        if self._received is None:
            raise PreemptedError("another process of the run was preempted")
        raise PreemptedError(f"{self._received.name} was received")

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self._received = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
