"""Samples of each problem in an evaluation, in a file that survives a kill.

    file   = header (line for each problem, in order)
    header = {"format": 1, "problems": how many, "samples": of each, ...}
    line   = {"problem": i, "prompt": text, "prompt_tokens": [id],
              "answer": the right one or null, "silent": is an empty turn correct,
             "task": of a mixture, "row": {column: value} that measures need,
              "samples": [{"text", "tokens": [id], "correct", "answer", "terminated",
                           "length", "rewards": {name: float}}]}

Each line is one JSON object. The header holds everything that the lines depend on, so
that a file is only continued by the evaluation that began it. Lines are appended batch
by batch and are on the disk before the next batch; an unfinished last line is dropped.
The evaluation is complete when there are as many lines as problems.
"""

import json
import os
from collections.abc import Mapping
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


def resume(path: str | os.PathLike[str], header: Mapping[str, object]) -> list[dict]:
    """Starts a file of predictions, or continues one of the same evaluation.

    An unfinished last line is removed.

    **Arguments:**

    - `path`: the file; its directory is made if need be.
    - `header`: plain values: `problems`, `samples`, `max_completion_length`, `success`,
        `training_answer`, and everything else that the completions depend on.

    **Returns:** the lines of the problems so far.

    **Raises:** `ValueError` if the file was begun by another evaluation, with every
    difference.
    """
    path = Path(path)
    line = jsonl.encode({"format": FORMAT, **header})
    found = path.read_bytes() if path.exists() else b""
    content = jsonl.complete_lines(found)
    if not content:
        if not line.startswith(found):
            raise ValueError(
                f"{os.fspath(path)!r} is no file of predictions: choose another name."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, line)
        return []
    present = _parse(content, path)
    differences = _differences(present.header, json.loads(line))
    if differences:
        raise ValueError(
            f"{os.fspath(path)!r} holds the predictions of another evaluation: "
            f"{'; '.join(differences)}. Evaluate into another file, or move that one "
            "away."
        )
    if len(content) < len(found):
        os.truncate(path, len(content))
    return present.records


def _parse(data: bytes, path: str | os.PathLike[str]) -> Predictions:
    values = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            value = json.loads(line)
            known = "format" if number == 1 else "problem"
            wanted = FORMAT if number == 1 else number - 2
            if value[known] != wanted:
                raise ValueError(f"{known!r} is {value[known]!r}, not {wanted!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"A file of predictions has a header of format {FORMAT}, and then a "
                f"line for each problem in order. Received {os.fspath(path)!r}, line "
                f"{number}: {error}. Truncate it there, and resume."
            ) from None
        values.append(value)
    header, *records = values
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
