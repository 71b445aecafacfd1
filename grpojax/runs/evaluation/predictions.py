"""Samples of each problem in an evaluation, in a file that survives a kill.

    file   = header (line for each problem, in order)
    header = {"format": 1, "problems": how many, "samples": of each, ...}
    line   = {"problem": i, "prompt": text, "prompt_tokens": [id],
              "answer": the right one or null, "silent": is an empty turn correct,
             "task": of a mixture, "row": {column: value} that measures need,
              "samples": [{"text", "tokens": [id], "correct", "answer", "terminated",
                           "length", "rewards": {name: float}}]}

Each line is one JSON object. Its last key, `checksum`, is a digest of it and of the
lines before it: a line that was changed, moved or doubled is known, and those from it
on are sampled again. The header holds everything that the lines depend on, so
that a file is only continued by the evaluation that began it. Lines are appended batch
by batch and are on the disk before the next batch; an unfinished last line is dropped.
The evaluation is complete when there are as many lines as problems.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...measures import AbstractMeasures
from ..io import jsonl
from ..io.atomic import write_bytes
from .result import EvaluationResult


FORMAT = 1


class Predictions(NamedTuple):
    """Content of a file of predictions.

    **Fields:**

    - `header`: the evaluation's settings and fingerprints.
    - `records`: the lines of the problems.
    """

    header: Mapping
    records: list[dict]

    @property
    def result(self) -> EvaluationResult | None:
        """The result of the problems so far; `None` before the first."""
        if not self.records:
            return None
        names = ("max_completion_length", "training_answer")
        return EvaluationResult.of(self.records, *(self.header[x] for x in names))

    @property
    def complete(self) -> bool:
        """Whether all problems are there."""
        return len(self.records) == self.header["problems"]

    def to_json(self, measures: AbstractMeasures | None = None) -> dict[str, object]:
        """All that the problems so far say, which may not be all problems.

        **Arguments:**

        - `measures`: of the environment's own, as `env.own_measures`.

        **Returns:** `n_total`, how many problems there should be; `complete`, whether
        there are; and what `EvaluationResult.to_json` has.
        """
        known = {"n_total": self.header["problems"], "complete": self.complete}
        found = self.result
        return known | ({} if found is None else found.measured_by(measures).to_json())


def read(path: str | os.PathLike[str]) -> Predictions:
    """Reads a file of predictions, complete or not.

    **Raises:** `ValueError` naming the line that is none; `OSError` without a file.

    !!! example

        ```python
        read("predictions/100-sampled.jsonl").result.accuracy
        ```
    """
    content = jsonl.complete_lines(Path(path).read_bytes())
    if not content:
        raise ValueError(
            f"{os.fspath(path)!r} has no header: its evaluation was not started. Start "
            "it again."
        )
    return _parse(content, path)


class Begun(NamedTuple):
    """A file of predictions that is to be continued.

    **Fields:**

    - `records`: the lines of the problems so far.
    - `checksum`: of the last line, for `append`; `None` in a file of an older version.
    - `problem`: a sentence on what was damaged, and removed, if anything.
    """

    records: list[dict]
    checksum: str | None
    problem: str | None


def resume(
    path: str | os.PathLike[str], header: Mapping[str, object], *, replace: bool = False
) -> Begun:
    """Starts a file of predictions, or continues one of the same evaluation.

    An unfinished last line is removed, and so is what follows a damaged one.

    **Arguments:**

    - `path`: the file; its directory is made if need be.
    - `header`: plain values: `problems`, `samples`, `max_completion_length`, `success`,
        `training_answer`, and everything else that the completions depend on.
    - `replace`: whether a file that was begun by another evaluation, or is none of
        predictions, is moved aside and named; else it is refused.

    **Raises:** `ValueError` if the file was begun by another evaluation, with every
    difference, or is none of predictions.
    """
    path = Path(path)
    wanted = {"format": FORMAT, **header}
    line, checksum = _with_checksum(wanted, "")
    found = path.read_bytes() if path.exists() else b""
    content, problem = jsonl.complete_lines(found), None
    if content or not line.startswith(found):
        fault = _unlike(path, content, wanted)
        if fault is None:
            return _continue(path, found)
        if not replace:
            raise ValueError(fault)
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        problem = f"{fault} It is {aside.name} now, and its problems are sampled again."
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, line)
    return Begun([], checksum, problem)


def append(
    path: str | os.PathLike[str], records: Sequence[Mapping], checksum: str | None
) -> str | None:
    """Appends the lines of further problems; they are on the disk when this returns.

    **Arguments:**

    - `checksum`: that of the line before; see `Begun`.

    **Returns:** that of the last line now.
    """
    if checksum is None:
        jsonl.append(path, *records)
        return None
    lines = []
    for record in records:
        line, checksum = _with_checksum(record, checksum)
        lines.append(line)
    jsonl.append_bytes(path, b"".join(lines))
    return checksum


def _unlike(path: Path, content: bytes, wanted: Mapping) -> str | None:
    """Why a file is not that of the evaluation with this header, if it is not."""
    if not content:
        return f"{os.fspath(path)!r} is no file of predictions: choose another name."
    header = _scan(content[: content.index(b"\n") + 1])
    if header.fault is not None:
        return _not_predictions(path, header.fault)
    differences = _differences(header.values[0], json.loads(jsonl.encode(wanted)))
    if not differences:
        return None
    return (
        f"{os.fspath(path)!r} holds the predictions of another evaluation: "
        f"{'; '.join(differences)}. Evaluate into another file, or move that one away."
    )


def _continue(path: Path, found: bytes) -> Begun:
    """The intact lines of a file of the same evaluation, which alone are left."""
    scanned = _scan(jsonl.complete_lines(found))
    problem = None
    if scanned.fault is not None:
        problem = (
            f"{os.fspath(path)!r} is not as it was written: {scanned.fault}. From "
            "there on its problems are sampled again."
        )
    if scanned.size < len(found):
        os.truncate(path, scanned.size)
    return Begun(scanned.values[1:], scanned.checksum, problem)


class _Scanned(NamedTuple):
    """The intact lines at the beginning of a file."""

    values: list[dict]
    size: int
    checksum: str | None
    fault: str | None


_CHECKED = re.compile(rb'(.*), "checksum": "([0-9a-f]{16})"\}', re.DOTALL)


def _scan(content: bytes) -> _Scanned:
    values, size, checksum = [], 0, ""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            value, checksum = _verified(line, checksum)
            known = "format" if number == 1 else "problem"
            wanted = FORMAT if number == 1 else number - 2
            if value[known] != wanted:
                raise ValueError(f"{known!r} is {value[known]!r}, not {wanted!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return _Scanned(values, size, checksum, f"line {number}: {error}")
        values.append(value)
        size += len(line) + 1
    return _Scanned(values, size, checksum, None)


def _with_checksum(record: Mapping, before: str) -> tuple[bytes, str]:
    """A line that ends in its checksum, and the checksum."""
    body = jsonl.encode(record).rstrip(b"\n")
    checksum = _checksum_of(body, before)
    return body[:-1] + f', "checksum": "{checksum}"}}\n'.encode(), checksum


def _verified(line: bytes, before: str | None) -> tuple[dict, str | None]:
    """A line without its checksum, and that; `None` in a file of an older version.

    **Raises:** `ValueError` for another checksum than of it and the lines before.
    """
    found = _CHECKED.fullmatch(line)
    body = line if found is None else found[1] + b"}"
    checksum = None if found is None else found[2].decode()
    value = json.loads(body)
    # The first line says whether the file is of a version with checksums.
    older = checksum is None and not before
    if not older and (
        checksum is None or before is None or checksum != _checksum_of(body, before)
    ):
        raise ValueError("its checksum is not that of the line and of those before it")
    return value, checksum


def _checksum_of(body: bytes, before: str) -> str:
    return hashlib.blake2b(before.encode() + body, digest_size=8).hexdigest()


def _not_predictions(path: str | os.PathLike[str], fault: str) -> str:
    return (
        f"A file of predictions has a header of format {FORMAT}, and then a line for "
        f"each problem in order. Received {os.fspath(path)!r}, {fault}. Truncate it "
        "there, and resume."
    )


def _parse(data: bytes, path: str | os.PathLike[str]) -> Predictions:
    scanned = _scan(data)
    if scanned.fault is not None:
        raise ValueError(_not_predictions(path, scanned.fault))
    header, *records = scanned.values
    return Predictions(header, records)


def _differences(old: object, new: object, name: str = "") -> list[str]:
    """Differences between two headers, by dotted key."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in dict.fromkeys([*old, *new])
            for difference in _differences(
                old.get(key), new.get(key), f"{name}.{key}" if name else key
            )
        ]
    same = old == new
    return [] if same else [f"{name} was {json.dumps(old)}, now {json.dumps(new)}"]
