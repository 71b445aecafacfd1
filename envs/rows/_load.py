"""Rows with their columns by the names that a task knows them by."""

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .._prompts import check_choice
from ._files import Fault
from ._sources import read


class Row(dict[str, object]):
    """A row's columns by name, and its `place`, such as `rows.csv, line 3`."""

    place: str

    def __init__(self, columns: Mapping[str, object], place: str):
        """**Arguments:** the columns, and where the row is from."""
        super().__init__(columns)
        self.place = place


class LoadedRows(NamedTuple):
    """The rows of one split.

    **Fields:**

    - `rows`: the rows, with all columns.
    - `skipped`: how many other rows were skipped.
    """

    rows: list[Row]
    skipped: int


def load_rows(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    configuration: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    count: int | None = None,
    seed: int = 0,
    bad_rows: str = "raise",
    check: Callable[[Row], object] | None = None,
) -> LoadedRows:
    """Loads the rows of one split.

    **Arguments:**

    - `source`: one of
        - `"word-problems"`, synthetic problems generated from `seed`;
        - `"reasoning_gym:TASK"`, those of one of reasoning-gym's tasks, with settings
            as in `"reasoning_gym:chain_sum?min_terms=2&max_terms=3"`;
        - `"verifiers:ENVIRONMENT"`, those of an installed environment of verifiers,
            with its arguments as settings; `reward.Verifiers` is its rubric;
        - a file, which has no splits: JSON lines (`.jsonl`), a JSON list (`.json`),
            `.csv` and `.tsv` with names in the first line, or `.parquet`;
        - a folder with such files called `train.jsonl` or
            `train-00000-of-00001.parquet`, for each split;
        - a folder that `datasets` has saved (`save_to_disk`);
        - the id of a data set on the Hugging Face hub, such as `"openai/gsm8k"`.
    - `split`: its name.
    - `configuration`: of a data set on the hub.
    - `revision`: of a data set on the hub: a branch, a tag or a commit.
    - `columns`: other names by which columns are known, `{"question": "prompt_text"}`;
        `"a.b"` is the field `b` of a column `a` of structs.
    - `count`: how many rows, the first ones; all of them by default. Required for
        synthetic problems, of which there is no end.
    - `seed`: of the generated problems.
    - `bad_rows`: whether a row that cannot be read, lacks one of `columns` or does not
        pass `check` is an error (`"raise"`) or skipped and counted (`"skip"`).
    - `check`: raises a `ValueError` for a row that is bad for another reason.

    **Returns:** the rows, and how many were skipped.

    **Raises:** `ValueError` for a bad row, named by its place, or if there are no rows;
    `FileNotFoundError` if there is no such source.

    !!! example

        ```python
        rows, _ = load_rows("problems.csv", columns={"question": "prompt_text"})
        ```
    """
    check_choice("bad_rows", bad_rows, ("raise", "skip"))
    if count is not None and count < 1:
        raise ValueError(
            f"`count` must be at least 1. Received {count}. Leave it out for all rows."
        )
    rows: list[Row] = []
    skipped, first = 0, ""
    read_rows = read(
        source,
        split,
        configuration=configuration,
        revision=revision,
        count=count,
        seed=seed,
    )
    for place, value in read_rows:
        if len(rows) == count:
            break
        try:
            row = Row(_renamed(value, columns or {}), place)
            if check is not None:
                check(row)
        except ValueError as error:
            if bad_rows == "raise":
                raise ValueError(
                    f"A row must have what its task needs. {place}: {error}. Correct "
                    "it, or skip such rows with `bad_rows='skip'` "
                    "(`data.bad_rows: skip` in a recipe)."
                ) from None
            skipped, first = skipped + 1, first or f": {place}, {error}"
            continue
        rows.append(row)
    if not rows:
        raise ValueError(
            f"{os.fspath(source)!r} must hold at least one row in its split {split!r}. "
            f"Found none, after {skipped} were skipped{first}. Check the file and the "
            "split."
        )
    return LoadedRows(rows, skipped)


def column_of(row: Mapping[str, object], name: str) -> object:
    """The value of a column, or of the field of a column of structs.

    **Raises:** `ValueError` that lists the columns, if there is none.
    """
    if name in row:
        return row[name]
    column, dot, field = name.partition(".")
    inner = row.get(column)
    if dot and isinstance(inner, Mapping):
        return column_of(inner, field)
    raise ValueError(
        f"it has no column {name!r}; there are {', '.join(map(repr, row)) or 'none'}. "
        f"Say which it is, as in `columns: {{{name}: {next(iter(row), '...')}}}`"
    )


def _renamed(value: object, columns: Mapping[str, str]) -> Mapping[str, object]:
    """A row's columns, those of other names under these as well."""
    if isinstance(value, Fault):
        raise ValueError(value.words)
    if not isinstance(value, Mapping):
        raise ValueError(f"it is not a JSON object: {value!r:.80}")
    return {**value, **{new: column_of(value, old) for new, old in columns.items()}}


def place_of(row: Mapping[str, object], number: int) -> str:
    """Where a row is from; its number if it does not say so."""
    return getattr(row, "place", f"Row {number}")
