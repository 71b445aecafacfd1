"""How long a Python function may take."""

import multiprocessing
import pickle
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


Function = Callable[..., object]

# A worker imports what its function needs before its first answer.
_SECONDS_TO_START = 120.0

_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)


def _check_seconds(seconds: float):
    if not seconds > 0:
        raise ValueError(f"A time limit must be positive. Received seconds={seconds}.")


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"no answer within {seconds:g} seconds")


class InThread:
    """A function that is given up on after some seconds.

    It may be any function, a lambda or a method included. A thread cannot be killed:
    what hangs goes on in the background until the program ends, and a function that
    never lets go of the interpreter (a regular expression that backtracks) cannot be
    given up on. Right for what waits, such as a judge behind a network.

    **Arguments:**

    - `function`: called with keyword arguments.
    - `seconds`: for one call.

    **Returns**, when called, what the function returns. **Raises** what it raises, or
    `TimeoutError`.
    """

    def __init__(self, function: Function, seconds: float):
        _check_seconds(seconds)
        self.function, self.seconds = function, seconds

    def __call__(self, **arguments) -> Any:
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        work = lambda: answers.put(_attempt(self.function, arguments))
        # A daemon, so that what hangs does not keep the program from ending.
        threading.Thread(target=work, daemon=True).start()
        try:
            answer = answers.get(timeout=self.seconds)
        except queue.Empty:
            raise _late(self.seconds) from None
        return answer.get()


class InProcess:
    """A function that is stopped after some seconds.

    It runs in a worker process, which is killed when it takes too long and started anew
    for the next call. So it must be importable, defined at the top of a module, and a
    script that makes one needs `if __name__ == "__main__":`. The worker starts with the
    first call, and the time that its imports take is not counted. Right for what
    computes, such as sympy.

    **Arguments:**

    - `function`: called with keyword arguments; it, they and its answers are pickled.
    - `seconds`: for one call.

    **Returns**, when called, what the function returns. **Raises** what it raises,
    `TimeoutError`, or `RuntimeError` if the worker dies.
    """

    def __init__(self, function: Function, seconds: float):
        _check_seconds(seconds)
        try:
            pickle.dumps(function)
        except _UNPICKLABLE as error:
            raise ValueError(
                "InProcess(function): another process must be able to import it. "
                f"Received {function!r} ({error}). Define it at the top of a module, "
                "or use `InThread`."
            ) from None
        self.function, self.seconds = function, seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def __call__(self, **arguments) -> Any:
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self.function)
            try:
                answer = self._worker.ask(arguments, self.seconds)
            except BaseException:
                self._worker.stop()
                self._worker = None
                raise
        return answer.get()


class _Answer(NamedTuple):
    """What a function returned, or what it raised."""

    value: object = None
    error: Exception | None = None

    def get(self) -> object:
        if self.error is not None:
            raise self.error
        return self.value


def _attempt(function: Function, arguments: dict[str, object]) -> _Answer:
    try:
        return _Answer(function(**arguments))
    except Exception as error:
        return _Answer(error=error)


class _Worker:
    """A process that answers calls of one function, one after the other."""

    def __init__(self, function: Function):
        # Not a fork: JAX has threads, which a fork would leave behind in mid-air.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # A daemon, so that it ends when the program does.
        self._process = context.Process(
            target=_serve, args=(theirs, function), daemon=True
        )
        self._process.start()
        theirs.close()
        self._started = False

    def ask(self, arguments: dict[str, object], seconds: float) -> _Answer:
        try:
            if not self._started:
                self._receive(_SECONDS_TO_START)
                self._started = True
            self._connection.send(arguments)
            return self._receive(seconds)
        except (EOFError, ConnectionError):
            raise RuntimeError("the worker process died") from None

    def _receive(self, seconds: float) -> _Answer:
        if not self._connection.poll(seconds):
            raise _late(seconds)
        return self._connection.recv()

    def stop(self):
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, function: Function):
    connection.send(_Answer())  # Everything is imported.
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        answer = _attempt(function, arguments)
        try:
            connection.send(answer)
        except _UNPICKLABLE as error:
            connection.send(_Answer(error=RuntimeError(f"cannot be sent: {error}")))
