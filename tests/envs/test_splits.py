"""The rows to train on, the rows that are held out, and what filters leave out."""

import json
from pathlib import Path

import pytest

from envs.options import QuestionsOptions
from envs.questions import PromptFormat
from envs.rows import RowRules, split_rows


def check(row):
    if not isinstance(row.get("question"), str):
        raise ValueError("it has no question")


def split(path: Path, problems: int | None = 4, keep=None, **more):
    data = QuestionsOptions(path=str(path), **more)
    rules = RowRules(check, PromptFormat().asked, keep)
    return split_rows(data, problems, rules)


def write_rows(path: Path, count: int, first: int = 0) -> Path:
    rows = ({"question": f"{n} + 1?", "n": n} for n in range(first, first + count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbers(rows):
    return [row["n"] for row in rows]


def test_a_file_is_cut_in_two(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 30)
    parts = lambda *args, **more: list(map(numbers, split(path, *args, **more)[:2]))
    every = list(range(30))
    # A tenth, at most as many as an evaluation takes; a number; a share.
    assert parts(None) == [every[3:], every[:3]]
    assert parts(2) == [every[2:], every[:2]]
    assert parts(0) == [every, []]
    assert parts(2, held_out=5) == [every[5:], every[:5]]
    assert parts(2, held_out=0.25) == [every[7:], every[:7]]
    assert parts(2, held_out=5, train_rows=2) == [[5, 6], every[:5]]
    for more in ({"held_out": 30}, {"held_out": 5, "train_rows": 26}):
        with pytest.raises(ValueError, match="has 30 good rows.*Received .* lower th"):
            split(path, **more)


def test_what_is_held_out_is_not_trained_on(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", 10)
    test = write_rows(tmp_path / "test.jsonl", 4, first=8)
    both = split(train, None, eval_path=str(test))
    assert numbers(both.train) == list(range(8)) and len(both.held_out) == 4
    assert both.left_out["with a prompt that is held out"] == 2
    # The same by the names of the splits of a folder.
    assert split(tmp_path, None) == both
    other = split(tmp_path, 9, split="test", eval_split="train", held_out=9)
    assert numbers(other.train) == [9, 10, 11] and len(other.held_out) == 9
    with pytest.raises(ValueError, match="`data.held_out` asks for 5 rows. Receiv"):
        split(tmp_path, 2, eval_split="test", held_out=5)
    with pytest.raises(ValueError, match="`data.train_rows` asks for 11 rows"):
        split(tmp_path, 0, train_rows=11)


def test_every_filter_counts_to_the_row(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 12)
    with path.open("a") as file:
        file.write(path.read_text())  # All of them again.
        file.write('{"n": 5}\n{not json\n')
    with pytest.raises(ValueError, match="rows.jsonl, line 25: it has no question"):
        split(path)
    some = split(
        path,
        bad_rows="skip",
        duplicates="skip",
        filter="my:even",
        keep=lambda row: row["n"] % 2 == 0,
        held_out=2,
        train_rows=3,
    )
    assert numbers(some.held_out) == [0, 2] and numbers(some.train) == [4, 6, 8]
    assert some.left_out == {
        "that cannot be read": 2,
        "rejected by my:even": 12,
        "with the prompt of an earlier row": 6,
        "with a prompt that is held out": 0,
    }
    kept = split(path, bad_rows="skip", held_out=2)
    assert kept.left_out["with a prompt that is held out"] == 2
    assert len(kept.train) == 20


def test_rows_are_shuffled_before_some_are_held_out(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 20)
    drawn = [split(path, held_out=5, shuffle=seed) for seed in (True, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for part in drawn:
        assert sorted(numbers(part.train + part.held_out)) == list(range(20))
    # All of the file are shuffled, and then the first taken.
    few = split(path, held_out=5, shuffle=1, train_rows=2)
    assert few.train == drawn[2].train[:2]


def test_a_predicate_that_fails_names_the_row_and_its_columns(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 3)
    keep = lambda row: row["m"] > 0
    with pytest.raises(ValueError, match="my:f failed on .*line 1, .*'question', 'n'"):
        split(path, filter="my:f", keep=keep)
    with pytest.raises(ValueError, match="have left none.*rejected by my:f': 3"):
        split(path, filter="my:f", keep=lambda row: row["n"] < 0)
