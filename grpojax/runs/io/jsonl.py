"""JSON-lines files: durable appends, strict reading, truncation to a step."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .atomic import explain_os_error


Record = Mapping[str, object]


def encode(*records: Record) -> bytes:
    """Records as lines of JSON.

    Non-finite numbers, which JSON does not have, become null at any depth.
    """
    lines = (json.dumps(_finite(record), allow_nan=False) for record in records)
    return "".join(f"{line}\n" for line in lines).encode()


def append(path: str | os.PathLike[str], *records: Record) -> None:
    """Appends records to a file; they are on the disk when this returns.

    **Arguments:**

    - `path`: the file; it need not exist, its directory must.
    - `records`: see `encode`.

    **Raises:** `OSError` that says what to do; the file is then unchanged.

    !!! example

        ```python
        append("metrics.jsonl", {"step": 1, "reward": 0.5})
        ```
    """
    path, content = Path(path), encode(*records)
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


def parse(content: bytes) -> list[dict]:
    """The records of a file's complete lines.

    **Raises:** `ValueError` for a complete line that is not JSON.
    """
    return [json.loads(line) for line in complete_lines(content).splitlines()]


def complete_lines(content: bytes) -> bytes:
    """A file's content without an unfinished last line."""
    return content[: content.rfind(b"\n") + 1]


def truncate(content: bytes, step: int, saved: bytes = b"") -> tuple[bytes, str | None]:
    """A file of records in step order, truncated to a step.

    **Arguments:**

    - `content`: the file's content, possibly damaged.
    - `step`: records of later steps are removed.
    - `saved`: the content at some time up to that step, if known. It is restored if
        `content` does not begin with it.

    **Returns:** the new content, and the damage in words or `None`. Records of later
    steps and an unfinished last line are no damage: an interruption leaves them.
    """
    if not content.startswith(saved):
        lines = saved.count(b"\n")
        return saved, (
            f"did not begin with the {lines} lines that its checkpoint saved, which "
            "were restored"
        )
    kept, damaged = [saved], []
    lines = _numbered_lines(content[len(saved) :], 1 + saved.count(b"\n"))
    for number, line in lines:
        line_step = _step(line)
        if line_step is None:
            damaged.append(number)
        elif line_step <= step:
            kept.append(line)
    problem = None
    if damaged:
        numbers = ", ".join(map(str, damaged))
        problem = f"had lines that are no records, which were removed: {numbers}"
    return b"".join(kept), problem


def read_tolerant(
    path: str | os.PathLike[str], *, optional: bool = False
) -> tuple[list[dict[str, object]], list[str]]:
    """The readable records of a JSONL file that may be missing or damaged.

    **Arguments:**

    - `path`: the file.
    - `optional`: whether the file may be missing, which then is no flaw.

    **Returns:** the records in file order, and a sentence for each flaw.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return [], [] if optional and missing else [unreadable(path, error)]
    # Not `splitlines`: JSON strings may contain other line separators unescaped.
    lines = text.split("\n")
    found, damaged, flaws = [], [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            found.append(record)
        else:
            damaged.append(number)
    if damaged and damaged[-1] == len(lines):
        damaged.pop()
        flaws.append(f"The last line of `{path.name}` is truncated and was skipped.")
    if damaged:
        flaws.append(
            f"`{path.name}` has {len(damaged)} unreadable lines, the first of them line"
            f" {damaged[0]}; they were skipped."
        )
    return found, flaws


def unreadable(path: Path, error: Exception) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, FileNotFoundError):
        return f"`{path.name}` is missing."
    return f"`{path.name}` cannot be read: {error}".split("\n")[0]


def _numbered_lines(content: bytes, first: int) -> Iterator[tuple[int, bytes]]:
    yield from enumerate(complete_lines(content).splitlines(keepends=True), first)


def _step(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(inner) for inner in value]
    return value
