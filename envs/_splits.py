"""What is trained on and what is held out."""

import functools as ft
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from ._sources import load_rows, WORD_PROBLEMS


MADE_UP_ROWS = 8192


@runtime_checkable
class Questions(Protocol):
    """Rows, and how they are put to the model: a recipe's section `data`."""

    @property
    def path(self) -> str: ...

    @property
    def eval_path(self) -> str | None: ...

    @property
    def train_rows(self) -> int | None: ...

    @property
    def bad_rows(self) -> str: ...

    @property
    def max_prompt_length(self) -> int | None: ...

    @property
    def long_prompts(self) -> str: ...

    @property
    def chat(self) -> bool: ...

    @property
    def system_prompt(self) -> str | None: ...

    @property
    def shots(self) -> int: ...

    @property
    def answer_format(self) -> str: ...

    @property
    def stop(self) -> str | None: ...


class Split(NamedTuple):
    """Rows to learn from, rows to be judged on, and how many bad ones were skipped."""

    train: list[dict[str, str]]
    held_out: list[dict[str, str]]
    skipped: int


def load_split(data: Questions, held: int | None) -> Split:
    """Reads both splits; a problem that is held out is not trained on.

    **Arguments:**

    - `data`: where from, and how many.
    - `held`: how many are held out; all that there are when `None`.

    **Raises:** `ValueError` if there are fewer than were asked for.
    """
    count = data.train_rows
    if data.path == WORD_PROBLEMS and count is None:
        count = MADE_UP_ROWS
    read = ft.partial(load_rows, bad_rows=data.bad_rows)
    if data.eval_path is None and Path(data.path).is_file():
        rows, skipped = read(data.path)
        if held is None or held + (count or 1) > len(rows):
            raise ValueError(
                f"The file of `data.path` has {len(rows)} good rows, of which the first"
                " `run.eval_problems` are held out and the next `data.train_rows` "
                f"trained on. Received {held} and {count}: lower them, or name a file "
                "for `data.eval_path`."
            )
        last = None if count is None else held + count
        held_out, train = rows[:held], rows[held:last]
    else:
        train, skipped = read(data.path, split="train", count=count)
        held_out, skipped_too = [], 0
        if held != 0:
            path = data.eval_path or data.path
            held_out, skipped_too = read(path, split="test", count=held)
        skipped += skipped_too
        for key, wanted, rows in (
            ("data.train_rows", data.train_rows, train),
            ("run.eval_problems", held, held_out),
        ):
            if wanted is not None and len(rows) < wanted:
                raise ValueError(
                    f"`{key}` asks for {wanted} rows. Received {len(rows)}, which is "
                    "all there are: lower it, or leave it null."
                )
    asked = {row["question"] for row in held_out}
    return Split(
        [row for row in train if row["question"] not in asked], held_out, skipped
    )
