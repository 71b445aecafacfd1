"""Reading files that may be missing, truncated or damaged, without raising."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import yaml

from ...io.jsonl import read_tolerant, Record, unreadable


Parsed = TypeVar("Parsed")


def read_mapping(
    path: Path, parse: Callable[[str], object]
) -> tuple[Record, list[str]]:
    """A file that holds one mapping.

    **Returns:** the mapping, empty if it cannot be read, and a sentence for each flaw.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return {}, [unreadable(path, error)]
    if not isinstance(values, dict):
        return {}, [f"`{path.name}` does not contain a mapping."]
    return values, []


def read_records(
    path: Path, parse: Callable[[Record], Parsed], *, optional: bool = False
) -> tuple[list[Parsed], list[str]]:
    """The parsed records of a JSONL file, without those that `parse` rejects.

    **Arguments:**

    - `parse`: raises `ValueError` for a record that lacks a required key.
    - `optional`: whether the file may be missing, which then is no flaw.

    **Returns:** the parsed records in file order, and a sentence for each flaw.
    """
    records, flaws = read_tolerant(path, optional=optional)
    parsed = list(_accepted(records, parse))
    if len(parsed) < len(records):
        flaws.append(
            f"`{path.name}` has {len(records) - len(parsed)} lines that lack a required"
            " key; they were skipped."
        )
    return parsed, flaws


def _accepted(
    records: Iterable[Record], parse: Callable[[Record], Parsed]
) -> Iterable[Parsed]:
    for record in records:
        try:
            yield parse(record)
        except ValueError:
            continue
