"""A lock on a directory that ends with the process that holds it."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from ..atomic import explain_os_error


class Lock:
    """An exclusive lock of this process on a directory, released by `close`.

    It is taken on an open file (`flock`), not by the file's existence: the system
    releases it when the process ends, however it ends. A file system without locks
    excludes nobody.

    **Arguments:**

    - `directory`: the directory; its file `.lock` is created.

    **Raises:** `BlockingIOError` that names the process that holds the lock.

    !!! example

        ```python
        with Lock(Path("out/run")):
            ...
        ```
    """

    def __init__(self, directory: Path):
        path = directory / ".lock"
        with explain_os_error("a lock", path, "Nothing was changed"):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._file, 20).decode(errors="replace").strip()
            self.close()
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"A run is written by one process. {os.fspath(directory)!r} is being "
                f"written by process {holder}: wait for it, or stop it.",
            ) from error
        except OSError:
            pass
        with contextlib.suppress(OSError):
            os.truncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock; called once."""
        os.close(self._file)
