"""A supervisor process that turns the abort of a run's process into an exit code.

When a process of a multi-process run dies, the collectives of the others block, and JAX
ends those processes from C++ by SIGABRT, even in the middle of a compiled program.
Python cannot catch that; the parent process can.
"""

import os
import signal
import sys
import threading

from .preemption import DEFERRED


EXIT_PEER = 69
"""The exit code of a process whose run lost another process: EX_UNAVAILABLE of
sysexits.h."""

LOST_PEER = (
    "another process of the run has died or cannot be reached. A run continues with "
    "all of its processes or with none: read the last messages of the others, start "
    "all of them again, and resume with --resume."
)
"""What to do then."""

_FORWARDED = (*DEFERRED, signal.SIGINT)


def fork_supervised() -> None:
    """Forks a supervisor: returns in the child; the parent exits with its status.

    The parent forwards SIGTERM, SIGHUP and SIGINT. If the child was aborted, it
    explains the likely cause and exits with `EXIT_PEER`; if another signal ended the
    child, with 128 plus its number, as a shell does. A child whose parent dies exits at
    once. Call this before any thread is started.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked signals stay pending until `sigwait`: none is lost, whenever it comes.
    awaited = {*_FORWARDED, signal.SIGCHLD}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        os.close(writing)
        # Its own process group: the terminal sends Ctrl-C to the parent alone.
        os.setpgid(0, 0)
        thread = threading.Thread(target=_exit_with_parent, args=(reading,))
        thread.daemon = True
        thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        return
    os.close(reading)
    # Pending signals are discarded where their action is to be ignored.
    for number in awaited:
        signal.signal(number, lambda *_: None)
    while True:
        number = signal.sigwait(awaited)
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            sys.exit(_exit_code(status))


def _exit_with_parent(reading: int) -> None:
    os.read(reading, 1)  # Returns when the parent's end of the pipe is closed.
    os._exit(EXIT_PEER)


def _exit_code(status: int) -> int:
    """The supervisor's exit code for the child's wait status; explains signals."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    name = signal.Signals(os.WTERMSIG(status)).name
    if name == "SIGABRT":
        print(
            "grpojax: this process was aborted by JAX, whose message is above: "
            f"{LOST_PEER}",
            file=sys.stderr,
        )
        return EXIT_PEER
    print(f"grpojax: this process was ended by {name}.", file=sys.stderr)
    return 128 + os.WTERMSIG(status)
