"""A command as a process: its streams, its log, its signals and its exit codes."""

import contextlib
import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from ..._extras import MissingExtraError, named_extras
from ..distributed.faults import EXIT_MACHINE, lost_peer, machine_fault
from ..distributed.preemption import DEFERRED, EXIT_PREEMPTED
from ..io.terminal import message, printable


EXIT_REFUSED, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130
INVALID = ValueError, TypeError, OSError, ImportError

logger = logging.getLogger(__name__)


class ExitError(Exception):
    """The end of a command before its time: a message, and the exit code."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class TerminatedError(BaseException):
    """A signal has ended a command in which no run has begun."""


@contextlib.contextmanager
def invalid_input(errors: tuple[type[Exception], ...] = INVALID) -> Iterator[None]:
    """Reports errors raised in this context as invalid user input."""
    try:
        with named_extras("The command grpojax"):
            yield
    except errors as error:
        if lost_peer(error):
            raise
        logger.debug("refused", exc_info=True)
        raise ExitError(EXIT_REFUSED, str(error)) from error


def run(prog: str, command: Callable[[], None]) -> int:
    """Runs a command, and returns the exit code.

    However it ends, but for an error of the library's own, it says so in one line.
    """
    with lasting_streams():
        try:
            with named_extras("The command grpojax"), _terminating():
                command()
        except (ExitError, MissingExtraError) as error:
            said, code = str(error), getattr(error, "code", EXIT_REFUSED)
        except TerminatedError as error:
            said, code = f"{error} was received: start again", EXIT_PREEMPTED
        except KeyboardInterrupt:
            said, code = "interrupted", EXIT_INTERRUPTED
        except Exception as error:
            fault, code = machine_fault(error), EXIT_MACHINE
            if fault is None:
                raise
            logger.debug("the machine has failed", exc_info=True)
            said = fault
        else:
            return 0
        print(message(f"{prog}: {said}"), file=sys.stderr)
        return code


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Ends what runs inside on a signal that a run would defer to its next step."""

    def end(number: int, frame: types.FrameType | None) -> NoReturn:
        del frame
        raise TerminatedError(signal.Signals(number).name)

    before = {}
    if threading.current_thread() is threading.main_thread():
        # One that is ignored stays so, as under nohup.
        deferred = [x for x in DEFERRED if signal.getsignal(x) is signal.SIG_DFL]
        before = {number: signal.signal(number, end) for number in deferred}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Lasting:
    """A stream whose reader may go away, or whose disk may be full.

    What it is given then is lost, which is no reason to end a run.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Standard output and error that raise nothing when nobody reads them."""
    with contextlib.ExitStack() as stack:
        for redirect, stream in (
            (contextlib.redirect_stdout, sys.stdout),
            (contextlib.redirect_stderr, sys.stderr),
        ):
            if stream is not None:
                lasting: Any = _Lasting(stream)
                stack.enter_context(redirect(lasting))
                stack.callback(lasting.flush)
        yield


_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _Printable(logging.Formatter):
    """A formatter whose control characters are spelled out, and long messages cut.

    The record stays as it is: other handlers read its arguments.
    """

    def __init__(self, formatter: logging.Formatter):
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        text = self._formatter.format(record)
        return printable(text) if record.exc_info else message(text)


def log_from(level: str) -> None:
    """Sends what `grpojax` logs from a level on to standard error."""
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ValueError(
            f"LOGLEVEL must be one of {', '.join(levels)}. Received {level!r}."
        )
    logging.basicConfig(format=_FORMAT)
    for handler in logging.getLogger().handlers:
        formatter = handler.formatter or logging.Formatter(_FORMAT)
        if not isinstance(formatter, _Printable):
            handler.setFormatter(_Printable(formatter))
    logging.getLogger("grpojax").setLevel(levels[level.upper()])
