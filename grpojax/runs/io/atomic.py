"""Atomic, durable writes of small files, and errors that say what to do."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..._files import publish


@contextlib.contextmanager
def explain_os_error(what: str, path: Path, unchanged: str) -> Iterator[None]:
    """A context that re-raises an `OSError` of a write with its cause and remedy.

    **Arguments:**

    - `what`: what is written, such as `"a run"`.
    - `path`: where.
    - `unchanged`: a sentence on what the failure left intact, without its full stop.

    **Raises:** `OSError` with the original `errno`.
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
        elif number in (errno.EROFS, errno.EACCES, errno.EPERM):
            why = "it is not writable"
            remedy = "Change its permissions, or choose another directory"
        elif number == errno.ENOENT:
            why = f"{os.fspath(path.parent)!r} does not exist any more"
            remedy = "Restore it from a backup, or start the run again"
        else:
            why, remedy = text, "Resume the run when that is fixed"
        raise OSError(
            number or errno.EIO,
            f"Could not write {what} to {os.fspath(path)!r}: {why}. {unchanged}. "
            f"{remedy}.",
        ) from error


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces a file's content atomically: no reader ever sees a part of it.

    **Arguments:**

    - `path`: the file; it need not exist, its directory must.
    - `content`: on the disk when this returns.

    **Raises:** `OSError` that says what to do; the file is then unchanged.

    !!! example

        ```python
        write_bytes("config.yaml", b"steps: 1\\n")
        ```
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
