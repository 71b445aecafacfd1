import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from grpojax.runs.io.atomic import write_json
from grpojax.runs.io.integrity.checksums import CHECKSUM, CHECKSUMS, is_broken
from grpojax.runs.io.jsonl import append
from grpojax.runs.io.run_directory import (
    COMPLETIONS,
    EVALUATIONS,
    EVENTS,
    METRICS,
    RunDirectory,
)


RUNNING = {"kind": "training", "status": "running", "complete": False}


def read(path):
    """A JSON file; of a summary what it says, without its checksums."""
    values = json.loads(path.read_text())
    assert not is_broken(values)
    return {x: y for x, y in values.items() if x not in (CHECKSUM, CHECKSUMS)}


def test_nothing_is_written_before_the_start(tmp_path):
    RunDirectory(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_incomplete_until_it_is_finished(tmp_path):
    path = tmp_path / "deep" / "run"
    directory = RunDirectory(path)
    directory.start("steps: 1\n", {"accuracy": None, "complete": True})
    assert read(path / "summary.json") == {
        "kind": "training",
        "accuracy": None,
        "complete": False,
    }
    assert (path / "config.yaml").read_text() == "steps: 1\n"
    directory.append(METRICS, {"step": 1, "reward": 0.5})
    directory.append(
        METRICS, {"step": 2, "reward": float("nan"), "loss": -float("inf")}
    )
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "reward": 0.5},
        {"step": 2, "reward": None, "loss": None},
    ]
    directory.update({"accuracy": 0.25}, complete=True)
    assert read(path / "summary.json") == {
        "kind": "training",
        "accuracy": 0.25,
        "complete": True,
    }
    names = {"summary.json", "config.yaml", "metrics.jsonl", ".lock"}
    assert {entry.name for entry in path.iterdir()} == {*names, ".reserve"}
    directory.close()
    assert {entry.name for entry in path.iterdir()} == names


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "model"])
def test_another_run_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(
        FileExistsError, match=f"holds {name} already: resume it, choose another"
    ):
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
    append(path, {"step": 1})
    before = os.stat(path).st_size
    append(path, {"step": 2})
    assert path.read_text()[:before] == '{"step": 1}\n'


def begun(path, *metrics, half=b""):
    """A run that ended without a word."""
    with RunDirectory(path) as directory:
        directory.start("steps: 9\n", {"status": "running"})
        directory.append(METRICS, *metrics)
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(half)
    return path


def test_values_that_are_not_finite_are_null_wherever_they_are(tmp_path):
    append(tmp_path / "x", {"a": [{"b": float("nan")}, (1.5, -float("inf"), "t")]})
    assert read(tmp_path / "x") == {"a": [{"b": None}, [1.5, None, "t"]]}


