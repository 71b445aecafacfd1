"""Many processes that compute one run: joined, of one mind, and ended together.

Each runs the same program with the same recipe on devices of its own. Arrays are
global, and what is computed on the host is the same everywhere, but for what only the
first process does: it writes the run's directory, and it alone speaks.
"""

import contextlib
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..recipe.schema import Distributed


_T = TypeVar("_T")


@contextlib.contextmanager
def joined(
    settings: Distributed,
    *,
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    together: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Joins the run's other processes, and leaves together with them.

    What is not said is found out where JAX can, from SLURM's variables or a TPU's. To
    be entered before anything is computed.

    **Arguments:**

    - `settings`: how long others are waited for.
    - `coordinator`: `host:port` of the first process, as the others reach it.
    - `count`: how many processes there are.
    - `index`: which of them this one is, from 0.
    - `together`: errors that are raised in all processes. Any other one ends this
        process from here, with its traceback and exit code 1.

    **Raises:** `ValueError` if it cannot be found out, `OSError` if the port is taken.
    If they do not come together in time, JAX aborts the process.
    """
    if coordinator is not None and index == 0:
        _check_free(int(coordinator.rpartition(":")[2]))
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=count,
            process_id=index,
            initialization_timeout=settings.start_timeout,
            heartbeat_timeout_seconds=settings.heartbeat_timeout,
            shutdown_timeout_seconds=settings.heartbeat_timeout,
        )
    except ValueError as error:
        raise ValueError(
            "A process of many knows the first one, how many there are, and which of "
            f"them it is. JAX found no SLURM step and no TPU pod here ({error}): pass "
            "--coordinator, --processes and --process."
        ) from error
    try:
        yield
    except Exception as error:
        if not isinstance(error, together):
            _fail(error, settings)
        raise
    finally:
        jax.distributed.shutdown()


def _check_free(port: int) -> None:
    """JAX falls over a port that it cannot have."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise OSError(
            error.errno,
            f"The first process is reached at a port of its own. Received {port}, "
            f"which cannot be had ({error.strerror}): choose another one.",
        ) from error


def _fail(error: Exception, settings: Distributed) -> NoReturn:
    """Ends this process at once: the others would wait for it in vain."""
    traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if isinstance(error, jax.errors.JaxRuntimeError):
        # A collective may fail before it is known that a process has died. If one has,
        # JAX finds out in that time, and ends this process with a word about it.
        time.sleep(1.2 * settings.heartbeat_timeout)
    os._exit(1)


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def anyone(flag: bool) -> bool:
    """Whether the flag is up in any process; all of them ask at the same time."""
    if not several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def share(act: Callable[[], _T]) -> _T:
    """Does something in the first process alone, and tells all of them what came of it.

    All of them ask at the same time. What it returns, or raises, can be pickled.
    """
    if not several():
        return act()
    told: tuple[_T | None, Exception | None] = None, None
    if is_first():
        try:
            told = act(), None
        except Exception as error:
            told = None, error
    value, error = pickle.loads(_broadcast(pickle.dumps(told)))
    if error is not None:
        raise error
    return value


def in_first(act: Callable[[], _T]) -> _T | None:
    """The same, but that the others are told nothing but errors."""
    made = None

    def keep() -> None:
        nonlocal made
        made = act()

    share(keep)
    return made


def _broadcast(told: bytes) -> bytes:
    """What the first process says."""
    if not is_first():
        told = b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    data = np.zeros(length, np.uint8)
    data[: len(told)] = np.frombuffer(told, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes()
