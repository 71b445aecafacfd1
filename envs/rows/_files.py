"""Files of rows: JSON lines, JSON, CSV, TSV and Parquet, with the place of each row."""

import csv
import importlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from grpojax._extras import optional


class Fault(NamedTuple):
    """What is wrong with a row that cannot be read, in place of the row."""

    words: str


Placed = tuple[str, object]
"""Where a row is from, as in `rows.csv, line 3`, and the row or its `Fault`."""


def read_file(path: Path) -> Iterator[Placed]:
    """The rows of a file with their places, in order.

    A row that cannot be read is a `Fault`, for the caller to refuse or to skip.

    **Raises:** `ValueError` for a file of another kind, or one that cannot be read.
    """
    readers = {
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"A file of rows is {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}. Received "
            f"{os.fspath(path)!r}: convert it, or rename it if it is one of these."
        )
    return reader(path)


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of the files that `read_file` reads."""


def _json_lines(path: Path) -> Iterator[Placed]:
    # Binary mode: in text mode a line would also end at the U+2028 in some questions.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield f"{path}, line {number}", _json_value(line)


def _json_value(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Fault(f"it is not a JSON object: {line.strip()!r:.80}")


def _json(path: Path) -> Iterator[Placed]:
    text = _text(path)
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError(
            f"A JSON file holds a list of rows. {path} is nested too deeply: write one "
            "object per row."
        ) from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # One object per line, under another name.
            return _json_lines(path)
        raise ValueError(
            f"A .json file holds JSON. {path}, line {error.lineno}, is not: "
            f"{error.msg}. Correct it; one object per line is a .jsonl file."
        ) from None
    if isinstance(values, Mapping):
        lists = [key for key, value in values.items() if isinstance(value, list)]
        if len(lists) != 1:
            raise ValueError(
                "A JSON file holds a list of rows, or an object with one list. "
                f"{path} holds an object with the lists {lists} among its keys "
                f"{list(values)[:20]}: write the rows as a list of objects."
            )
        values = values[lists[0]]
    if not isinstance(values, list):
        raise ValueError(
            f"A JSON file holds a list of rows. {path} holds {values!r:.80}: write the "
            "rows as a list of objects."
        )
    return number_rows(f"{path}, row", values)


def _csv(path: Path) -> Iterator[Placed]:
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if delimiter not in first:
        delimiter = next((x for x in ";\t" if x in first), delimiter)
    names: list[str] | None = None
    for line, fields in _records(path, text, delimiter):
        place = f"{path}, line {line}"
        if names is None:
            names = fields
            _check_header(path, names)
        elif len(fields) == len(names):
            yield place, dict(zip(names, fields, strict=True))
        else:
            words = f"it has {len(fields)} fields, and the first line {len(names)}"
            yield place, Fault(f"{words}: a text with {delimiter!r} needs quotes")


def _records(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The records of a CSV file, each with its first line; none for empty lines."""
    # Line breaks as they are, so that a text in quotes keeps its own.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(len(text) + 1)  # A field may be of any length.
    records, line = [], 1
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            "A CSV file has fields between delimiters, and texts with delimiters or "
            f"line breaks in double quotes. {path}, line {line}, has not: {error}. "
            "Correct it."
        ) from None
    finally:
        csv.field_size_limit(limit)
    return records


def _check_header(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            "The first line of a CSV file names its columns, each once. "
            f"{path} has {twice[0]!r} twice: rename one."
        )


def _parquet(path: Path) -> Iterator[Placed]:
    pyarrow = optional("pyarrow", f"The file {os.fspath(path)!r}")
    parquet = importlib.import_module("pyarrow.parquet")

    def rows() -> Iterator[object]:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(
                f"A .parquet file holds Parquet. {path} cannot be read: "
                f"{str(error).splitlines()[0]:.200} Write it again."
            ) from None

    return number_rows(f"{path}, row", rows())


def _text(path: Path) -> str:
    """The text of a file, without the mark that some programs begin it with."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"A file of rows is UTF-8. {path}, line {line}, has the byte "
            f"0x{data[error.start]:02x}, which is not: save the file as UTF-8."
        ) from None


def number_rows(prefix: str, rows: Iterable[object]) -> Iterator[Placed]:
    """Rows with their numbers as places, from 1."""
    return ((f"{prefix} {number}", row) for number, row in enumerate(rows, 1))
