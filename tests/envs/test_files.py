"""Files that programs other than this one wrote, and what is wrong with some."""

import csv

import pytest

from envs.rows import load_rows


def rows_of(path, content, **more):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows, _ = load_rows(path, **more)
    return rows, [row.place.rpartition(", ")[2] for row in rows]


TWO = [{"q": "x", "a": "1"}, {"q": "y", "a": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.csv", "q,a\nx,1\ny,2\n", ["line 2", "line 3"]),
        ("a.csv", "\ufeffq,a\r\nx,1\r\n\r\ny,2", ["line 2", "line 4"]),
        ("a.csv", "q,a\rx,1\ry,2\r", ["line 2", "line 3"]),
        ("a.csv", "q;a\nx;1\n\n\ny;2\n", ["line 2", "line 5"]),
        ("a.CSV", "q\ta\nx\t1\ny\t2\n", ["line 2", "line 3"]),
        ("a.tsv", "q\ta\nx\t1\ny\t2\n", ["line 2", "line 3"]),
        (
            "a.jsonl",
            '\ufeff{"q": "x", "a": "1"}\r\n\r\n{"q": "y", "a": "2"}',
            ["line 1", "line 3"],
        ),
        (
            "a.json",
            '\ufeff[{"q": "x", "a": "1"},\n {"q": "y", "a": "2"}]',
            ["row 1", "row 2"],
        ),
        (
            "a.json",
            '{"version": 1, "data": [{"q": "x", "a": "1"}, {"q": "y", "a": "2"}]}',
            ["row 1", "row 2"],
        ),
        # JSON lines under another name.
        (
            "a.json",
            '{"q": "x", "a": "1"}\n{"q": "y", "a": "2"}\n',
            ["line 1", "line 2"],
        ),
    ],
)
def test_rows_have_the_lines_of_their_file(tmp_path, name, content, places):
    assert rows_of(tmp_path / name, content) == (TWO, places)


def test_texts_in_quotes_keep_their_lines_and_may_be_long(tmp_path):
    limit, long = csv.field_size_limit(), "x" * 200_000
    content = f'q,a\n"x,\r\n""y""",1\n"{long}",2\nz,3\n'
    rows, places = rows_of(tmp_path / "a.csv", content)
    assert [row["q"] for row in rows] == ['x,\r\n"y"', long, "z"]
    assert places == ["line 2", "line 4", "line 5"]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "q,a\nx,1,3\n",
            "line 2: it has 3 fields, and the first line 2",
        ),
        ("a.csv", "q,a\n\nx\n", "line 3: it has 1 fields"),
        ("a.csv", 'q,a\nx,1\n"y,2\nz,3\n', "a.csv, line 3, has not: unexpected end"),
        ("a.csv", "q,a,q\nx,1,2\n", "a.csv has 'q' twice"),
        ("a.csv", "q,a\n", "at least one row"),
        ("a.csv", "", "at least one row"),
        ("a.csv", "q,a\nx,1\ncaf\xe9,2\n".encode("latin-1"), "a.csv, line 3, .*0xe9"),
        ("a.csv", "q,a\nx,1\n".encode("utf-16"), "a.csv, line 1, has the byte 0xff"),
        ("a.json", b'["\xe9"]', "a.json, line 1, has the byte 0xe9"),
        ("a.json", '{"q": ["x"], "a": ["y"]}', r"a.json holds .* lists \['q', 'a'\]"),
        ("a.json", '{"q": 1}', r"a.json holds an object with the lists \[\]"),
        ("a.json", "7", "a.json holds 7"),
        ("a.json", '[{"q": "x"},\n{"q": }]', "a.json, line 2, is not: Expecting value"),
        ("a.json", "[" * 100_000, "a.json is nested too deeply"),
        (
            "a.json",
            '[{"q": "x"}, 7]',
            "a.json, row 2: .* not a JSON object: 7",
        ),
        ("a.jsonl", "[1, 2]\n", "a.jsonl, line 1: .* object: .1, 2."),
        ("a.jsonl", '{"q": 1}\n[', "a.jsonl, line 2: it is not a JSON object: b'.'"),
        ("a.jsonl", "[" * 100_000, "a.jsonl, line 1: it is not a JSON object"),
        ("a.parquet", "PAR1", "a.parquet cannot be read"),
        ("a.parquet", b"\xff" * 99, "a.parquet cannot be read"),
        ("a.parquet", "", "a.parquet cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    tmp_path, name, content, words
):
    with pytest.raises(ValueError, match=words):
        rows_of(tmp_path / name, content)


def test_a_column_may_be_a_field_of_another(tmp_path):
    content = '{"prompt": {"text": "x", "id": 1}}\n'
    rows, _ = rows_of(tmp_path / "a.jsonl", content, columns={"q": "prompt.text"})
    assert rows == [{"prompt": {"text": "x", "id": 1}, "q": "x"}]
    with pytest.raises(ValueError, match="no column 'txt'; there are 'text', 'id'"):
        rows_of(tmp_path / "a.jsonl", content, columns={"q": "prompt.txt"})


def test_the_first_of_the_skipped_rows_is_named_if_none_is_left(tmp_path):
    with pytest.raises(ValueError, match="after 2 were skipped: .*line 2, it has no c"):
        rows_of(
            tmp_path / "a.csv", "q\nx\ny\n", columns={"question": "p"}, bad_rows="skip"
        )


def test_folders_are_refused_by_what_they_hold(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.csv").write_text("q\nx\n")
    assert load_rows(tmp_path).rows == [{"q": "x"}]
    (tmp_path / "train.csv").write_text("q\ny\n")
    assert load_rows(tmp_path).rows == [{"q": "y"}]
    (tmp_path / "train.jsonl").write_text('{"q": "z"}\n')
    with pytest.raises(ValueError, match="of one kind.*train.csv, train.jsonl: pass"):
        load_rows(tmp_path)


def test_saved_data_sets_are_refused_by_their_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(TWO)
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "x"))
    with pytest.raises(FileNotFoundError, match="has no 'test', but train: name one"):
        load_rows(tmp_path / "x", split="test")
    for path in (tmp_path / "x" / "train").glob("*.arrow"):
        path.unlink()
    with pytest.raises(ValueError, match="holds all of its files.*save it again"):
        load_rows(tmp_path / "x")