def test_a_resumed_run_has_the_records_up_to_its_step(tmp_path):
    path = begun(tmp_path / "run", {"step": 1}, {"step": 2}, half=b'{"step": 3, "rew')
    with RunDirectory(path, resume=True) as directory:
        directory.append(COMPLETIONS, {"step": 1}, {"step": 2})
        directory.append(EVALUATIONS, {"step": 0})
        directory.append(EVENTS, {"step": 2, "kind": "checkpoint"})
    with (path / "events.jsonl").open("ab") as file:
        file.write(b'{"st')
    with RunDirectory(path, resume=True) as directory:
        assert directory.resume(1, {"status": "running"}) == []
        directory.append(METRICS, {"step": 2})
    values = lambda name: [
        json.loads(x) for x in (path / name).read_text().splitlines()
    ]
    assert values("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert values("completions.jsonl") == [{"step": 1}]
    assert values("evaluations.jsonl") == [{"step": 0}]
    assert values("events.jsonl") == [{"step": 2, "kind": "checkpoint"}]
    assert read(path / "summary.json") == RUNNING
    assert (path / "config.yaml").read_text() == "steps: 9\n"


@pytest.mark.parametrize("damage", ["truncate", "delete", "change"])
def test_damaged_metrics_are_brought_back_from_the_checkpoint(tmp_path, damage):
    path = begun(tmp_path / "run", *({"step": step} for step in range(1, 9)))
    metrics = path / "metrics.jsonl"
    before = metrics.read_bytes()
    journals = {"metrics.jsonl": before[: before.index(b'{"step": 7}')]}
    if damage == "truncate":
        metrics.write_bytes(before[:30])
    elif damage == "delete":
        metrics.unlink()
    else:
        metrics.write_bytes(before.replace(b"2", b"x"))
    with RunDirectory(path, resume=True) as directory:
        (problem,) = directory.resume(6, {}, journals)
    assert problem.startswith("metrics.jsonl did not begin with the 6 lines")
    assert metrics.read_bytes() == journals["metrics.jsonl"]


def test_what_a_checkpoint_keeps(tmp_path):
    path = begun(tmp_path / "run", {"step": 1})
    journals = RunDirectory(path, resume=True).snapshot()
    assert json.loads(journals.pop("lines.json")) == {"completions.jsonl": []}
    kept = {"metrics.jsonl": b'{"step": 1}\n', "evaluations.jsonl": b""}
    assert journals == kept


@pytest.mark.parametrize("exists", [True, False])
def test_what_holds_no_run_is_not_resumed(tmp_path, exists):
    path = tmp_path / "run"
    if exists:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match="holds no config.yaml: check the path"):
        RunDirectory(path, resume=True)
    assert path.exists() == exists


HOLD = """
import sys, time
from grpojax.runs.io.run_directory import RunDirectory
directory = RunDirectory(sys.argv[1])
directory.start("", {})
print("held", flush=True)
time.sleep(600)
"""


def test_one_process_writes_a_run_and_a_dead_one_holds_nothing(tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        directory = RunDirectory(path, resume=True)
        with pytest.raises(BlockingIOError, match=f"by process {process.pid}: wait"):
            directory.resume(0, {})
        process.send_signal(signal.SIGKILL)
    assert directory.resume(0, {}) == []
    with pytest.raises(BlockingIOError, match=f"by process {os.getpid()}: wait"):
        RunDirectory(path, resume=True).lock()
    directory.close()
    RunDirectory(path, resume=True).lock()


def test_a_read_only_folder_is_refused_at_once(tmp_path, monkeypatch):
    # An administrator may write anywhere, and tests run as one at times.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="is read-only: change its permissions"):
        RunDirectory(tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_becomes_read_only(tmp_path, monkeypatch):
    path = begun(tmp_path / "run", {"step": 1})
    directory = RunDirectory(path, resume=True)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(OSError, match="it is not writable") as raised:
        directory.update({})
    assert raised.value.errno == errno.EROFS
    with pytest.raises(OSError, match="Its earlier lines are unchanged. Change its"):
        directory.append(METRICS, {"step": 2})
    monkeypatch.undo()
    assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert read(path / "summary.json") == RUNNING


def test_a_full_disk_by_simulation(tmp_path, monkeypatch):
    path = begun(tmp_path / "run", {"step": 1})

    def full(descriptor):
        del descriptor
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunDirectory(path, resume=True) as directory, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            OSError, match="metrics.jsonl.*the disk is full. Its earlier"
        ):
            directory.append(METRICS, {"step": 2})
        with pytest.raises(OSError, match="disk is full. Its old content is unchanged"):
            directory.update({"status": "finished"}, complete=True)
    assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert read(path / "summary.json") == RUNNING
    assert not [name for name in os.listdir(path) if name.endswith("unfinished")]


def test_a_full_disk(small_disk):
    path = begun(small_disk / "run", {"step": 1})
    directory = RunDirectory(path, resume=True)
    before = (path / "metrics.jsonl").read_bytes()
    with pytest.raises(OSError, match="the disk is full. Its earlier lines") as raised:
        directory.append(METRICS, {"step": 2, "text": "x" * 2_000_000})
    assert raised.value.errno == errno.ENOSPC
    assert (path / "metrics.jsonl").read_bytes() == before
    with pytest.raises(OSError, match="disk is full. Its old content is unchanged"):
        directory.update({"text": "x" * 2_000_000})
    directory.append(METRICS, {"step": 2})
    directory.update({}, complete=True)
    assert (path / "metrics.jsonl").read_bytes() == before + b'{"step": 2}\n'


def test_a_directory_that_is_deleted_meanwhile(tmp_path):
    path = begun(tmp_path / "run", {"step": 1})
    directory = RunDirectory(path, resume=True)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="run' does not exist any more"):
        directory.append(METRICS, {"step": 2})
    assert not path.exists()


