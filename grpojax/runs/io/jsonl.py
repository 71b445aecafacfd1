"""What of a journal, a JSONL file of records in the order of steps, is to be kept."""

import json
from collections.abc import Iterator


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


def _lines(content: bytes, first: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines, numbered."""
    yield from enumerate(whole(content).splitlines(keepends=True), first)


def _step(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
