"""Multi-process (multi-host) runs: start, agreement and shutdown of the processes.

Every process runs the same program with the same configuration on its own devices
(SPMD). Arrays are global, and the host computes the same in every process, except what
only process 0 does: write the run's directory and print.
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

from .faults import EXIT_MACHINE, lost_peer, machine_fault
from .supervise import EXIT_PEER, LOST_PEER


_T = TypeVar("_T")


@contextlib.contextmanager
def distributed(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: int = 300,
    heartbeat_timeout: int = 25,
    collective_errors: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """A context in which JAX's distributed runtime connects the processes of a run.

    Enter it before the first computation. JAX detects omitted arguments from SLURM's
    variables or a TPU pod's metadata.

    **Arguments:**

    - `coordinator`: `host:port` of process 0, as the others reach it.
    - `num_processes`: how many processes the run has.
    - `process_id`: the index of this process, from 0.
    - `start_timeout`: seconds to wait for the other processes to connect.
    - `heartbeat_timeout`: seconds of silence after which a process counts as dead.
    - `collective_errors`: exceptions that every process raises at the same point. Any
        other exception ends this process at once: with a sentence and `EXIT_PEER` or
        `EXIT_MACHINE` if another process or the machine has failed, and else with its
        traceback and exit code 1.

    **Raises:** `ValueError` if an argument is neither passed nor detected, `OSError` if
    the coordinator's port is in use. If the processes do not connect in time, JAX
    aborts this one.
    """
    if coordinator is not None and process_id == 0:
        _check_port(int(coordinator.rpartition(":")[2]))
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=heartbeat_timeout,
        )
    except ValueError as error:
        raise ValueError(
            "A process of many knows process 0, how many there are, and which of them "
            f"it is. JAX found no SLURM step and no TPU pod here ({error}): pass "
            "--coordinator, --processes and --process."
        ) from error
    try:
        yield
    except Exception as error:
        if not isinstance(error, collective_errors):
            _abort(error, heartbeat_timeout)
        raise
    finally:
        jax.distributed.shutdown()


def _check_port(port: int) -> None:
    """Checks that the coordinator's port is free, without which JAX aborts."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise OSError(
            error.errno,
            "Process 0 listens on a port of its own. Received "
            f"{port}, which cannot be had ({error.strerror}): choose another one.",
        ) from error


def _abort(error: Exception, heartbeat_timeout: int) -> NoReturn:
    """Ends this process at once: the other processes would wait for it forever."""
    fault, code = machine_fault(error), EXIT_MACHINE
    if lost_peer(error):
        fault, code = LOST_PEER, EXIT_PEER
    if fault is None:
        traceback.print_exception(error)
    else:
        print(f"grpojax: {fault}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if fault is None and isinstance(error, jax.errors.JaxRuntimeError):
        # A collective may fail before it is known that a process has died. If one has,
        # JAX detects it within the timeout, and ends this process with a message.
        time.sleep(1.2 * heartbeat_timeout)
    os._exit(1 if fault is None else code)


def is_multihost() -> bool:
    """Whether the run has several processes."""
    return jax.process_count() > 1


def is_process_0() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Logical or of `flag` over all processes. Collective: every process calls it."""
    if not is_multihost():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def broadcast_from_0(act: Callable[[], _T]) -> _T:
    """The result of `act()` on process 0, in all processes.

    Collective: every process calls it. An exception of `act` is raised in all of them.
    The result or exception must pickle.
    """
    if not is_multihost():
        return act()
    outcome: tuple[_T | None, Exception | None] = None, None
    if is_process_0():
        try:
            outcome = act(), None
        except Exception as error:
            outcome = None, error
    value, error = pickle.loads(_broadcast(pickle.dumps(outcome)))
    if error is not None:
        raise error
    return value


def on_process_0(act: Callable[[], _T]) -> _T | None:
    """The result of `act()` on process 0; `None` elsewhere.

    Collective, as `broadcast_from_0`: an exception of `act` is raised in all processes.
    The result need not pickle.
    """
    results: list[_T] = []
    broadcast_from_0(lambda: results.append(act()))
    return results[0] if results else None


def _broadcast(message: bytes) -> bytes:
    """Process 0's message, in all processes."""
    if not is_process_0():
        message = b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    data = np.zeros(length, np.uint8)
    data[: len(message)] = np.frombuffer(message, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes()
