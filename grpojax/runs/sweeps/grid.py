"""The runs that a recipe with `run.seeds` or `sweep` describes; needs no JAX."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..recipe.load import override
from ..recipe.schema import Recipe
from ..recipe.yaml_format import escape


_SEED, _RATE = "run.seed", "optimizer.learning_rate"
_OWN = ("run.seeds", "run.steps", "run.compile_cache", "distributed.")


def is_sweep(recipe: Recipe) -> bool:
    """Whether a recipe describes several runs."""
    return recipe.run.seeds is not None or recipe.sweep is not None


def recipes_of(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe of each run of a sweep, by the run's name.

    There is one for each combination of values and each of the `run.seeds` seeds from
    `run.seed` on, `seed-0` or `learning_rate-0.0001-seed-0`. Those whose program is the
    same follow one another.

    **Raises:** `ValueError` for a key that no sweep may change or that is unknown, for
    a value of the wrong kind, and for runs that are the same.
    """
    sweep, seeds = dict(recipe.sweep or {}), recipe.run.seeds
    for key in sweep:
        if key.startswith(_OWN) or (key == _SEED and seeds is not None):
            raise ValueError(
                "`sweep` changes what a run computes, and its seed unless `run.seeds` "
                f"does. Received `{key}`: leave it out of the sweep."
            )
    if seeds is not None:
        sweep[_SEED] = [recipe.run.seed + i for i in range(seeds)]
    # The keys that need no other program vary fastest.
    keys = sorted(sweep, key=lambda key: (key == _SEED, key == _RATE))
    one = dataclasses.replace(
        recipe, run=dataclasses.replace(recipe.run, seeds=None), sweep=None
    )
    found: dict[str, Recipe] = {}
    for places in itertools.product(*(range(len(sweep[key])) for key in keys)):
        values = {key: sweep[key][i] for key, i in zip(keys, places, strict=True)}
        texts = (
            f"{_short(key, keys)}-{_text(values[key], i)}"
            for key, i in zip(keys, places, strict=True)
        )
        name, made = "-".join(texts), _with_values(one, values)
        if name in found or made in found.values():
            raise ValueError(
                f"The runs of a sweep differ. Received {values} twice: write each "
                "value once."
            )
        found[name] = made
    return found


def first_of(recipe: Recipe, out: Path | None) -> tuple[Recipe, Path | None]:
    """The first run of a sweep and its directory; of any other recipe what was given.

    **Raises:** as `recipes_of`.
    """
    if not is_sweep(recipe):
        return recipe, out
    name, first = next(iter(recipes_of(recipe).items()))
    return first, None if out is None else out / name


def program_of(recipe: Recipe) -> Recipe:
    """A recipe without what differs between runs of one program: equal if they share.

    These are the seed, and a learning rate that is a number.
    """
    rate = recipe.optimizer.learning_rate
    optimizer = dataclasses.replace(
        recipe.optimizer, learning_rate=1.0 if isinstance(rate, float) else rate
    )
    run = dataclasses.replace(recipe.run, seed=0)
    return dataclasses.replace(recipe, run=run, optimizer=optimizer)


def _with_values(recipe: Recipe, values: Mapping[str, object]) -> Recipe:
    """A recipe with other values by dotted key."""
    changes: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = changes
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = escape(value)
    return override(recipe, changes, "")


def _short(key: str, keys: list[str]) -> str:
    """The last word of a key, or all of them where another one has the same."""
    last = key.rpartition(".")[2]
    return last if [x.rpartition(".")[2] for x in keys].count(last) == 1 else key


def _text(value: object, place: int) -> str:
    """A value in the name of a directory; its place if it can be in none."""
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z0-9_+.-]{1,32}", text) else str(place)
