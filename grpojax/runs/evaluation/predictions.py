"""Samples of each problem in an evaluation, in a file that survives a kill.

    file   = header (line for each problem, in order)
    header = {"format": 1, "problems": how many, "samples": of each, ...}
    line   = {"problem": i, "prompt": text, "prompt_tokens": [id],
              "answer": the right one or null, "silent": is an empty turn correct,
              "samples": [{"text", "tokens": [id], "correct", "answer", "terminated",
                           "length", "rewards": {name: float}}]}

Each line is one JSON object. The header holds everything that the lines depend on, so
that a file is only continued by the evaluation that began it. Lines are appended batch
by batch and are on the disk before the next batch; an unfinished last line is dropped.
The evaluation is complete when there are as many lines as problems.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..io import jsonl
from ..io.atomic import write_bytes
from .result import EvaluationResult


FORMAT = 1


class Predictions(NamedTuple):
    """Content of a file of predictions.

    **Fields:**

    - `header`: the evaluation's settings and fingerprints.
    - `records`: the lines of the problems.
    - `result`: of the problems so far; `None` before the first.
    """

    header: dict
    records: list[dict]
    result: EvaluationResult | None

    @property
    def complete(self) -> bool:
        """Whether every problem has its line."""
        return len(self.records) == self.header["problems"]

    def to_json(self) -> dict[str, object]:
        """The result so far, and whether it is complete."""
        known = {} if self.result is None else self.result.to_json()
        asked = {"asked_problems": self.header["problems"]}
        return {"complete": self.complete, **asked, **known}


def read(path: str | os.PathLike[str]) -> Predictions:
    """Reads a file of predictions, complete or not.

    **Raises:** `ValueError` naming the line that is none; `OSError` without a file.

    !!! example

        ```python
        read("predictions/100-sampled.jsonl").to_json()["complete"]
        ```
    """
    content = jsonl.complete_lines(Path(path).read_bytes())
    if not content:
        raise ValueError(
            f"{os.fspath(path)!r} has no header: its evaluation was not started. Start "
            "it again."
        )
    return _parse(content, path)


def resume(
    path: str | os.PathLike[str], header: Mapping[str, object]
) -> EvaluationResult | None:
    """Starts a file of predictions, or continues one of the same evaluation.

    An unfinished last line is removed.

    **Arguments:**

    - `path`: the file; its directory is made if need be.
    - `header`: plain values: `problems`, `samples`, `max_completion_length`, `success`,
        `training_answer`, and everything else that the completions depend on.

    **Returns:** the result so far, or `None`.

    **Raises:** `ValueError` if the file was begun by another evaluation, with every
    difference.
    """
    path = Path(path)
    header = {"format": FORMAT, **header}
    line = jsonl.encode(header)
    found = path.read_bytes() if path.exists() else b""
    content = jsonl.complete_lines(found)
    if not content:
        if not line.startswith(found):
            raise ValueError(
                f"{os.fspath(path)!r} is no file of predictions: choose another name."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, line)
        return None
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
    return present.result


def append(
    path: str | os.PathLike[str],
    part: EvaluationResult,
    decode: Callable[[list[int]], str],
    *,
    first: int,
) -> None:
    """Appends some problems' samples; they are on the disk when this returns.

    **Arguments:**

    - `path`: a file that `resume` has started.
    - `part`: the problems that follow those in the file.
    - `decode`: from tokens to text.
    - `first`: index of the first of them.
    """
    jsonl.append(path, *_records(part, decode, first))


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
    return Predictions(header, records, _result(header, records))


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


def _records(
    part: EvaluationResult, decode: Callable[[list[int]], str], first: int
) -> list[dict]:
    def sample(p: int, g: int) -> dict:
        tokens = part.tokens[p, g, : part.total_lengths[p, g]].tolist()
        return {
            "text": decode(tokens),
            "tokens": tokens,
            "correct": bool(part.correct[p, g]),
            "answer": part.answers[p][g],
            "terminated": bool(part.terminated[p, g]),
            "length": int(part.lengths[p, g]),
            "rewards": {name: float(x[p, g]) for name, x in part.rewards.items()},
        }

    problems, samples = part.correct.shape
    return [
        {
            "problem": first + p,
            "prompt": decode(part.prompts[p].tolist()),
            "prompt_tokens": part.prompts[p].tolist(),
            "answer": part.gold[p],
            "silent": bool(part.empty_is_correct[p]),
            "samples": [sample(p, g) for g in range(samples)],
        }
        for p in range(problems)
    ]


def _result(header: Mapping, records: Sequence[Mapping]) -> EvaluationResult | None:
    """The inverse of `_records`."""
    if not records:
        return None
    rows = [record["samples"] for record in records]
    take = lambda name, dtype: np.array([[x[name] for x in row] for row in rows], dtype)
    time = header["max_completion_length"]
    pad = lambda tokens: np.pad(np.array(tokens, np.int32), (0, time - len(tokens)))
    return EvaluationResult(
        correct=take("correct", bool),
        rewards={
            name: np.array([[x["rewards"][name] for x in row] for row in rows], "f4")
            for name in rows[0][0]["rewards"]
        },
        lengths=take("length", np.int32),
        terminated=take("terminated", bool),
        prompts=[np.array(record["prompt_tokens"], np.int32) for record in records],
        tokens=np.array([[pad(x["tokens"]) for x in row] for row in rows]),
        total_lengths=np.array(
            [[len(x["tokens"]) for x in row] for row in rows], np.int32
        ),
        answers=[[x["answer"] for x in row] for row in rows],
        gold=[record["answer"] for record in records],
        empty_is_correct=np.array([record["silent"] for record in records], bool),
        training_answer=header["training_answer"],
    )
