"""Errors whose cause is the machine, or another process, are told in a sentence."""

import errno
import os
import re

import pytest

from grpojax.runs.cli import process
from grpojax.runs.distributed.faults import EXIT_MACHINE, lost_peer, machine_fault


def chained(*errors: BaseException) -> BaseException:
    """The last of some errors, each of which was raised from the one before."""
    for cause, error in zip(errors, errors[1:], strict=False):
        error.__cause__ = cause
    return errors[-1]


def system(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file)


FAULTS = [
    (system(errno.ENOSPC, "events.jsonl"), "The disk is full, or .*events.jsonl"),
    (system(errno.EFBIG), "limit .ulimit -f."),
    (system(errno.EMFILE), "ulimit -n"),
    (system(errno.EACCES, "/x/y"), "Permission denied: '/x/y'"),
    (system(errno.EISDIR, "/x/metrics.jsonl"), "Is a directory: '/x/metrics.jsonl'"),
    (MemoryError(), "not enough memory"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "memory"),
    (RuntimeError("can't start new thread"), "No thread can be started"),
    (ValueError("write failed: No space left on device [x]"), "disk is full"),
    (chained(system(errno.ENOSPC), KeyError("x"), RuntimeError("x")), "disk is full"),
    (
        chained(
            system(errno.ENOSPC),
            OSError(errno.ENOSPC, "Could not write metrics.jsonl: the disk is full."),
            RuntimeError("x"),
        ),
        "^Could not write metrics.jsonl: the disk is full.$",
    ),
]


@pytest.mark.parametrize("error, said", FAULTS)
def test_a_fault_of_the_machine_ends_a_command_in_a_line(error, said, capsys):
    def fail():
        raise error

    assert process.run("grpojax", fail) == EXIT_MACHINE == 74
    line = capsys.readouterr().err
    assert line.startswith("grpojax: ") and line.count("\n") == 1
    sentence = machine_fault(error)
    assert sentence is not None and sentence in line
    assert re.search(said, sentence)


@pytest.mark.parametrize("error", [KeyError("x"), ConnectionResetError(), ValueError()])
def test_an_error_of_the_library_keeps_its_traceback(error):
    def fail():
        raise error

    assert machine_fault(error) is None
    with pytest.raises(type(error)):
        process.run("grpojax", fail)


PEERS = [
    ValueError("INVALID_ARGUMENT: Gloo all-reduce failed: Connection reset by peer"),
    RuntimeError("UNAVAILABLE: ... the Coordination Service ..."),
    RuntimeError("The task 1 is unhealthy: heartbeat timeout"),
    chained(ValueError("[gloo/transport] Connection closed by peer"), OSError("x")),
]


@pytest.mark.parametrize("error", PEERS)
def test_a_peer_that_is_gone_is_no_invalid_input(error):
    assert lost_peer(error) and not lost_peer(ValueError("a bad recipe"))
    with pytest.raises(type(error)), process.invalid_input():
        raise error
