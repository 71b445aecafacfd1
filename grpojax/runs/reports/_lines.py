"""Files that may be missing, cut short or broken: what is readable, and what is not."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import yaml


Record = dict[str, object]


def read_lines(path: Path, flaws: list[str], *, optional: bool = False) -> list[Record]:
    """The records of a JSONL file, without those that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
            flaws.append(_unreadable(path, error))
        return []
    # Not `splitlines`: text may hold line separators that JSON leaves as they are.
    lines = text.split("\n")
    records, bad = [], []
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            bad.append(place)
    if bad and bad[-1] == len(lines):
        bad.pop()
        flaws.append(f"The last line of `{path.name}` is cut short; it is left out.")
    if bad:
        flaws.append(
            f"`{path.name}` has {len(bad)} lines that cannot be read, the first of them"
            f" line {bad[0]}; they are left out."
        )
    return records


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"`{path.name}` is missing."
    return f"`{path.name}` cannot be read: {error}".split("\n")[0]


def read_mapping(
    path: Path, parse: Callable[[str], object], flaws: list[str]
) -> Record:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        flaws.append(_unreadable(path, error))
        return {}
    if not isinstance(values, dict):
        flaws.append(f"`{path.name}` holds no mapping.")
        return {}
    return values


def number(value: object) -> float | None:
    """A finite number, or `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
