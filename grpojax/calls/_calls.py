"""Calls of a Python function on batches of rows: concurrency, time limits, retries."""

import asyncio
import dataclasses
import functools as ft
import inspect
import itertools
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from .._checks import check_at_least, check_counts
from ._limit import InProcess, InThread, late


Function = Callable[..., Any]

_ASYNC_CALLS = 32  # At a time, unless the user says how many.
_LONGEST_PAUSE = 60.0  # Seconds between two attempts.


class PermanentError(Exception):
    """An error of a call that would fail again: it is not retried.

    !!! example

        ```python
        if response.status == 401:
            raise PermanentError("the server refuses the API key")
        ```
    """


@dataclasses.dataclass(frozen=True)
class Calls:
    """How a function is called; a function may hold its own as an attribute `calls`.

    **Fields:**

    - `batch_size`: rows of one call, which fail together; all rows when `None`.
    - `concurrency`: calls at a time, each in a thread, or in one event loop if the
        function is `async`. By default 1, and 32 of an `async` function. On a mesh it
        counts for each shard of the batch.
    - `seconds`: the time limit of a call, as that of `InThread`; none when `None`.
    - `retries`: how often a call that failed is repeated, unless it raised
        `PermanentError`.
    - `backoff`: seconds before the first retry, doubled for each further one, at most
        60. An error with an attribute `retry_after` waits for at least so many seconds.

    **Raises:** `ValueError` for a value out of range.
    """

    batch_size: int | None = None
    concurrency: int | None = None
    seconds: float | None = None
    retries: int = 0
    backoff: float = 1.0

    def __post_init__(self):
        sizes = {"batch_size": self.batch_size, "concurrency": self.concurrency}
        check_counts("Calls", 1, **sizes)
        check_counts("Calls", 0, retries=self.retries)
        check_at_least("Calls", 0, backoff=self.backoff)
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(
                "`Calls.seconds` must be positive, or None for no limit. Received "
                f"{self.seconds}."
            )


class Called(NamedTuple):
    """The rewards of some rows, or the error of their call."""

    rows: slice
    rewards: Sequence[float] | None
    error: Exception | None = None


def call_batches(
    function: Function, columns: Mapping[str, Sequence], count: int, calls: Calls
) -> list[Called]:
    """Calls a function on batches of rows; what it raises is part of the results.

    **Arguments:**

    - `columns`: keyword arguments, each of `count` values.
    """
    size = calls.batch_size or max(count, 1)
    batches = [slice(x, min(x + size, count)) for x in range(0, count, size)]

    def call(rows: slice) -> Called:
        arguments = {name: values[rows] for name, values in columns.items()}
        try:
            return Called(rows, _with_retries(function, arguments, rows, calls))
        except Exception as error:  # A user's function may raise anything.
            return Called(rows, None, error)

    workers = min(concurrency_of(function, calls), len(batches))
    if workers <= 1:
        return [call(rows) for rows in batches]
    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(call, batches))
    finally:
        # All is done, or an interrupt must not wait for what has not begun.
        pool.shutdown(wait=False, cancel_futures=True)


def concurrency_of(function: Function, calls: Calls) -> int:
    """How many calls of a function are made at a time."""
    return calls.concurrency or (_ASYNC_CALLS if is_async(function) else 1)


def _with_retries(
    function: Function, arguments: dict[str, Sequence], rows: slice, calls: Calls
) -> list[float]:
    for number in itertools.count():
        try:
            answer = call_once(function, arguments, calls.seconds)
            return numbers(answer, rows.stop - rows.start)
        except Exception as error:
            if number >= calls.retries or isinstance(error, PermanentError):
                raise
            asked = float(getattr(error, "retry_after", 0.0))
        pause = max(calls.backoff * 2.0 ** min(number, 10), asked)
        time.sleep(min(pause, _LONGEST_PAUSE))
    raise AssertionError


def call_once(function: Function, arguments: dict, seconds: float | None) -> Any:
    """What a function returns, awaited if it must be, within a time limit."""
    limited = function if seconds is None else InThread(function, seconds)
    answer = limited(**arguments)
    return _wait(answer, seconds) if inspect.isawaitable(answer) else answer


def _wait(awaitable: Awaitable, seconds: float | None) -> Any:
    """The result of an awaitable, in an event loop of another thread.

    So that it does not matter whether this thread runs a loop, as a notebook does.
    """

    async def wait() -> Any:
        return await asyncio.wait_for(awaitable, seconds)

    future = asyncio.run_coroutine_threadsafe(wait(), _event_loop())
    try:
        return future.result()
    except TimeoutError:
        if seconds is None:
            raise
        raise late(seconds) from None
    except BaseException:
        future.cancel()
        raise


_starting = threading.Lock()


def _event_loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _start_event_loop()


@ft.cache
def _start_event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # A daemon, so that a call that hangs does not keep the program from ending.
    threading.Thread(target=loop.run_forever, name="calls", daemon=True).start()
    return loop


def numbers(values: Any, count: int) -> list[float]:
    """One finite number for each row, or NaN where the reward does not apply.

    **Raises:** `ValueError` or `TypeError` for anything else.
    """
    found = [math.nan if value is None else float(value) for value in values]
    if len(found) != count:
        raise ValueError(
            "a host reward returns one number for each completion. Received "
            f"{len(found)} for {count}"
        )
    for value, number in zip(values, found, strict=True):
        if value is not None and not math.isfinite(number):
            raise ValueError(f"a host reward returns finite numbers. Received {value}")
    return found


class Parameters(NamedTuple):
    """The keyword arguments of a function.

    **Fields:**

    - `required`, `optional`: by name.
    - `variadic`: whether it takes any others, by `**`.
    """

    required: frozenset[str]
    optional: frozenset[str]
    variadic: bool

    def takes(self, name: str) -> bool:
        """Whether the function can be given an argument."""
        return self.variadic or name in self.required or name in self.optional


def parameters_of(function: Function) -> Parameters:
    """The keyword arguments with which a reward function may be called.

    An attribute `required_columns` names further columns that it needs, such as those
    in a template. What `functools.partial` has bound is not among them.
    """
    needed = frozenset(getattr(unwrapped(function), "required_columns", ()))
    function = unwrapped(function)
    bound = function.keywords.keys() if isinstance(function, ft.partial) else ()
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # A builtin: only its call can tell.
        return Parameters(needed, frozenset(), variadic=True)
    named = [
        x
        for x in found
        if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY) and x.name not in bound
    ]
    required = frozenset(x.name for x in named if x.default is x.empty) | needed
    optional = frozenset(x.name for x in named) - required
    return Parameters(required, optional, any(x.kind is x.VAR_KEYWORD for x in found))


def is_async(function: Function) -> bool:
    """Whether calls of a function are awaited."""
    function = unwrapped(function)
    while isinstance(function, ft.partial):
        function = function.func
    call = inspect.getattr_static(type(function), "__call__", None)
    return any(map(inspect.iscoroutinefunction, (function, call)))


def unwrapped(function: Function) -> Function:
    """The function in `InThread` or `InProcess`."""
    while isinstance(function, InThread | InProcess):
        function = function.function
    return function
