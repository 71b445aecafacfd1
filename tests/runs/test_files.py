import json
import math
import os

import pytest

from grpojax.runs.files import append_json, RunDirectory, write_json


def read(path):
    return json.loads(path.read_text())


def test_nothing_is_written_before_the_start(tmp_path):
    RunDirectory(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_incomplete_until_it_is_finished(tmp_path):
    path = tmp_path / "deep" / "run"
    directory = RunDirectory(path)
    directory.start("steps: 1\n", {"accuracy": None, "complete": True})
    assert read(path / "summary.json") == {"accuracy": None, "complete": False}
    assert (path / "config.yaml").read_text() == "steps: 1\n"
    directory.append("metrics.jsonl", {"step": 1, "reward": 0.5})
    directory.append(
        "metrics.jsonl", {"step": 2, "reward": float("nan"), "loss": -float("inf")}
    )
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "reward": 0.5},
        {"step": 2, "reward": None, "loss": None},
    ]
    directory.append("completions.jsonl", {"samples": [{"log_prob": [0.0, -math.inf]}]})
    said = read(path / "completions.jsonl")
    assert said == {"samples": [{"log_prob": [0.0, None]}]}
    directory.stop({"accuracy": None, "status": "failed"})
    assert read(path / "summary.json")["complete"] is False
    directory.finish({"accuracy": 0.25})
    assert read(path / "summary.json") == {"accuracy": 0.25, "complete": True}
    names = {"summary.json", "config.yaml", "metrics.jsonl", "completions.jsonl"}
    assert {entry.name for entry in path.iterdir()} == names


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "model"])
def test_another_run_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=f"holds {name} already: choose another"):
        RunDirectory(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_other_files_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunDirectory(tmp_path).start("", {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(NotADirectoryError, match="is a file: choose another name"):
        RunDirectory(path)


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": object()})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read(path) == {"a": 1}


def test_lines_that_are_there_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_json(path, {"step": 1})
    before = os.stat(path).st_size
    append_json(path, {"step": 2})
    assert path.read_text()[:before] == '{"step": 1}\n'
