"""Errors whose cause is the machine, or another process of the run; needs no JAX."""

import errno
from collections.abc import Iterator


EXIT_MACHINE = 74
"""The exit code of a command that the machine has denied room, a file or memory:
EX_IOERR of sysexits.h."""

_REMEDY = "A run goes on with --resume when that is fixed."
_NUMBERS = {
    errno.ENOSPC: "the disk is full, or has no inodes left",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file would be larger than the limit (ulimit -f)",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "there is not enough memory",
}
_OF_FILES = (
    *(errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EEXIST),
)
# What libraries write that raise errors of other kinds.
_WORDS = {
    "No space left on device": _NUMBERS[errno.ENOSPC],
    "Disk quota exceeded": _NUMBERS[errno.EDQUOT],
    "File too large": _NUMBERS[errno.EFBIG],
    "RESOURCE_EXHAUSTED": _NUMBERS[errno.ENOMEM],
    "Cannot allocate memory": _NUMBERS[errno.ENOMEM],
    "bad_alloc": _NUMBERS[errno.ENOMEM],
    "can't start new thread": "no thread can be started, for lack of memory or by a "
    "limit (ulimit -v, ulimit -u)",
}
# Of the collectives on CPUs, and of the service by which processes know each other.
_OF_PEERS = ("gloo", "coordination service", "coordination agent", "heartbeat")


def machine_fault(error: BaseException) -> str | None:
    """What the machine has denied, in a sentence, if an error has such a cause."""
    known = None
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, OSError) and text.startswith(
            f"[Errno {cause.errno}] Could"
        ):
            return text.partition("] ")[2]  # It says what to do already.
        found = _NUMBERS.get(cause.errno or 0) if isinstance(cause, OSError) else None
        if isinstance(cause, MemoryError):
            found = _NUMBERS[errno.ENOMEM]
        elif isinstance(cause, OSError) and cause.errno in _OF_FILES:
            found = text
        for words, meaning in _WORDS.items():
            found = found or (meaning if words in text else None)
        if found is not None:
            file = getattr(cause, "filename", None)
            where = f" ({file})" if file and str(file) not in found else ""
            known = f"{found}{where}"
    if known is None:
        return None
    return f"{known[:1].upper()}{known[1:]}. {_REMEDY}"


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the run has gone."""
    texts = (str(cause).lower() for cause in _causes(error))
    return any(words in text for text in texts for words in _OF_PEERS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
