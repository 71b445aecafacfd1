"""JSON-lines files: durable appends, strict and tolerant reading, truncation."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .atomic import explain_os_error


Record = Mapping[str, object]


def encode(*records: Record) -> bytes:
    """Records as lines of JSON; at any depth, numbers that are not finite are null."""
    lines = (json.dumps(_finite(record), allow_nan=False) for record in records)
    return "".join(f"{line}\n" for line in lines).encode()


def append(path: str | os.PathLike[str], *records: Record) -> bytes:
    """Appends records to a file; they are on the disk when this returns.

    **Returns:** what was appended.

    **Raises:** `OSError` that says what to do; the file is then unchanged.
    """
    return append_bytes(path, encode(*records))


def append_bytes(path: str | os.PathLike[str], content: bytes) -> bytes:
    """Appends lines to a file; see `append`."""
    path = Path(path)
    with (
        explain_os_error(path.name, path, "Its earlier lines are unchanged"),
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
    return content


def complete_lines(content: bytes) -> bytes:
    """A file's content without an unfinished last line."""
    return content[: content.rfind(b"\n") + 1]


def parse(content: bytes) -> list[dict]:
    """The records of a file's complete lines; `ValueError` for one that is not JSON."""
    return [json.loads(line) for line in complete_lines(content).splitlines()]


def truncate(content: bytes, step: int, saved: bytes = b"") -> tuple[bytes, str | None]:
    """A file of records in step order, truncated to a step, and its damage, if any.

    `saved` is the content at some time up to that step, if known: it is restored if
    `content` does not begin with it. Records of later steps and an unfinished last line
    are no damage: an interruption leaves them.
    """
    count = saved.count(b"\n")
    if not content.startswith(saved):
        return saved, (
            f"did not begin with the {count} lines that its checkpoint saved, which "
            "were restored"
        )
    kept, damaged = [saved], []
    rest = complete_lines(content[len(saved) :]).splitlines(keepends=True)
    for number, line in enumerate(rest, 1 + count):
        found = (record_in(line) or {}).get("step")
        if not isinstance(found, int):
            damaged.append(str(number))
        elif found <= step:
            kept.append(line)
    problem = "had lines that are no records, which were removed: "
    return b"".join(kept), problem + ", ".join(damaged) if damaged else None


def read_tolerant(
    path: str | os.PathLike[str], *, optional: bool = False
) -> tuple[list[dict[str, object]], list[str]]:
    """The readable records of a file that may be damaged, and a sentence for each flaw.

    That the file is missing is no flaw if it is `optional`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return [], [] if optional and missing else [unreadable(path, error)]
    # Not `splitlines`: JSON strings may contain other line separators unescaped.
    lines = text.split("\n")
    numbered = [(n, record_in(line)) for n, line in enumerate(lines, 1) if line.strip()]
    damaged, flaws = [number for number, record in numbered if record is None], []
    if damaged and damaged[-1] == len(lines):
        damaged.pop()
        flaws.append(f"The last line of `{path.name}` is truncated and was skipped.")
    if damaged:
        flaws.append(
            f"`{path.name}` has {len(damaged)} unreadable lines, the first of them line"
            f" {damaged[0]}; they were skipped."
        )
    return [record for _, record in numbered if record is not None], flaws


def unreadable(path: Path, error: Exception) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, FileNotFoundError):
        return f"`{path.name}` is missing."
    return f"`{path.name}` cannot be read: {error}".split("\n")[0]


def record_in(line: str | bytes) -> dict[str, object] | None:
    """The record in a line; `None` for a damaged line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # A number of 5,000 digits is one, too.
        return None
    return record if isinstance(record, dict) else None


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(inner) for inner in value]
    return value
