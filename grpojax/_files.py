"""Durable file operations: fsync of directories, and atomic replacement of files."""

import os
from pathlib import Path


def fsync_directory(path: Path) -> None:
    """Flushes a directory's entries, such as a rename in it, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> None:
    """Moves a complete file into place, atomically and durably.

    Readers of `path` see the old content or the new, also after a crash.

    **Arguments:**

    - `temporary`: a file in the same file system, which is gone afterwards.
    - `path`: its final name; an existing file is replaced.

    **Raises:** `OSError`; `path` is then unchanged or the new file.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)
