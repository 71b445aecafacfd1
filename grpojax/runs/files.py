"""What a run leaves behind: written so that nothing is lost and nothing looks done.

config.yaml          the whole recipe
metrics.jsonl        one line for each step
completions.jsonl    one line for each prompt whose completions are kept
evaluations.jsonl    one line for each evaluation
predictions/         what was said in each, one line for each problem
events.jsonl         one line for everything else that happened
summary.json         the result; `"complete": false` until there is one
curve.png            reward and accuracy over the steps
model/               the policy, in Hugging Face's format
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path


_NAMES = (
    "config.yaml",
    "metrics.jsonl",
    "completions.jsonl",
    "evaluations.jsonl",
    "events.jsonl",
    "predictions",
    "summary.json",
    "curve.png",
    "model",
)


class RunDirectory:
    """The directory of one run, which no other run may be written to.

    Nothing is written before `start`.

    **Arguments:**

    - `path`: the directory; it need not exist.

    **Raises:** `FileExistsError` if it holds a run already, `NotADirectoryError` if it
    is a file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        if self._path.exists() and not self._path.is_dir():
            raise NotADirectoryError(
                f"A run is written to a directory. {os.fspath(path)!r} is a file: "
                "choose another name."
            )
        found = [name for name in _NAMES if (self._path / name).exists()]
        if found:
            raise FileExistsError(
                f"A run never overwrites another. {os.fspath(path)!r} holds "
                f"{', '.join(found)} already: choose another directory, or move that "
                "one away."
            )

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def model(self) -> Path:
        """Where the policy goes."""
        return self._path / "model"

    @property
    def curve(self) -> Path:
        """Where the picture goes."""
        return self._path / "curve.png"

    def predictions(self, step: int, mode: str) -> Path:
        """Where what was said in an evaluation goes."""
        return self._path / "predictions" / f"{step}-{mode}.jsonl"

    def start(self, recipe: str, summary: Mapping[str, object]) -> None:
        """Writes the recipe's YAML and a summary that says `"complete": false`."""
        self._path.mkdir(parents=True, exist_ok=True)
        write_json(self._path / "summary.json", {**summary, "complete": False})
        (self._path / "config.yaml").write_text(recipe, encoding="utf-8")

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Appends a record to one of the JSONL files."""
        append_json(self._path / name, record)

    def stop(self, summary: Mapping[str, object]) -> None:
        """Replaces the summary by that of a run which did not finish."""
        write_json(self._path / "summary.json", {**summary, "complete": False})

    def finish(self, summary: Mapping[str, object]) -> None:
        """Replaces the summary by the final one."""
        write_json(self._path / "summary.json", {**summary, "complete": True})


def write_json(path: str | os.PathLike[str], values: Mapping[str, object]) -> None:
    """Writes a JSON file whole or not at all: no reader ever sees half of it."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def append_json(path: str | os.PathLike[str], record: Mapping[str, object]) -> None:
    """Appends one line to a JSONL file, which has it when this returns.

    Numbers that are not finite, which JSON has not, become null.
    """
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(_finite(record), allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
