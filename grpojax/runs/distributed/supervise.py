"""A process that another looks after, so that what ends it becomes words and a code.

When a process of a run is gone, the collectives of the others wait for it, and JAX ends
them from within, by SIGABRT, be it in the midst of a compiled program. Python has no
say in that; whoever started the process has.
"""

import os
import signal
import sys
import threading
import types


EXIT_PEER = 69
"""How a process leaves whose run has lost another one: EX_UNAVAILABLE of sysexits.h."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT)


def look_after() -> None:
    """Forks: the child returns from here, and the parent ends as the child does.

    The parent passes SIGTERM and SIGINT on, and leaves with the child's exit code. Of a
    child that was aborted it says why that may be, and leaves with `EXIT_PEER`; of one
    that another signal has ended it leaves as a shell would, with 128 and more. A child
    whose parent is gone ends at once. To be called before there are threads.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Signals that come between the fork and the handlers are for the handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        os.close(writing)
        # A group of its own: the terminal tells the parent alone of a Ctrl-C.
        os.setpgid(0, 0)
        threading.Thread(target=_leave_after, args=(reading,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        return
    os.close(reading)

    def forward(number: int, frame: types.FrameType | None) -> None:
        del frame
        os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    _, status = os.waitpid(child, 0)
    sys.exit(_code(status))


def _leave_after(reading: int) -> None:
    os.read(reading, 1)  # Returns when nobody can write any more.
    os._exit(EXIT_PEER)


def _code(status: int) -> int:
    """The exit code of a process that waits for one, and a word about its end."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    name = signal.Signals(os.WTERMSIG(status)).name
    if name == "SIGABRT":
        print(
            "grpojax: this process was aborted, as JAX does when another process of "
            "the run has died or cannot be reached; it says above what it knows. A run "
            "goes on with all of its processes or with none: look at what the others "
            "said last, start all of them again, and go on with --resume.",
            file=sys.stderr,
        )
        return EXIT_PEER
    print(f"grpojax: this process was ended by {name}.", file=sys.stderr)
    return 128 + os.WTERMSIG(status)
