"""Atomic, durable writes of small files, locks, and errors that say what to do."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..._files import publish


@contextlib.contextmanager
def explain_os_error(what: str, path: Path, unchanged: str) -> Iterator[None]:
    """A context that re-raises an `OSError` of a write with its cause and remedy.

    `unchanged` is a sentence on what the failure left intact, without its full stop.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error)
        # TensorStore raises ValueError with the system's message in it.
        number = error.errno if isinstance(error, OSError) else None
        if "No space left" in text or number in (errno.ENOSPC, errno.EDQUOT):
            number = errno.ENOSPC
            why, remedy = "the disk is full", "Free some space and resume the run"
        elif "File too large" in text or number == errno.EFBIG:
            why = "a file would be larger than the limit"
            remedy = "Raise the limit (ulimit -f) and resume the run"
        elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
            why = "it is not writable"
            remedy = "Change its permissions, or choose another directory"
        elif number == errno.ENOENT:
            why = f"{os.fspath(path.parent)!r} does not exist any more"
            remedy = "Restore it from a backup, or start the run again"
        else:
            why = text.split("\n")[0]
            remedy = "Resume the run when that is fixed"
        raise OSError(
            number or errno.EIO,
            f"Could not write {what} to {os.fspath(path)!r}: {why}. {unchanged}. "
            f"{remedy}.",
        ) from error


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces a file's content atomically: no reader ever sees a part of it.

    **Raises:** `OSError` that says what to do; the file is then unchanged.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with explain_os_error(path.name, path, "Its old content is unchanged"):
        try:
            with unfinished.open("wb") as file:
                file.write(content)
            publish(unfinished, path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def write_json(path: str | os.PathLike[str], values: Mapping[str, object]) -> None:
    """Replaces a JSON file atomically; see `write_bytes`.

    **Raises:** `TypeError` or `ValueError` for what JSON cannot represent, such as NaN.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def lock_directory(directory: Path) -> int:
    """An exclusive lock on a directory, held by the returned descriptor until closed.

    It is taken on an open file (`flock`), not by the file's existence: the system
    releases it when the process ends, however it ends. A file system without locks
    excludes nobody.

    **Raises:** `BlockingIOError` that names the process that holds the lock.
    """
    path = directory / ".lock"
    with explain_os_error("a lock", path, "Nothing was changed"):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        raise BlockingIOError(
            errno.EWOULDBLOCK,
            f"A run is written by one process. {os.fspath(directory)!r} is being "
            f"written by process {holder}: wait for it, or stop it.",
        ) from error
    except OSError:
        pass
    with contextlib.suppress(OSError):
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
    return file
