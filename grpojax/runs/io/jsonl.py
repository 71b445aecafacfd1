"""What of a journal, a JSONL file of records in the order of steps, is to be kept."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


Record = Mapping[str, object]


def cut(content: bytes, step: int, saved: bytes = b"") -> tuple[bytes, str | None]:
    """A journal as it was after a step.

    **Arguments:**

    - `content`: what was found, perhaps damaged.
    - `step`: records of later steps go.
    - `saved`: the journal as it was at some time up to that step, if that is known. It
        is brought back if what was found does not begin with it.

    **Returns:** what is to be kept, and what was wrong, in words, or `None`. Neither
    records of later steps nor half a last line are wrong: an interruption leaves them.
    """
    if not content.startswith(saved):
        lines = saved.count(b"\n")
        return saved, f"did not hold the {lines} lines it once held, and holds them now"
    kept, damaged = [saved], []
    for number, line in _lines(content[len(saved) :], 1 + saved.count(b"\n")):
        after = _step(line)
        if after is None:
            damaged.append(number)
        elif after <= step:
            kept.append(line)
    problem = None
    if damaged:
        numbers = ", ".join(map(str, damaged))
        problem = f"had lines that are no records, which were left out: {numbers}"
    return b"".join(kept), problem


def whole(content: bytes) -> bytes:
    """A journal without half a last line."""
    return content[: content.rfind(b"\n") + 1]


def records(content: bytes) -> list[dict]:
    """The whole lines of a journal, parsed."""
    return [json.loads(line) for line in whole(content).splitlines()]


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


def _lines(content: bytes, first: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines, numbered."""
    yield from enumerate(whole(content).splitlines(keepends=True), first)


def _step(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
