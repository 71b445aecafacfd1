"""The rows to train on and the rows that are held out."""

import json
from pathlib import Path

import pytest

from envs.gsm8k import load_split
from envs.options import GSM8KOptions


def split(path: Path, held: int | None, **more):
    return load_split(GSM8KOptions(path=str(path), **more), held)


def write_rows(path: Path, count: int) -> Path:
    rows = (
        {"question": f"What is {n} and 1?", "answer": f"{n}+1={n + 1}\n#### {n + 1}"}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number(row) -> int:
    return int(row["question"].split()[2])


def test_a_file_is_cut_in_two(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 10)
    whole = split(path, 3)
    assert [number(row) for row in whole.held_out] == [0, 1, 2]
    assert [number(row) for row in whole.train] == [3, 4, 5, 6, 7, 8, 9]
    assert [number(row) for row in split(path, 3, train_rows=2).train] == [3, 4]
    for problems in (10, None):
        with pytest.raises(ValueError, match="has 10 good rows"):
            split(path, problems)


def test_what_is_held_out_is_not_trained_on(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", 10)
    test = write_rows(tmp_path / "test.jsonl", 4)
    both = split(train, None, eval_path=str(test))
    asked = {row["question"] for row in both.held_out}
    assert len(asked) == 4 and len(both.train) == 6
    assert not asked & {row["question"] for row in both.train}
    folder = split(tmp_path, 2)
    assert len(folder.held_out) == 2 and len(folder.train) == 8
    with pytest.raises(ValueError, match="`run.eval_problems` asks for 5 rows. Receiv"):
        split(tmp_path, 5)
    with pytest.raises(ValueError, match="`data.train_rows` asks for 11 rows"):
        split(tmp_path, 0, train_rows=11)


def test_bad_rows_are_refused_by_number_or_counted(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 10)
    with path.open("a") as file:
        file.write('{"question": "Why?", "answer": "Because."}\n')
    with pytest.raises(ValueError, match="line 11"):
        split(path, 2)
    some = split(path, 2, bad_rows="skip")
    assert some.skipped == 1 and len(some.train) == 8
