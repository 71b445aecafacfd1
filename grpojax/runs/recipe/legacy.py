"""Keys and values of older recipes, translated to those of today."""

import copy
import functools
from collections.abc import Mapping
from typing import Any, Literal

from .kinds import check


_MOVED = {
    "guard": "health",
    "update.train_prompts": "rollout.train_prompts",
    "reward.correct": "reward.weights.correct",
    "reward.format": "reward.weights.format",
    "run.eval_problems": "evaluations.held_out.problems",
    "run.eval_samples": "evaluations.held_out.samples",
    "run.eval_temperature": "evaluations.held_out.temperature",
    "run.max_eval_problems": "evaluations.held_out.max_problems",
}
"""Old key, of a section or of a value -> new key."""

_REMAT = {False: "elementwise", True: "layers"}
_TRUNCATED = {"keep": [], "zero": ["zero_truncated"], "drop": ["drop_truncated"]}
_SHAPINGS = {"truncated": Literal["keep", "zero", "drop"], "shuffle": bool}
"""Old keys that `reward.shapings` replaces, with their kinds."""


class Merge(dict):
    """A mapping whose keys are added to those that are there already."""


def translate(source: Mapping, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """The sections of a recipe of any version, with the keys of today.

    Instead of a value there may be a function of the value that it changes.

    **Raises:** `ValueError` for a wrong value of `lora.int8_base`, or of an old key of
    `reward.shapings`.
    """
    values = copy.deepcopy(dict(source))
    model, reward, update = (values.get(x) for x in ("model", "reward", "update"))
    lora = values.get("lora")
    if isinstance(lora, dict) and "int8_base" in lora:
        eight = check("lora.int8_base", bool, lora.pop("int8_base"), environment)
        lora.setdefault("base_bits", 8 if eight else None)
    if isinstance(reward, dict) and isinstance(update, dict) and "correct" in reward:
        # The default where no objective needed old log-probs to be recomputed.
        if update.get("recompute") is False:
            update["recompute"] = None
    if isinstance(model, dict) and isinstance(model.get("remat"), bool):
        model["remat"] = _REMAT[model["remat"]]
    if isinstance(reward, dict):
        old = {
            key: check(f"reward.{key}", _SHAPINGS[key], reward.pop(key), environment)
            for key in _SHAPINGS.keys() & reward.keys()
        }
        change = functools.partial(_changed_shapings, **old)
        if old:
            now = reward.get("shapings")
            reward["shapings"] = change if now is None else change(now)
    data = values.get("data")
    tasks = data.get("tasks") if isinstance(data, dict) else None
    for task in tasks if isinstance(tasks, list | tuple) else ():
        if isinstance(task, dict) and "eval_problems" in task:
            task.setdefault("problems", task.pop("eval_problems"))
    for old, new in _MOVED.items():
        _move(values, old.split("."), new.split("."))
    return values


def _changed_shapings(
    before: Any, truncated: str | None = None, shuffle: bool | None = None
) -> Any:
    if not isinstance(before, list | tuple):
        return before
    kept = list(before)
    if truncated is not None:
        others = [x for x in kept if x not in ("zero_truncated", "drop_truncated")]
        kept = [*_TRUNCATED[truncated], *others]
    if shuffle is not None:
        kept = [x for x in kept if x != "shuffled"] + ["shuffled"] * shuffle
    return kept


def _move(values: dict, old: list[str], new: list[str]) -> None:
    """Moves an entry of nested mappings, if it is there, into that of another key."""
    *sections, key = old
    place: Any = values
    for section in sections:
        place = place.get(section)
    if not isinstance(place, dict) or key not in place:
        return
    value, place = place.pop(key), values
    *sections, key = new
    for section in sections:
        if place.get(section) is None:
            place[section] = Merge()
        place = place[section]
        if not isinstance(place, dict):
            return  # Which is an error of its own.
    if isinstance(value, dict) and isinstance(place.get(key), dict):
        value = {**place[key], **value}
    place[key] = value
