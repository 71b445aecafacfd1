"""Loading of rows of questions and worked answers."""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from grpojax.text import oracle

from ._prompts import check_choice
from ._word_problems import word_problems
from .options import WORD_PROBLEMS


class LoadedRows(NamedTuple):
    """Rows in GSM8K's format.

    **Fields:**

    - `rows`: `{"question": str, "answer": str}` each, where `answer` ends in `#### n`.
    - `skipped`: how many other rows were skipped.
    """

    rows: list[dict[str, str]]
    skipped: int


def final_answer(answer: str) -> int:
    """The integer at the end of a worked answer.

        answer = working "####" space number space

    where the number is a plain integer in the grammar of `grpojax.text.answer`, such as
    `1,200`, `$5` and `72.0`.

    **Arguments:**

    - `answer`: a worked answer.

    **Returns:** the integer.

    **Raises:** `ValueError` if there is no `####`, or the text after the last one is
    not an integer of 32 bits.

    !!! example

        ```python
        final_answer("60 * 20 = 1200 eggs\\n#### 1,200")  # 1200
        ```
    """
    _, marker, number = answer.rpartition("####")
    number = number.strip()
    if not marker:
        raise ValueError("its answer has no `####`")
    value = oracle.parse_integer(number.encode(), "all", plain=True)
    if value is None and re.fullmatch(r"-?[0-9][0-9,]{9,}", number):
        raise ValueError(f"its answer does not fit 32 bits: {number}")
    if value is None:
        raise ValueError(f"what follows its `####` is not an integer: {number!r}")
    return value


def load_rows(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
    bad_rows: str = "raise",
) -> LoadedRows:
    """Loads rows of questions and worked answers.

    **Arguments:**

    - `source`: one of
        - `"word-problems"`, synthetic problems generated from `seed`;
        - a `.jsonl` or `.parquet` file, which has no splits: all of it is read;
        - a folder with files called `train.jsonl` or `train-00000-of-00001.parquet`,
          for each split;
        - the id of a data set on the Hugging Face hub, such as `"openai/gsm8k"`.
    - `split`: `"train"` or `"test"`.
    - `count`: how many rows, the first ones; all of them by default. Required for
        synthetic problems, of which there is no end.
    - `seed`: of the synthetic problems.
    - `bad_rows`: whether a row without a question, or whose answer does not end in
        `#### n`, is an error (`"raise"`) or skipped and counted (`"skip"`).

    **Returns:** the rows, and how many were skipped.

    **Raises:** `ValueError` for a bad row, named by its location, or if there are no
    rows; `FileNotFoundError` if there is no such source.
    """
    check_choice("bad_rows", bad_rows, ("raise", "skip"))
    if count is not None and count < 1:
        raise ValueError(
            f"`count` must be at least 1. Received {count}. Leave it out for all rows."
        )
    rows: list[dict[str, str]] = []
    skipped = 0
    for location, row in _read(source, split, count, seed):
        if len(rows) == count:
            break
        try:
            rows.append(_checked(row))
        except ValueError as error:
            if bad_rows == "raise":
                raise ValueError(
                    "Every row needs a `question`, and an `answer` that ends in "
                    f"`#### n`. {location}: {error}. Correct it, or skip such rows "
                    "with `bad_rows='skip'` (`data.bad_rows: skip` in a recipe)."
                ) from None
            skipped += 1
    if not rows:
        raise ValueError(
            f"{os.fspath(source)!r} must hold at least one row in its split {split!r}. "
            f"Found none, after {skipped} were skipped. Check the file and the split."
        )
    return LoadedRows(rows, skipped)


def _checked(row: object) -> dict[str, str]:
    """The two columns of a row; raises a `ValueError` with its fault."""
    if not isinstance(row, Mapping):
        raise ValueError(f"it is not a JSON object: {row!r:.80}")
    for column in ("question", "answer"):
        if column not in row:
            raise ValueError(
                f"it has no column {column!r}; its columns are "
                f"{', '.join(map(repr, row)) or 'none'}"
            )
        if not isinstance(row.get(column), str):
            raise ValueError(f"its {column!r} is not a text: {row.get(column)!r:.80}")
    final_answer(row["answer"])
    return {"question": row["question"], "answer": row["answer"]}


def _read(
    source: str | os.PathLike[str], split: str, count: int | None, seed: int
) -> Iterator[tuple[str, object]]:
    """Yields the location and the value of every row of a source."""
    path = Path(source)
    if source == WORD_PROBLEMS:
        if count is None:
            raise ValueError(
                "`load_rows('word-problems', count=...)` needs a count: synthetic "
                "problems have no end. Received None."
            )
        rows = word_problems(count, split=split, seed=seed)
        return _numbered("word-problems, row", rows)
    if path.is_dir():
        return itertools.chain.from_iterable(map(_file, _files_of_split(path, split)))
    if path.is_file():
        return _file(path)
    if isinstance(source, str) and re.fullmatch(r"[\w-]+/[\w-][\w.-]*", source):
        return _numbered(f"{source}, {split}, row", _download(source, split))
    raise FileNotFoundError(
        "A source is 'word-problems', a .jsonl or .parquet file, a folder of them, or "
        "the id of a data set on the Hugging Face hub. Received "
        f"{os.fspath(source)!r}, which is none of these: check the path."
    )


def _numbered(prefix: str, rows) -> Iterator[tuple[str, object]]:
    return ((f"{prefix} {number}", row) for number, row in enumerate(rows, 1))


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """`split.jsonl`, or the shards `split-*.parquet` as the hub names them."""
    stem = re.compile(re.escape(split) + r"(-[\w-]+)?")
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in (".jsonl", ".parquet") and stem.fullmatch(path.stem)
    ]
    if not files:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise FileNotFoundError(
            f"A folder must hold {split}.jsonl or {split}.parquet for its split "
            f"{split!r}. {os.fspath(folder)!r} holds {found}: rename the file, or pass "
            "its own path."
        )
    return files


def _file(path: Path) -> Iterator[tuple[str, object]]:
    if path.suffix == ".jsonl":
        return _json_lines(path)
    if path.suffix == ".parquet":
        return _numbered(f"{path}, row", _parquet(path))
    raise ValueError(
        f"A file of rows is .jsonl or .parquet. Received {os.fspath(path)!r}: convert "
        "it."
    )


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    # Binary mode: in text mode a line would also end at the U+2028 in some questions.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}, line {number}", _json(line)


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line  # Not a mapping, so it is reported as a bad row with its line.


def _parquet(path: Path) -> Iterator[object]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"A .parquet file holds rows of columns. {os.fspath(path)!r} cannot be "
            f"read ({error}): copy or download it again."
        ) from error


def _download(name: str, split: str) -> Iterator[object]:
    import datasets

    # GSM8K comes in two configurations; most data sets have a single one.
    configuration = "main" if name == "openai/gsm8k" else None
    try:
        return iter(datasets.load_dataset(name, configuration, split=split))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"load_rows({name!r}, split={split!r}): there is no such file or folder "
            f"here, and no data set from the Hugging Face hub ({error}). Check the "
            "name and the connection, or pass a local file."
        ) from error
