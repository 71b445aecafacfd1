"""The rows to train on and the rows that are held out."""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import cast, NamedTuple

from ..options import QuestionsOptions
from ._generated import is_generated
from ._load import load_rows, Row
from ._sources import has_split


SYNTHETIC_ROWS = 8192


class Split(NamedTuple):
    """The rows of a task.

    **Fields:**

    - `train`: rows to train on.
    - `held_out`: rows to evaluate on.
    - `left_out`: how many rows were left out, by the reason, each for the first one
        that applies.
    """

    train: list[Row]
    held_out: list[Row]
    left_out: Counter[str]


class RowRules(NamedTuple):
    """What a task asks of its rows.

    **Fields:**

    - `check`: raises a `ValueError` for a bad row.
    - `key`: equal for rows with the same prompt.
    - `keep`: whether a row is used; `None` for all.
    """

    check: Callable[[Row], object]
    key: Callable[[Row], Hashable]
    keep: Callable[[Row], object] | None = None


def split_rows(data: QuestionsOptions, problems: int | None, rules: RowRules) -> Split:
    """Loads, filters, shuffles and splits rows; no prompt is in both parts.

    **Arguments:**

    - `data`: the source, its filters, and what is held out.
    - `problems`: how many problems an evaluation takes; all when `None`.
    - `rules`: of the task.

    **Returns:** both parts.

    **Raises:** `ValueError` for a bad row, or if there are too few.
    """
    left_out: Counter[str] = Counter()

    def load(source: str, split: str, count: int | None, shuffle: bool) -> list[Row]:
        # Reading can end early where nothing changes which rows are the first.
        early = rules.keep is None and data.duplicates == "keep" and not shuffle
        rows, skipped = load_rows(
            source,
            split=split,
            columns=cast(Mapping[str, str], data.columns),
            count=count if early or is_generated(source) else None,
            bad_rows=data.bad_rows,
            check=rules.check,
            configuration=data.configuration if source == data.path else None,
            revision=data.revision if source == data.path else None,
        )
        left_out["that cannot be read"] += skipped
        rows = _filtered(rows, data, rules, left_out)
        if shuffle:
            seed = 0 if data.shuffle is True else data.shuffle
            random.Random(seed).shuffle(rows)
        return rows[:count]

    shuffle, train_rows = data.shuffle is not False, data.train_rows
    held_out: list[Row] = []
    if _is_apart(data):
        if is_generated(data.path) and train_rows is None:
            train_rows = SYNTHETIC_ROWS
        train = load(data.path, data.split, train_rows, shuffle)
        count = problems if data.held_out is None else int(data.held_out)
        if count != 0 and problems != 0:
            source, split = data.eval_path or data.path, data.eval_split or "test"
            held_out = load(source, split, count, False)
            if data.held_out is not None:
                _check_enough("data.held_out", count, held_out)
        _check_enough("data.train_rows", data.train_rows, train)
    else:
        rows = load(data.path, data.split, None, shuffle)
        count = _share(data, problems, len(rows))
        if count + (train_rows or 1) > len(rows):
            raise ValueError(
                f"{data.path!r} has {len(rows)} good rows, of which some are held out "
                "(`data.held_out`, or `evaluations.held_out.problems`) and others "
                f"trained on (`data.train_rows`). Received {count} and {train_rows}: "
                "lower them, or name a file for `data.eval_path`."
            )
        held_out, train = rows[:count], rows[count:][:train_rows]
    held = set(map(rules.key, held_out))
    kept = [row for row in train if rules.key(row) not in held]
    left_out["with a prompt that is held out"] += len(train) - len(kept)
    return Split(kept, held_out, left_out)


def _is_apart(data: QuestionsOptions) -> bool:
    """Whether what is held out is a split, or a source, of its own."""
    if data.eval_path is not None or data.eval_split is not None:
        return True
    return data.held_out is None and has_split(
        data.path, "test", configuration=data.configuration, revision=data.revision
    )


def _share(data: QuestionsOptions, problems: int | None, rows: int) -> int:
    """How many rows of the training source are held out."""
    if isinstance(data.held_out, int):
        return data.held_out
    share = max(1, int(rows * (data.held_out or 0.1)))
    return share if problems is None or data.held_out else min(share, problems)


def _filtered(
    rows: list[Row], data: QuestionsOptions, rules: RowRules, left_out: Counter[str]
) -> list[Row]:
    """Rows that pass the filters; counts the others."""
    kept = rows
    if rules.keep is not None:
        kept = [row for row in rows if _passes(rules.keep, row, data)]
        left_out[f"rejected by {data.filter}"] += len(rows) - len(kept)
    if data.duplicates == "skip":
        first: dict[Hashable, Row] = {}
        for row in kept:
            first.setdefault(rules.key(row), row)
        left_out["with the prompt of an earlier row"] += len(kept) - len(first)
        kept = list(first.values())
    if not kept:
        raise ValueError(
            "A task needs at least one row. The filters have left none of "
            f"{data.path!r}: {dict(left_out)}. Change `data.filter`."
        )
    return kept


def _passes(keep: Callable[[Row], object], row: Row, data: QuestionsOptions) -> bool:
    try:
        return bool(keep(row))
    except Exception as error:  # Whatever a function of the user raises.
        raise ValueError(
            "`data.filter` is a function of a row, which says whether it is used. "
            f"{data.filter} failed on {row.place}, with the columns "
            f"{', '.join(map(repr, row))}: {error!r:.200}."
        ) from error


def _check_enough(key: str, wanted: int | None, rows: list[Row]) -> None:
    if wanted is not None and len(rows) < wanted:
        raise ValueError(
            f"`{key}` asks for {wanted} rows. Received {len(rows)}, all of the split: "
            "lower it, or leave it null."
        )
