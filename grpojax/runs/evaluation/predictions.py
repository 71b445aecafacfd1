"""What was said to each problem, in a file that grows and that survives a kill.

    file   = header (line for each problem, in order)
    header = {"format": 1, "problems": how many are asked for, "samples": of each, ...}
    line   = {"problem": i, "prompt": text, "prompt_tokens": [id],
              "answer": the right one or null, "silent": is saying nothing right,
              "samples": [{"text", "tokens": [id], "correct", "answer", "terminated",
                           "length", "rewards": {name: float}}]}

Each line is one JSON object. The header says everything that the lines depend on, so
that a file is only ever continued by the evaluation that began it. Lines are appended
batch by batch and are on the disk before the next batch; a last line that a kill cut
short is dropped. The evaluation is complete when there are as many lines as problems.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .result import Evaluation


FORMAT = 1


class Predictions(NamedTuple):
    """What a file of predictions holds.

    **Fields:**

    - `header`: what was asked, of which model.
    - `records`: the lines of the problems, as JSON has them.
    - `evaluation`: what they are worth so far; `None` before the first.
    """

    header: dict
    records: list[dict]
    evaluation: Evaluation | None

    @property
    def complete(self) -> bool:
        """Whether every problem is there."""
        return len(self.records) == self.header["problems"]

    def numbers(self) -> dict[str, object]:
        """The numbers so far, and whether they are all: see `Evaluation.numbers`."""
        known = {} if self.evaluation is None else self.evaluation.numbers()
        asked = {"asked_problems": self.header["problems"]}
        return {"complete": self.complete, **asked, **known}


def read(path: str | os.PathLike[str]) -> Predictions:
    """Reads a file of predictions, complete or not, and leaves it as it is.

    **Raises:** `ValueError` if it is none, naming the line; `OSError` if there is none.

    !!! example

        ```python
        read("predictions/100-sampled.jsonl").numbers()["complete"]
        ```
    """
    whole = _whole_lines(Path(path).read_bytes())
    if not whole:
        raise ValueError(
            f"{os.fspath(path)!r} has no header: its evaluation never began. Start it "
            "again."
        )
    return _parse(whole, path)


def resume(
    path: str | os.PathLike[str], header: Mapping[str, object]
) -> Evaluation | None:
    """Begins a file of predictions, or takes up one that the same evaluation began.

    A last line that was cut short is removed.

    **Arguments:**

    - `path`: the file; its folder is made if need be.
    - `header`: what is asked, in values that JSON has: `problems`, `samples`,
        `max_completion_length`, `success`, `training_answer`, and everything else that
        the completions depend on.

    **Returns:** what is already there, or `None`.

    **Raises:** `ValueError` if the file was begun by another evaluation, with every
    difference.
    """
    path = Path(path)
    header = {"format": FORMAT, **header}
    line = _line(header)
    found = path.read_bytes() if path.exists() else b""
    whole = _whole_lines(found)
    if not whole:
        if not line.startswith(found):
            raise ValueError(
                f"{os.fspath(path)!r} is no file of predictions: choose another name."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, "wb", line)
        return None
    present = _parse(whole, path)
    differences = _differences(present.header, json.loads(line))
    if differences:
        raise ValueError(
            f"{os.fspath(path)!r} holds the predictions of another evaluation: "
            f"{'; '.join(differences)}. Evaluate into another file, or move that one "
            "away."
        )
    if len(whole) < len(found):
        os.truncate(path, len(whole))
    return present.evaluation


def append(
    path: str | os.PathLike[str],
    part: Evaluation,
    decode: Callable[[list[int]], str],
    *,
    first: int,
) -> None:
    """Appends what was said to some problems; it is on the disk when this returns.

    **Arguments:**

    - `path`: a file that `resume` has begun.
    - `part`: the problems that follow those in the file.
    - `decode`: turns tokens into text.
    - `first`: the number of the first of them.
    """
    records = _records(part, decode, first)
    _write(Path(path), "ab", b"".join(map(_line, records)))


def _write(path: Path, mode: str, data: bytes) -> None:
    with path.open(mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _line(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


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
                f"{number}: {error}. Cut it off there, and resume."
            ) from None
        values.append(value)
    header, *records = values
    return Predictions(header, records, _evaluation(header, records))


def _differences(old: object, new: object, name: str = "") -> list[str]:
    """What differs between two headers, each by its full name."""
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
    part: Evaluation, decode: Callable[[list[int]], str], first: int
) -> list[dict]:
    def sample(p: int, g: int) -> dict:
        tokens = part.tokens[p, g, : part.extents[p, g]].tolist()
        return {
            "text": decode(tokens),
            "tokens": tokens,
            "correct": bool(part.right[p, g]),
            "answer": part.answers[p][g],
            "terminated": bool(part.terminated[p, g]),
            "length": int(part.lengths[p, g]),
            "rewards": {name: float(x[p, g]) for name, x in part.rewards.items()},
        }

    problems, samples = part.right.shape
    return [
        {
            "problem": first + p,
            "prompt": decode(part.prompts[p].tolist()),
            "prompt_tokens": part.prompts[p].tolist(),
            "answer": part.gold[p],
            "silent": bool(part.silent[p]),
            "samples": [sample(p, g) for g in range(samples)],
        }
        for p in range(problems)
    ]


def _evaluation(header: Mapping, records: Sequence[Mapping]) -> Evaluation | None:
    """What `_records` was made of."""
    if not records:
        return None
    rows = [record["samples"] for record in records]
    take = lambda name, dtype: np.array([[x[name] for x in row] for row in rows], dtype)
    time = header["max_completion_length"]
    pad = lambda tokens: np.pad(np.array(tokens, np.int32), (0, time - len(tokens)))
    return Evaluation(
        right=take("correct", bool),
        rewards={
            name: np.array([[x["rewards"][name] for x in row] for row in rows], "f4")
            for name in rows[0][0]["rewards"]
        },
        lengths=take("length", np.int32),
        terminated=take("terminated", bool),
        prompts=[np.array(record["prompt_tokens"], np.int32) for record in records],
        tokens=np.array([[pad(x["tokens"]) for x in row] for row in rows]),
        extents=np.array([[len(x["tokens"]) for x in row] for row in rows], np.int32),
        answers=[[x["answer"] for x in row] for row in rows],
        gold=[record["answer"] for record in records],
        silent=np.array([record["silent"] for record in records], bool),
        training_answer=header["training_answer"],
    )
