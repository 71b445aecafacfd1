"""The replayed steps in the directory of a run: `grpojax replay`."""

import json
from pathlib import Path
from typing import NamedTuple

from ...io.jsonl import unreadable
from ...io.records import finite_float


class ReplayedLoss(NamedTuple):
    """What a loss has made of the samples of a step that was taken again.

    **Fields:**

    - `step`, `start`: the step, and the one of the checkpoint that it was reached from.
    - `exact`: whether all that the run has recorded of the step is equal.
    - `loss`: the run's own, `"run"`, or the keys that were changed.
    - `gradient_cosine`, `update_cosine`, `update_norm`: in relation to the run's own.
    """

    step: int
    start: int
    exact: bool
    loss: str
    gradient_cosine: float
    update_cosine: float
    update_norm: float


def read_replays(run: Path, flaws: list[str]) -> list[ReplayedLoss]:
    """The losses of all steps of a run that were replayed into its directory.

    **Arguments:**

    - `flaws`: a sentence is appended for each file that cannot be read.
    """
    found = []
    for path in sorted(run.glob("replays/*/replay.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found += [
                ReplayedLoss(
                    int(record["step"]),
                    int(record["start"]),
                    record["agreement"]["exact"] is True,
                    str(name),
                    *(finite_float(loss[x]) or 0.0 for x in ReplayedLoss._fields[4:]),
                )
                for name, loss in record["losses"].items()
            ]
        except (OSError, ValueError) as error:
            flaws.append(unreadable(path, error))
        except (KeyError, TypeError, AttributeError):
            flaws.append(f"`{path.relative_to(run)}` lacks a required key.")
    return sorted(found, key=lambda x: x.step)
