"""Being asked to leave: a signal becomes a question that is asked between steps."""

import signal
import threading
import types
from collections.abc import Callable
from typing import NoReturn


EXIT_PREEMPTED = 75
"""How a run leaves that was told to, and can be resumed: EX_TEMPFAIL of sysexits.h, "a
temporary failure, try again later". Python itself leaves with 1, argparse with 2, and a
shell reports a process that a signal ended as 128 and more."""


class PreemptedError(Exception):
    """A run was told to leave, and has left a state to go on from."""


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """Keeps SIGTERM, and SIGINT once, from ending a process in the midst of a step.

    A second Ctrl-C interrupts at once, as it would without this. Python runs handlers
    in its main thread alone: in another thread this is never requested.

    !!! example

        ```python
        with Preemption() as preemption:
            while not preemption.requested:
                state, metrics = step(state)
        ```
    """

    def __init__(self):
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, _Handler] = {}

    @property
    def requested(self) -> bool:
        """Whether to leave."""
        return self._received is not None

    @property
    def reason(self) -> str | None:
        """The signal's name, such as `SIGTERM`, or `None`."""
        return None if self._received is None else self._received.name

    def leave(self) -> NoReturn:
        """Leaves.

        **Raises:** `PreemptedError` that says which signal came, or that another
        process of the run was given one.
        """
        if self._received is None:
            raise PreemptedError("another process of the run was told to leave")
        raise PreemptedError(f"{self._received.name} was received")

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self._received = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


_Handler = Callable[[int, types.FrameType | None], object] | int | None
