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
    """A signal stopped a run, after a checkpoint if these are enabled."""


DEFERRED = (signal.SIGTERM, signal.SIGHUP)
"""What a scheduler sends, and a terminal that is closed."""

_Handler = Callable[[int, types.FrameType | None], object] | int | None


class Preemption:
    """A context manager that defers signals, and the first SIGINT, to the next step.

    The signals are `DEFERRED`, unless they are ignored, as SIGHUP is under nohup.

    A second Ctrl-C interrupts at once, as it would without this. Python runs signal
    handlers in the main thread only: in another thread nothing is ever requested.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, _Handler] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has been received."""
        return self.received is not None

    def raise_preempted(self) -> NoReturn:
        """Ends the run by a `PreemptedError`, here or in another of its processes."""
        if self.received is None:
            raise PreemptedError("another process of the run was preempted")
        raise PreemptedError(f"{self.received.name} was received")

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in (*DEFERRED, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
