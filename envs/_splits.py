"""Splits: the rows to train on and the rows that are held out."""

import functools as ft
from pathlib import Path
from typing import NamedTuple

from ._sources import load_rows, WORD_PROBLEMS
from .options import GSM8KOptions


SYNTHETIC_ROWS = 8192


class Split(NamedTuple):
    """The rows of a task.

    **Fields:**

    - `train`: rows to train on.
    - `held_out`: rows to evaluate on.
    - `skipped`: how many bad rows were skipped.
    """

    train: list[dict[str, str]]
    held_out: list[dict[str, str]]
    skipped: int


def load_split(data: GSM8KOptions, held_out: int | None) -> Split:
    """Loads both splits; questions that are held out are removed from the other.

    **Arguments:**

    - `data`: the source, and how many rows.
    - `held_out`: how many rows to hold out; the whole test split when `None`.

    **Returns:** both splits.

    **Raises:** `ValueError` if a split has too few rows.
    """
    count = data.train_rows
    if data.path == WORD_PROBLEMS and count is None:
        count = SYNTHETIC_ROWS
    read = ft.partial(load_rows, bad_rows=data.bad_rows)
    if data.eval_path is None and Path(data.path).is_file():
        rows, skipped = read(data.path)
        if held_out is None or held_out + (count or 1) > len(rows):
            raise ValueError(
                f"The file of `data.path` has {len(rows)} good rows, of which the first"
                " `run.eval_problems` are held out and the next `data.train_rows` "
                f"trained on. Received {held_out} and {count}: lower them, or name a "
                "file for `data.eval_path`."
            )
        last = None if count is None else held_out + count
        test, train = rows[:held_out], rows[held_out:last]
    else:
        train, skipped = read(data.path, split="train", count=count)
        test, skipped_test = [], 0
        if held_out != 0:
            path = data.eval_path or data.path
            test, skipped_test = read(path, split="test", count=held_out)
        skipped += skipped_test
        for key, wanted, rows in (
            ("data.train_rows", data.train_rows, train),
            ("run.eval_problems", held_out, test),
        ):
            if wanted is not None and len(rows) < wanted:
                raise ValueError(
                    f"`{key}` asks for {wanted} rows. Received {len(rows)}, all of the "
                    "split: lower it, or leave it null."
                )
    questions = {row["question"] for row in test}
    train = [row for row in train if row["question"] not in questions]
    return Split(train, test, skipped)
