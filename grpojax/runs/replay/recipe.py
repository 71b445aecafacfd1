"""A step of a run from its directory: `grpojax replay`, and the same as a function."""

import dataclasses
import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ...update import UpdateConfig
from ..checkpoint.files import saved_contents
from ..io import jsonl
from ..io.atomic import write_bytes, write_json
from ..io.run_directory import CHECKPOINTS, CONFIG
from ..io.tables import flatten
from ..recipe import build
from ..recipe.load import load, to_mapping
from ..recipe.parts.algorithm import build_algorithm, check_algorithm
from ..recipe.schema import Recipe
from .page import lines, page
from .records import row_records, summary
from .replay import check_taken, Replay, replay_step


REPLAYS, PAGE = "replays", "replay.html"
_CHANGEABLE = ("algorithm.", "update.")


def replay_run(
    run: str | os.PathLike[str],
    step: int,
    *,
    changes: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Replay:
    """A step of a run that was trained from a recipe, taken again and taken apart.

    **Arguments:**

    - `run`: the run's directory; nothing is written to it.
    - `step`: the number of the step, from 1.
    - `changes`: assignments such as `"algorithm.name=dapo"`: what the loss that they
        make would have done with the same samples.
    - `environment`: the variables that the recipe names.

    **Returns:** the step; see `replay_step`.

    **Raises:** `ValueError` for a step that was not taken and for changes of other keys
    than `algorithm` and `update`; `FileNotFoundError` if there is no run.

    !!! example

        ```python
        found = replay_run("out/run", 17, changes=["algorithm.name=rloo"])
        assert found.agreement.exact
        print(found.losses["algorithm.name=rloo"].update_cosine)
        ```
    """
    return prepare(run, step, changes=changes, environment=environment)()


def recipe_of(run: Path, step: int, environment: Mapping[str, str]) -> Recipe:
    """The recipe of a run, which has taken a step; see `replay_run`."""
    check_taken(run, step)
    return load(Recipe(), run / CONFIG, (), environment)


def prepare(
    run: str | os.PathLike[str],
    step: int,
    *,
    changes: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[], Replay]:
    """A function that takes the step, with all loaded; see `replay_run`."""
    run = Path(run)
    recipe = recipe_of(run, step, environment)
    other = load(Recipe(), run / CONFIG, changes, environment)
    _check_changes(recipe, other)
    metadata = saved_contents(run / CHECKPOINTS).get("metadata")
    today = metadata.get("today") if isinstance(metadata, dict) else None
    date = None if today is None else datetime.date.fromisoformat(today)
    made = build.build(recipe, today=date)
    alternatives = {}
    if changes:
        changed = dataclasses.replace(
            made["step"],
            algorithm=build_algorithm(other),
            update=UpdateConfig(**vars(other.update)),
        )
        if changed.algorithm.objective.compares and made["state"].reference is None:
            raise ValueError(
                "replay: a KL penalty compares with the reference policy of the run. "
                f"Received {', '.join(changes)} for a run that has kept none: leave "
                "the penalty out."
            )
        alternatives = {", ".join(changes): changed}
    return lambda: replay_step(
        made["state"],
        made["step"],
        step,
        run=run,
        logging=made["logging"],
        alternatives=alternatives,
    )


def _check_changes(recipe: Recipe, other: Recipe) -> None:
    before, now = (flatten(to_mapping(x), lists=True) for x in (recipe, other))
    changed = [x for x in {**before, **now} if before.get(x) != now.get(x)]
    wrong = [x for x in changed if not x.startswith(_CHANGEABLE)]
    if wrong:
        raise ValueError(
            "replay: another loss is given the samples of the run, so that only keys "
            f"of `algorithm` and `update` may change. Received {', '.join(wrong)}: "
            "leave them as they are."
        )
    check_algorithm(other)


def write(replay: Replay, out: Path) -> str:
    """Writes a step to a directory: `replay.json`, `rows.jsonl` and `replay.html`.

    **Returns:** what `page.lines` says of it.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = list(row_records(replay))
    write_json(out / "replay.json", jsonl.parse(jsonl.encode(summary(replay)))[0])
    write_bytes(out / "rows.jsonl", jsonl.encode(*rows))
    write_bytes(out / PAGE, page(replay, rows).encode("utf-8", "replace"))
    return lines(replay)
