"""Time limits of Python functions."""

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


def late(seconds: float) -> TimeoutError:
    """The error of a call that took too long."""
    return TimeoutError(f"no answer within {seconds:g} seconds")


class InThread:
    """A function with a time limit, run in a thread: for calls that wait on I/O.

    It may be any function, a lambda or a method included. A thread cannot be killed: a
    call that hangs runs in the background until the program ends, and there is no limit
    for a function that never releases the interpreter lock (a regular expression that
    backtracks).

    **Arguments:**

    - `function`: called with keyword arguments.
    - `seconds`: the time limit of one call.

    **Returns:** when called, what the function returns.

    **Raises:** when called, what the function raises, or `TimeoutError`.

    !!! example

        ```python
        judge = HostReward(InThread(ask_server, 5.0), decode, name="judge")
        ```
    """

    def __init__(self, function: Function, seconds: float):
        _check_seconds(seconds)
        self.function, self.seconds = function, seconds

    def __call__(self, **arguments) -> Any:
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        work = lambda: answers.put(_attempt(self.function, arguments))
        # A daemon, so that a call that hangs does not keep the program from ending.
        threading.Thread(target=work, daemon=True).start()
        try:
            answer = answers.get(timeout=self.seconds)
        except queue.Empty:
            raise late(self.seconds) from None
        return answer.get()


class CallThread:
    """A thread that makes calls one after the other, each with a time limit.

    A daemon: a call that hangs does not keep the program from ending. What follows it
    is not called any more.
    """

    def __init__(self):
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def call(self, function: Callable[[], Any], seconds: float) -> Any:
        """The function's result.

        **Raises:** what it raises, `SystemExit` included, or `TimeoutError`.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls.put((function, answers))
        try:
            value, error = answers.get(timeout=seconds)
        except queue.Empty:
            raise late(seconds) from None
        if error is not None:
            raise error
        return value

    def stop(self) -> None:
        """Ends the thread once its calls are over."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, answers = call
            try:
                answers.put((function(), None))
            except BaseException as error:
                answers.put((None, error))


class InProcess:
    """A function with a time limit, run in a worker process: for calls that compute.

    The worker is killed when a call takes too long, and restarted for the next call. So
    the function must be importable, defined at the top of a module, and a script that
    makes one needs `if __name__ == "__main__":`. The worker starts with the first call,
    and the time of its imports is not counted.

    **Arguments:**

    - `function`: called with keyword arguments; it, they and what it returns are
        pickled.
    - `seconds`: the time limit of one call.

    **Returns:** when called, what the function returns.

    **Raises:** `ValueError` for a function that cannot be pickled. When called, what
    the function raises, `TimeoutError`, or `RuntimeError` if the worker dies.

    !!! example

        ```python
        judge = HostReward(InProcess(verify, 10.0), decode, name="verify")
        ```
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
                answer = self._worker.call(arguments, self.seconds)
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
    """A process that serves calls of one function, one after the other."""

    def __init__(self, function: Function):
        # Not a fork: it would copy the locks of JAX's threads, but not the threads.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # A daemon, so that it ends when the program does.
        self._process = context.Process(
            target=_serve, args=(theirs, function), daemon=True
        )
        self._process.start()
        theirs.close()
        self._started = False

    def call(self, arguments: dict[str, object], seconds: float) -> _Answer:
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
            raise late(seconds)
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
