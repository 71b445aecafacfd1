"""The program that `CodeTests` starts: code against tests, one process for each.

It reads a job from its standard input and writes whether each test passed. It imports
nothing but the standard library, and never runs the code itself.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import NoReturn


_PASSED = 86  # Not what `exit()` in the code would give.
_FILES = 16 * 2**20  # Bytes of a file that a test may write.
# Of Linux: `unshare`, and `prctl` for a signal when the parent dies.
_NEW_USER, _NEW_NETWORK, _PARENT_DIED = 0x10000000, 0x40000000, 1


def main() -> None:
    """Runs the tests of a job."""
    job = json.load(sys.stdin)
    _leave_network()
    found = [_run(number, test, job) for number, test in enumerate(job["tests"])]
    json.dump(found, sys.stdout)


def _leave_network() -> None:
    """A network namespace without interfaces; else no sockets of Python's."""
    libc = ctypes.CDLL(None)
    for flags in (_NEW_USER | _NEW_NETWORK, _NEW_NETWORK):
        if getattr(libc, "unshare", lambda _: -1)(flags) == 0:
            return

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("there is no network here")

    for name in ("socket", "create_connection", "getaddrinfo"):
        setattr(socket, name, refuse)


def _run(number: int, test: str | dict[str, str], job: dict) -> bool:
    """Whether one test passed, in a process of its own."""
    reads = str(test["input"]) if isinstance(test, dict) else ""
    read, written = f"{number}.in", f"{number}.out"
    with open(read, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(reads)
    child = os.fork()
    if child == 0:
        _become_test(read, written, test, job)
    code = _wait(child, job["seconds"])
    if code != _PASSED or isinstance(test, str):
        return code == _PASSED
    with open(written, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip() for line in file.read().strip().splitlines()]
    return lines == [x.rstrip() for x in str(test["output"]).strip().splitlines()]


def _become_test(
    read: str, written: str, test: str | dict[str, str], job: dict
) -> NoReturn:
    """Runs the code and its test in this process, which then ends."""
    code = 1
    try:
        os.setpgid(0, 0)
        getattr(ctypes.CDLL(None), "prctl", max)(_PARENT_DIED, signal.SIGKILL)
        _redirect(read, written)
        _limit(job["seconds"], job["memory"])
        _execute(job["code"], test if isinstance(test, str) else "")
        code = _PASSED
    except SystemExit as left:
        # The usual end of a script, but no way around what is asserted after it.
        code = _PASSED if isinstance(test, dict) and not left.code else 1
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)


def _redirect(read: str, written: str) -> None:
    created = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(read, os.O_RDONLY), 0)
    os.dup2(os.open(written, created, 0o600), 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)


def _limit(seconds: float, memory: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: _FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        with contextlib.suppress(ValueError, OSError):  # Not every system has all.
            resource.setrlimit(kind, (value, value))


def _execute(code: str, test: str) -> None:
    scope = {"__name__": "__main__"}
    exec(compile(code, "completion.py", "exec"), scope)
    exec(compile(test, "test.py", "exec"), scope)


def _wait(child: int, seconds: float) -> int | None:
    """The exit code of a process, which is stopped when its time is up."""
    end = time.monotonic() + seconds
    done, status, pause = 0, 0, 0.001
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # With what it started.
    if not done:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
