"""Calls of Python functions: concurrency, time limits, retries."""

from ._calls import (
    call_batches as call_batches,
    call_once as call_once,
    Calls as Calls,
    concurrency_of as concurrency_of,
    Function as Function,
    numbers as numbers,
    Parameters as Parameters,
    parameters_of as parameters_of,
    PermanentError as PermanentError,
)
from ._limit import (
    CallThread as CallThread,
    InProcess as InProcess,
    InThread as InThread,
)
