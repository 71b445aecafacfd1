import json
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from envs.gsm8k import final_answer, load_rows, word_problems


ROWS = [
    {"question": "What is 1 + 1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    {"question": "A line\u2028separator, and 3/4: \u00be?", "answer": "#### -1,234"},
    {"question": "Big?", "answer": "#### 192,000,000"},
]


def write_json_lines(path, rows, ensure_ascii=False):
    lines = [json.dumps(row, ensure_ascii=ensure_ascii) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def write_parquet(path, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
    return path


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**31) + 1, 2**31 - 1), st.text(), st.booleans())
def test_the_final_answer_is_what_follows_the_last_marker(value, working, commas):
    number = f"{value:,}" if commas else str(value)
    assert final_answer(f"{working}\n#### {number}") == value


@pytest.mark.parametrize(
    "answer",
    [
        "seven",
        "#### seven",
        "####",
        "#### 9281.25",
        "#### 2147483648",
        "#### -3,000,000,000",
    ],
)
def test_an_answer_that_is_no_32_bit_integer_is_refused(answer):
    with pytest.raises(ValueError, match=f"answer '{answer}' (is not an|does not fit)"):
        final_answer(answer)


def test_json_lines_and_parquet_hold_the_same_rows(tmp_path):
    lines = write_json_lines(tmp_path / "any.jsonl", ROWS)
    parquet = write_parquet(tmp_path / "any.parquet", ROWS)
    assert load_rows(lines) == load_rows(str(parquet)) == (ROWS, 0)


def test_other_columns_are_kept(tmp_path):
    path = write_json_lines(tmp_path / "x.jsonl", [{**ROWS[0], "id": 5}])
    assert load_rows(path).rows == [{**ROWS[0], "id": 5}]


def test_a_folder_is_read_by_split_shards_in_order(tmp_path):
    write_json_lines(tmp_path / "train.jsonl", ROWS[:1])
    write_parquet(tmp_path / "test-00001-of-00002.parquet", ROWS[2:])
    write_parquet(tmp_path / "test-00000-of-00002.parquet", ROWS[:2])
    (tmp_path / "LICENSE").write_text("MIT")
    assert load_rows(tmp_path).rows == ROWS[:1]
    assert load_rows(tmp_path, split="test").rows == ROWS
    with pytest.raises(FileNotFoundError, match="'dev'.*LICENSE, test-00000.*rename"):
        load_rows(tmp_path, split="dev")


def test_a_bad_row_is_named_by_its_line_or_skipped_and_counted(tmp_path):
    bad = [{"question": "?", "answer": "seven"}, {"answer": "#### 1"}, [1, 2]]
    path = write_json_lines(tmp_path / "x.jsonl", [ROWS[0], *bad, ROWS[2]])
    path.write_text(path.read_text() + "\n{not json\n")
    with pytest.raises(
        ValueError, match="x.jsonl, line 2: its answer 'seven' is not an"
    ):
        load_rows(path)
    assert load_rows(path, bad_rows="skip") == ([ROWS[0], ROWS[2]], 4)


@pytest.mark.parametrize(
    "line, message",
    [
        (
            b'{"question": "?"}',
            "line 1: it has no column 'answer'; there are 'question'",
        ),
        (b'{"q": 1, "a": 2}', "no column 'question'; there are 'q', 'a'"),
        (b"{}", "no column 'question'; there are none"),
        (b'{"question": "?", "answer": null}', "its answer None is not an integer"),
        (b'{"question": 3, "answer": "#### 1"}', "line 1: its 'question' is.*: 3"),
        (b"{not json", "line 1: it is not a JSON object: b'{not json'"),
        (b"\xff\xfe", "line 1: it is not a JSON object"),
    ],
)
def test_the_message_says_what_is_wrong_with_a_row(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(line)
    with pytest.raises(ValueError, match=message):
        load_rows(path)


def test_a_bad_row_of_a_parquet_file_is_named_by_its_number(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [ROWS[0], {**ROWS[1], "answer": ""}])
    with pytest.raises(ValueError, match="x.parquet, row 2: its answer '' is not"):
        load_rows(path)


@pytest.mark.parametrize("content", ["", "\n\n", '{"question": "", "answer": ""}'])
def test_no_rows_is_an_error(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="at least one row in its split 'train'"):
        load_rows(path, bad_rows="skip")


def test_count_takes_the_first_rows(tmp_path):
    path = write_json_lines(tmp_path / "x.jsonl", ROWS)
    assert load_rows(path, count=2).rows == ROWS[:2]
    assert load_rows(path, count=9).rows == ROWS


def test_made_up_problems_are_a_source():
    rows, skipped = load_rows("word-problems", split="test", count=5, seed=3)
    assert rows == word_problems(5, split="test", seed=3) and skipped == 0
    with pytest.raises(ValueError, match="needs a count"):
        load_rows("word-problems")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "no/such/folder", "gsm8k"])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(FileNotFoundError, match="none of these: check the path"):
        load_rows(source)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"\.jsonl, .*or \.parquet.*x\.txt"):
        load_rows(tmp_path / "x.txt")


@pytest.mark.parametrize("option", [{"bad_rows": "ignore"}, {"count": 0}])
def test_options_are_checked(option):
    with pytest.raises(ValueError, match="Received"):
        load_rows("word-problems", **{"count": 1, **option})


def test_the_hub_is_asked_for_the_main_configuration(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, configuration, *, split, revision):
        asked.append((name, configuration, split, revision))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_rows("openai/gsm8k", split="test").rows == ROWS
    assert (
        load_rows("org/set", configuration="hard", revision="v2", count=1).rows
        == ROWS[:1]
    )
    assert asked == [
        ("openai/gsm8k", "main", "test", None),
        ("org/set", "hard", "train", "v2"),
    ]


def test_without_a_connection_the_hub_is_a_clear_error(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match="no route to host.*local file"):
        load_rows("openai/gsm8k")


@pytest.mark.parametrize("split, count", [("train", 7473), ("test", 1319)])
def test_every_row_of_gsm8k_parses(split, count):
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gsm8k"
    if not folder.is_dir():
        pytest.skip("The GSM8K files do not lie beside this checkout.")
    rows, skipped = load_rows(folder, split=split)
    assert (len(rows), skipped) == (count, 0)
