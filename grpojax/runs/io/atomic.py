"""Files that are written whole, or by whole lines, and are on the disk afterwards."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


@contextlib.contextmanager
def explained(what: str, path: Path, kept: str) -> Iterator[None]:
    """Says in an `OSError` what could not be written, why, what is left, what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        text = str(error)
        # Tensorstore raises ValueError, with the system's words in it.
        number = error.errno if isinstance(error, OSError) else None
        if "No space left" in text or number in (errno.ENOSPC, errno.EDQUOT):
            number = errno.ENOSPC
            why, remedy = "the disk is full", "Free some space and resume the run"
        elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
            why = "nothing may be written there"
            remedy = "Change its permissions, or choose another directory"
        elif number == errno.ENOENT:
            why = f"{os.fspath(path.parent)!r} is gone"
            remedy = "Bring it back from a copy, or start the run anew"
        else:
            why, remedy = text, "Resume the run when that is mended"
        raise OSError(
            number or errno.EIO,
            f"Could not write {what} to {os.fspath(path)!r}: {why}. {kept}. {remedy}.",
        ) from error


def sync_directory(path: Path) -> None:
    """Puts a directory's list of names on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all: no reader ever sees half of it.

    **Raises:** `OSError` that says what to do; the file is then as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with explained(path.name, path, "What was there is as it was"):
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_json(path: str | os.PathLike[str], values: Mapping[str, object]) -> None:
    """Writes a JSON file whole or not at all: no reader ever sees half of it."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def append_json(path: str | os.PathLike[str], *records: Mapping[str, object]) -> None:
    """Appends lines to a JSONL file, which are on the disk when this returns.

    Numbers that are not finite, which JSON has not, become null, wherever they are.

    **Raises:** `OSError` that says what to do; the file is then as it was.
    """
    path = Path(path)
    lines = [json.dumps(_finite(record), allow_nan=False) for record in records]
    content = "".join(f"{line}\n" for line in lines).encode()
    with (
        explained(path.name, path, "The lines before are as they were"),
        path.open("ab", buffering=0) as file,
    ):
        before = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(content):
                written += file.write(content[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(inner) for inner in value]
    return value