def test_another_run_that_began_and_died_while_this_one_loaded(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path) as first:
        second = RunDirectory(path)
        first.start("steps: 9\n", {"status": "running"})
        first.append(METRICS, {"step": 1})
    with pytest.raises(FileExistsError, match="holds config.yaml, summary"):
        second.start("steps: 5\n", {})
    assert (path / "config.yaml").read_text() == "steps: 9\n"
    assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    # Nor does the one that was refused keep the lock.
    RunDirectory(path, resume=True).lock()


def test_another_run_that_was_resumed_while_this_one_loaded(tmp_path):
    path = begun(tmp_path / "run", {"step": 1})
    second = RunDirectory(path, resume=True)
    with RunDirectory(path, resume=True) as first:
        first.resume(1, {})
        first.write_config("steps: 20\n")
    with pytest.raises(BlockingIOError, match="changed by another one while this"):
        second.resume(0, {})
    assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    RunDirectory(path, resume=True).lock()


OLD = {
    "training": [
        {"metrics.jsonl": '{"step": 1}\n'},
        {"events.jsonl": "", "summary.json": '{"status": "failed"}'},
        {"summary.json": '{"accuracy_before": null}'},
        {"checkpoints/10/contents.json": ""},
    ],
    "evaluation": [
        {"summary.json": '{"status": "running"}'},
        {"summary.json": '{"ci95": [0, 1]}', "evaluations.jsonl": "{}\n"},
        {"predictions/0-greedy.jsonl": ""},
    ],
}


@pytest.mark.parametrize(
    "kind, files", [(kind, files) for kind in OLD for files in OLD[kind]]
)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_directory_is_resumed_as_what_it_was_started_as(
    tmp_path, kind, files, recorded
):
    if recorded:
        with RunDirectory(tmp_path, kind=kind) as directory:
            directory.start("", {})
    else:  # As older versions left it.
        (tmp_path / "config.yaml").write_text("steps: 1\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if not (recorded and name == "summary.json"):
            (tmp_path / name).write_text(text)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = "training" if kind == "evaluation" else "evaluation"
    with pytest.raises(ValueError, match=f"holds one of kind '{kind}'. Received"):
        RunDirectory(tmp_path, resume=True, kind=other)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    RunDirectory(tmp_path, resume=True, kind=kind).lock()


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_a_run_that_was_killed_before_its_kind_was_recorded(tmp_path, kind):
    (tmp_path / "config.yaml").write_text("steps: 1\n")
    RunDirectory(tmp_path, resume=True, kind=kind).lock()


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty: restore it"),
        (b" \n", "is empty: restore it"),
        (b"steps", "is not a YAML mapping: restore it"),
        (b"steps: [1", "is not YAML: restore it"),
        (b"\xff\xfe\xfa", "is not YAML: restore it"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_not_resumed(tmp_path, content, said):
    path = begun(tmp_path / "run", {"step": 1})
    (path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        RunDirectory(path, resume=True)
    assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_run_without_a_configuration_is_resumed(tmp_path):
    with RunDirectory(tmp_path / "run") as directory:
        directory.start("", {})
    RunDirectory(tmp_path / "run", resume=True).lock()


def test_a_path_that_checkpoints_could_not_be_read_back_from(tmp_path):
    with pytest.raises(ValueError, match="glob character .*choose another name"):
        RunDirectory(tmp_path / "lr[1e-4]")
    assert list(tmp_path.iterdir()) == []
    RunDirectory(tmp_path / "lr[1e-4]", kind="evaluation").start("", {})
