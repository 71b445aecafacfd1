"""What a pipeline runs: its file as values, and its runs in order."""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..recipe import yaml_format
from ..recipe.kinds import nearest


STAGES = "train", "evaluate", "report"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a pipeline.

    **Fields:**

    - `index`: its place in the order of the file, from 0.
    - `recipe`: the path of its recipe.
    - `assignments`: `"key=value"` each, as `grpojax train --set` takes them.
    - `path`: the directory of its training run; its evaluation and its logs are beside
        it, named after it.
    """

    index: int
    recipe: Path
    assignments: tuple[str, ...]
    path: Path

    def beside(self, suffix: str) -> Path:
        """A path beside the run's, such as that of its evaluation."""
        return self.path.with_name(f"{self.path.name}.{suffix}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The contents of a pipeline's file.

    **Fields:**

    - `out`: the directory of everything that is written.
    - `recipes`: paths of recipes by name.
    - `tasks`: changes of the recipes by name, from dotted keys to values.
    - `set`: changes of all runs.
    - `seeds`: values of `run.seed`.
    - `stages`: which of `train`, `evaluate` and `report` are made.
    - `evaluations`: names of the recipes' evaluations that the stage `evaluate` makes;
        `None` for the first one.
    - `slurm`: options of `sbatch` for each run.

    **Raises:** `ValueError` for a name that makes no folder, and for a stage, a seed or
    a section of another kind than above.
    """

    out: Path
    recipes: Mapping[str, Path]
    tasks: Mapping[str, Mapping[str, object]]
    set: Mapping[str, object]
    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    evaluations: tuple[str, ...] | None
    slurm: Mapping[str, object]

    def __post_init__(self):
        for name in itertools.chain(self.recipes, self.tasks):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    "A name in a pipeline is a folder's: letters, digits, '.', '_' and "
                    f"'-'. Received {name!r}: rename it."
                )
        for stage in self.stages:
            if stage not in STAGES:
                raise ValueError(
                    f"`stages` are some of {', '.join(STAGES)}. Received {stage!r}."
                )
        for seed in self.seeds:
            if not isinstance(seed, int) or isinstance(seed, bool):
                raise ValueError(f"`seeds` are integers. Received {seed!r}.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` differ. Received {list(self.seeds)}.")
        if not self.recipes or not self.tasks or not self.seeds:
            raise ValueError(
                "A pipeline has a recipe, a task and a seed at least. Received "
                f"{len(self.recipes)}, {len(self.tasks)} and {len(self.seeds)}: leave "
                "out `tasks` and `seeds` for one of each."
            )

    @property
    def cells(self) -> list[Cell]:
        """The runs: recipes, their tasks, their seeds."""
        combined = itertools.product(
            self.recipes.items(), self.tasks.items(), self.seeds
        )
        return [
            Cell(
                index,
                recipe,
                tuple(_assignments({**self.set, **changes, "run.seed": seed})),
                self.out / name / task / f"seed-{seed}",
            )
            for index, ((name, recipe), (task, changes), seed) in enumerate(combined)
        ]


def read_plan(
    path: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Plan:
    """The plan in a YAML file.

    **Arguments:**

    - `path`: the file; the recipes that it names are looked for beside it.
    - `out`: a directory in the place of the file's.

    **Raises:** `FileNotFoundError` for a file or a recipe that is not there;
    `ValueError` for an unknown key, naming the nearest one, and as `Plan`.

    !!! example

        ```python
        plan = read_plan("pipeline.yaml")
        print([cell.path for cell in plan.cells])
        ```
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"A pipeline is a YAML file. There is none at {os.fspath(path)!r}: check "
            "the path."
        )
    values = yaml_format.read(path.read_text(encoding="utf-8"), os.fspath(path))
    if not isinstance(values, dict):
        raise ValueError(
            f"A pipeline is a mapping. {os.fspath(path)!r} holds {values!r:.80}: write "
            "`recipes:` and its entries."
        )
    known = [field.name for field in dataclasses.fields(Plan)]
    for key in values:
        if key not in known:
            raise ValueError(
                f"`{key}` is not a key of a pipeline, which has {', '.join(known)}: "
                f"write `{nearest(str(key), known)}`, or remove it."
            )
    folder = out or values.get("out")
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise ValueError(
            f"A pipeline has a directory to write to. Received out={folder!r}: write "
            "`out:` in the file, or pass --out."
        )
    recipes = _by_name("recipes", values.get("recipes"))
    evaluations = values.get("evaluations")
    return Plan(
        Path(folder),
        {name: _found(path, recipe) for name, recipe in recipes.items()},
        {
            name: _mapping(f"tasks.{name}", changes)
            for name, changes in _mapping("tasks", values.get("tasks", _ONE)).items()
        },
        _mapping("set", values.get("set")),
        tuple(_list("seeds", values.get("seeds", [0]))),
        tuple(_list("stages", values.get("stages", list(STAGES)))),
        None if evaluations is None else tuple(_list("evaluations", evaluations)),
        _mapping("slurm", values.get("slurm")),
    )


_ONE = {"recipe": {}}  # The task that the recipe names.


def _by_name(key: str, value: object) -> Mapping[str, Any]:
    """A mapping, or a list of paths as one from their stems."""
    if not isinstance(value, list):
        return _mapping(key, value)
    named = {Path(str(path)).stem: path for path in value}
    if len(named) < len(value):
        raise ValueError(
            f"`{key}` in a list are named by their files. Two of {value} have one "
            f"name: write `{key}` as a mapping from names to paths."
        )
    return named


def _found(pipeline: Path, recipe: object) -> Path:
    if not isinstance(recipe, str):
        raise ValueError(f"`recipes` are paths of files. Received {recipe!r}.")
    for path in (pipeline.parent / recipe, Path(recipe)):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"A pipeline names files of recipes. There is none at {recipe!r}, neither "
        f"beside {os.fspath(pipeline)!r} nor here: check the path."
    )


def _mapping(key: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"`{key}` is a mapping. Received {value!r:.80}.")
    return {str(name): inner for name, inner in value.items()}


def _list(key: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"`{key}` is a list. Received {value!r:.80}.")
    return value


def _assignments(changes: Mapping[str, object]) -> Iterator[str]:
    for key, value in changes.items():
        yield f"{key}={json.dumps(value, ensure_ascii=False)}"
