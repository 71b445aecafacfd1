"""Rows that are generated: word problems, and the tasks of reasoning-gym."""

import difflib
import os
import random
from collections.abc import Iterator, Mapping

from grpojax._extras import optional

from .._prompts import check_choice
from .._word_problems import word_problems
from ..options import WORD_PROBLEMS
from ._settings import name_and_settings


GYM = "reasoning_gym:"
"""Begins the source `reasoning_gym:TASK?KEY=VALUE&KEY=VALUE`."""


def is_generated(source: str | os.PathLike[str]) -> bool:
    """Whether a source makes as many rows as it is asked for."""
    return source == WORD_PROBLEMS or str(source).startswith(GYM)


def generate(
    source: str, split: str, *, count: int | None, seed: int
) -> Iterator[Mapping[str, object]]:
    """The rows of a split; the same for the same seed."""
    if count is None:
        raise ValueError(
            f"`load_rows({source!r}, count=...)` needs a count: generated rows have no "
            "end. Received None (in a recipe, null for `data.train_rows` or for "
            "`evaluations.NAME.problems`)."
        )
    check_choice("split", split, ("train", "test"))
    if source == WORD_PROBLEMS:
        return iter(word_problems(count, split=split, seed=seed))
    return _of_gym(source, split, count, seed)


def _of_gym(
    source: str, split: str, count: int, seed: int
) -> Iterator[Mapping[str, object]]:
    gym = optional("reasoning_gym", f"The source {source!r}")
    name, settings = name_and_settings(source.removeprefix(GYM))
    seed = settings.pop("seed", seed)
    if split != "train":
        seed = random.Random(f"{split} {seed}").randrange(2**32)
    known = gym.factory.DATASETS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ValueError(
            f"A source `{GYM}TASK` names one of the {len(known)} tasks of "
            f"reasoning-gym. Received {source!r}: the nearest is {near[0]!r}."
        )
    # A few tasks draw from the generator that all of Python shares, too.
    before = random.getstate()
    try:
        random.seed(seed)
        return iter([*gym.create_dataset(name, size=count, seed=seed, **settings)])
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"A source `{GYM}TASK?KEY=VALUE` has the settings of its task, besides "
            f"`seed`. Received {source!r}: {error}. How many rows there are is said "
            "by `count`, `data.train_rows` in a recipe."
        ) from error
    finally:
        random.setstate(before)
