"""Rows of the three tasks: read or generated, split by viewers, and asked."""

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..rows import load_rows
from ._bayes import bayes
from ._viewers import session
from .options import GENERATED, SlateOptions
from .origin import direction_of, Example, read_example
from .templates import BOTH, compact, full, VIDEO


GENERATED_ROWS = 4096

Row = dict[str, Any]


class Asked(NamedTuple):
    """What a task asks of its rows.

    **Fields:**

    - `what`: `"video"`, `"direction"`, `"value"` or `"both"`.
    - `answer`: the gold answer of an example, or a `ValueError` that says what it
        lacks.
    - `tolerance`: a change of opinion of no more than this is none.
    """

    what: str
    answer: Callable[[Example], Any]
    tolerance: float = 0.02


class Splits(NamedTuple):
    """Rows to train on, rows that are held out, and remarks."""

    train: list[Row]
    held_out: list[Row]
    notes: list[str]


def is_held_out(participant: str) -> bool:
    """Whether a viewer is one of the tenth that is held out, by a hash of the id."""
    digest = hashlib.blake2b(participant.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 10 == 0


def generate(
    seed: int, difficulty: str, *, held_out: bool | None = None
) -> Iterator[dict[str, object]]:
    """Rows in the origin's columns, without end, viewer after viewer.

    **Arguments:**

    - `seed`: the same one gives the same rows.
    - `difficulty`: `"easy"` or `"real"`.
    - `held_out`: only viewers who are held out, or who are not; all when `None`.

    !!! example

        ```python
        rows = [*itertools.islice(generate(0, "real"), 1000)]
        ```
    """
    for number in itertools.count():
        if held_out in (None, is_held_out(f"{seed}-{number:06d}")):
            yield from session(number, seed, difficulty)


def split_rows(data: SlateOptions, asked: Asked, held_out: int | None) -> Splits:
    """The rows of a task, each with its prompt and its answer; no viewer is in both.

    **Arguments:**

    - `data`: the options of the task.
    - `asked`: what it asks.
    - `held_out`: how many rows are held out; all when `None`.

    **Raises:** `ValueError` for a row that lacks something, or without any rows.
    """
    if data.path == GENERATED:
        if held_out is None and data.eval_path is None:
            raise ValueError(
                "Rows that are made up have no end, so `evaluations.NAME.problems` "
                "says how many are evaluated. Received null: set it."
            )
        train = _generated(data, asked, data.train_rows or GENERATED_ROWS, False)
        skipped = 0
    else:
        train, skipped = _loaded(data, data.path, asked)
    notes = []
    if data.eval_path is not None:
        test, more = _loaded(data, data.eval_path, asked)
        skipped += more
        held = {row["participant_id"] for row in test}
        kept = [row for row in train if row["participant_id"] not in held]
        if len(kept) < len(train):
            count = len(train) - len(kept)
            notes.append(f"{count} rows of viewers who are held out left out")
        train = kept
    elif data.path == GENERATED:
        test = _generated(data, asked, held_out or 0, True)
    else:
        parts: dict[bool, list[Row]] = {False: [], True: []}
        for row in train:
            parts[is_held_out(row["participant_id"])].append(row)
        train, test = parts[False], parts[True]
    if skipped:
        notes.append(f"{skipped} rows that cannot be read left out")
    train = train[: data.train_rows]
    if not train:
        raise ValueError(
            f"{data.path!r} must have rows of viewers who are not held out. Received "
            f"{len(test)} rows of others: name another file for `data.eval_path`."
        )
    if data.permuted:
        train = permuted(train, data.seed)
    return Splits(train, test[:held_out], notes)


def permuted(rows: list[Row], seed: int) -> list[Row]:
    """The rows with answers exchanged between rows of as many options and one issue."""
    alike = defaultdict(list)
    for place, row in enumerate(rows):
        alike[row["n_options"], row["issue"]].append(place)
    changed, draw = list(rows), random.Random(f"{seed}:permuted")
    for places in alike.values():
        others = draw.sample(places, len(places))
        for place, other in zip(places, others, strict=True):
            changed[place] = {**rows[place], "answer": rows[other]["answer"]}
    return changed


def _generated(
    data: SlateOptions, asked: Asked, count: int, held_out: bool
) -> list[Row]:
    examples = map(
        read_example, generate(data.seed, data.difficulty, held_out=held_out)
    )
    if asked.what != VIDEO:
        # Opinions are those after the last of a viewer's videos.
        examples = _last_of_each(examples)
    taken = itertools.islice(examples, count)
    return [_asked(data, asked, example) for example in taken]


def _last_of_each(examples: Iterable[Example]) -> Iterator[Example]:
    """The last step of each viewer, whose steps follow each other."""
    for _, steps in itertools.groupby(examples, lambda x: x.ids["participant_id"]):
        *_, last = steps
        yield last


def _loaded(data: SlateOptions, source: str, asked: Asked) -> tuple[list[Row], int]:
    """The rows of a source; of opinions alone the last step of each viewer."""
    check = lambda row: _asked(data, asked, read_example(row))
    rows, skipped = load_rows(source, bad_rows=data.bad_rows, check=check)
    made = [_asked(data, asked, read_example(row)) for row in rows]
    if asked.what in (VIDEO, BOTH):
        return made, skipped
    last: dict[str, Row] = {}
    for row in made:
        found = last.get(row["participant_id"])
        if found is None or found["step_index"] <= row["step_index"]:
            last[row["participant_id"]] = row
    return [*last.values()], skipped


def _asked(data: SlateOptions, asked: Asked, example: Example) -> Row:
    """The prompt and the answer of an example, and what measures know it by."""
    if data.template == "compact":
        question = compact(example, asked.what)
    else:
        question = full(example, asked.what, max_history=data.max_history)
    facts: Mapping[str, object] = {
        "gold_index": example.gold_index,
        "n_options": len(example.slate),
        "before": example.before,
        "after": example.after,
        "direction": direction_of(example.before, example.after, asked.tolerance),
    }
    return {
        **example.ids,
        "question": question,
        "answer": asked.answer(example),
        **facts,
        **bayes(example, asked.what, asked.tolerance),
    }
