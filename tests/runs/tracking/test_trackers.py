import json
import math
import os
import struct
import subprocess
import sys
import threading

import pytest

from grpojax.runs.io.run_directory import RunDirectory
from grpojax.runs.io.tables import tabulate
from grpojax.runs.tracking.build import Dashboard, open_wandb, TensorBoard
from grpojax.runs.tracking.cursor import Cursor
from grpojax.runs.tracking.trackers import FailSafe, JsonLines, TrackerRun


VALUES = {
    step: {"loss": 0.1 * step, "rewards/correct/mean": step / 3, "gone": None}
    for step in range(1, 6)
}
ROWS = [
    {
        "prompt": "1 | 1?\n",
        "samples": [
            {"text": "2", "log_prob": [0.0], "rewards": {"correct": 1.0}, "total": 1.0},
            {
                "text": "3",
                "log_prob": [-1.0],
                "rewards": {"correct": 0.0},
                "total": 0.0,
            },
        ],
    },
    {"prompt": "none", "samples": []},
]


def started(directory, resume_step=0):
    return TrackerRun(directory, "n", {"run": {"seed": 0}}, resume_step)


def feed(tracker, steps):
    for step in steps:
        tracker.log(step, VALUES[step])
    tracker.table("completions", steps[-1], ROWS)


def test_records_become_a_table():
    columns, rows = tabulate(ROWS)
    assert columns == ["prompt", "text", "rewards/correct", "total"]
    assert rows == [
        ["1 | 1?\n", "2", 1.0, 1.0],
        ["1 | 1?\n", "3", 0.0, 0.0],
        ["none", None, None, None],
    ]
    assert tabulate([]) == ([], [])


def test_json_lines(tmp_path):
    with RunDirectory(tmp_path / "run") as directory:
        directory.start("", {})
        tracker = JsonLines(directory)
        feed(tracker, [1, 2])
        with pytest.raises(ValueError, match="Received 'other'"):
            tracker.table("other", 1, [])
        tracker.close()
    read = lambda name: [
        json.loads(x) for x in (tmp_path / "run" / name).read_text().splitlines()
    ]
    assert read("metrics.jsonl") == [{"step": n, **VALUES[n]} for n in (1, 2)]
    assert read("completions.jsonl") == [{"step": 2, **row} for row in ROWS]


MEASURES = {2: {"accuracy": 0.25, "reward": None}, 4: {"accuracy": 0.5}}


def test_tensorboard_reads_back_every_value_once(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard's own reader is not installed",
    )
    first = TensorBoard(started(tmp_path))
    first.evaluation("held_out", 0, {"accuracy": 0.125})
    feed(first, [1, 2, 3, 4])  # And then it is killed; a checkpoint was made after 2.
    first.evaluation("held_out", 4, {"accuracy": 0.75})
    # The evaluation of step 2 was not recorded.
    evaluated = frozenset([("held_out", 0)])
    second = TensorBoard(started(tmp_path, resume_step=2)._replace(evaluated=evaluated))
    second.evaluation("held_out", 0, {"accuracy": 0.125})
    feed(second, [1, 2])
    second.evaluation("held_out", 2, MEASURES[2])
    feed(second, [3, 4, 5])
    second.evaluation("held_out", 4, MEASURES[4])
    first.close()
    second.close()
    found = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    accuracy, names = "evaluations/held_out/accuracy", ["loss", "rewards/correct/mean"]
    assert set(found.Tags()["scalars"]) == {*names, accuracy}
    measured = [(event.step, event.value) for event in found.Scalars(accuracy)]
    assert measured == [(0, 0.125), (2, 0.25), (4, 0.5)]
    for name in names:
        values = {event.step: event.value for event in found.Scalars(name)}
        assert [event.step for event in found.Scalars(name)] == [1, 2, 3, 4, 5]
        expected = {step: VALUES[step][name] for step in VALUES}
        assert values == pytest.approx(expected, rel=1e-6)
    event = found.Tensors("completions/text_summary")[-1]
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 5
    assert "| 1 \\| 1?<br> | 2 | 1.0 | 1.0 |" in text


def offline_records(path):
    """The records in a file of W&B's: a log of LevelDB's format after seven bytes."""
    content, place, parts = path.read_bytes(), 7, []
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            yield b"".join(parts)
            parts = []


def offline_history(path):
    """Every record of history in W&B's files: step, and the values in it."""
    from wandb.proto import wandb_internal_pb2

    found, ids = [], set()
    for file in sorted(path.rglob("*.wandb"), key=os.path.getmtime):
        for data in offline_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                values = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                found.append((record.history.step.num, values))
    return found, ids


PROGRAM = """
import json, sys
from pathlib import Path
from grpojax.runs.tracking import build
from grpojax.runs.tracking.trackers import TrackerRun
make, directory, steps, values, rows = sys.argv[1], Path(sys.argv[2]), *map(
    json.loads, sys.argv[3:]
)
run = TrackerRun(directory, "n", {"run": {"seed": 0}}, 0)
options = {"wandb": "offline"} if make == "wandb" else {"trackio": True}
tracker = build.factories(project="p", **options)[make](run)
for step in steps:
    tracker.log(step, values[str(step)])
tracker.table("completions", steps[-1], rows)
tracker.close()
"""


def run_and_resume(make, directory, **environment):
    """Steps 1 to 3 in one process, and 2 to 5 in the next: it was resumed after 1."""
    for steps in ([1, 2, 3], [2, 3, 4, 5]):
        arguments = [make, str(directory), *map(json.dumps, (steps, VALUES, ROWS))]
        said = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
        assert said.stdout == b""


def test_wandb_offline_files_hold_every_value_once(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    run_and_resume("wandb", tmp_path)
    found, ids = offline_history(tmp_path)
    assert ids == {json.loads((tmp_path / "wandb" / "wandb.json").read_text())["id"]}
    for name in ("loss", "rewards/correct/mean"):
        values = [(step, values[name]) for step, values in found if name in values]
        assert values == [(step, VALUES[step][name]) for step in range(1, 6)]
    nrows = "completions/nrows"
    tables = [(step, values[nrows]) for step, values in found if nrows in values]
    assert tables == [(3, 3), (5, 3)]
    assert not any("gone" in values for _, values in found)


def test_trackio_holds_every_value_once(tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed")
    quiet = {"TRACKIO_DIR": str(tmp_path / "place"), "HF_HUB_OFFLINE": "1"}
    run_and_resume("trackio", tmp_path / "run", **quiet)
    read = (
        "import json\n"
        "from trackio.sqlite_storage import SQLiteStorage as storage\n"
        "(run,) = storage.get_runs('p')\n"
        "print(json.dumps(storage.get_logs('p', run)))\n"
    )
    command = [sys.executable, "-c", read]
    logs = json.loads(
        subprocess.run(
            command, env={**os.environ, **quiet}, check=True, capture_output=True
        ).stdout
    )
    for name in ("loss", "rewards/correct/mean"):
        values = [(log["step"], log[name]) for log in logs if name in log]
        assert values == [(step, VALUES[step][name]) for step in range(1, 6)]


def test_a_dashboard_holds_every_evaluation_once(tmp_path):
    class Logged:
        def __init__(self):
            self.calls = []

        def log(self, values, step):
            self.calls.append((step, values))

    run, path = Logged(), tmp_path / "place.json"
    for steps in ([2], [2, 4]):
        tracker = Dashboard(run, Cursor(path), list, lambda: None)
        for step in steps:
            tracker.log(step, VALUES[step])
            tracker.evaluation("held_out", step, MEASURES[step])
        tracker.close()
    name = "evaluations/held_out/accuracy"
    assert [x for x in run.calls if "loss" not in x[1]] == [
        (2, {name: 0.25}),
        (4, {name: 0.5}),
    ]
    assert [step for step, _ in run.calls] == [2, 2, 4, 4]


class Failing:
    """Fails from a call on."""

    def __init__(self, after):
        self.after, self.calls = after, []

    def _call(self, name):
        self.calls.append(name)
        if len(self.calls) > self.after:
            raise OSError("no network")

    def log(self, step, metrics):
        del metrics
        self._call(step)

    def table(self, name, step, rows):
        del step, rows
        self._call(name)

    def close(self):
        self._call("close")


@pytest.mark.parametrize("after, calls", [(0, 1), (1, 2), (2, 3), (3, 4), (9, 4)])
def test_a_tracker_that_fails_is_named_once_and_left(after, calls):
    inner, said = Failing(after), []
    tracker = FailSafe("The tracker", lambda: inner, said.append)
    tracker.log(1, {"loss": math.nan})
    tracker.table("completions", 1, [])
    tracker.log(2, {})
    tracker.close()
    assert len(inner.calls) == calls
    assert len(said) == (after < 4)
    if said:
        assert said[0].startswith(
            "The tracker failed and is disabled for the rest of the run"
        )
        assert said[0].endswith("OSError: no network")


class Difficult:
    """A tracker whose `log` does what it was made for."""

    def __init__(self, act):
        self.act, self.thread = act, threading.current_thread()

    def log(self, step, metrics):
        del step, metrics
        assert threading.current_thread() is self.thread
        self.act()

    def close(self):
        raise AssertionError("It is disabled.")


def late_import():
    raise ImportError("libtracker.so: no such file")


def missing_module():
    raise ModuleNotFoundError("No module named 'theirs'", name="theirs")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: sys.exit(3), "SystemExit: 3"),
        (late_import, "ImportError: libtracker.so: no such file"),
        (missing_module, "ModuleNotFoundError: No module named 'theirs'"),
        (threading.Event().wait, "TimeoutError: no answer within 0.2 seconds"),
    ],
)
def test_nothing_that_a_tracker_does_stops_or_holds_up_a_run(act, words):
    said = []
    tracker = FailSafe("The tracker", lambda: Difficult(act), said.append, seconds=0.2)
    for step in range(3):
        tracker.log(step, {})
    tracker.close()
    assert len(said) == 1 and said[0].endswith(words)


def test_a_tracker_that_hangs_as_it_starts_or_closes_is_left():
    said, forever = [], threading.Event().wait
    tracker = FailSafe("First", forever, said.append, seconds=0.1)
    tracker.log(1, {})
    inner = Failing(9)
    inner.close = forever
    FailSafe("Second", lambda: inner, said.append, seconds=0.1).close()
    assert [line.split()[0] for line in said] == ["First", "Second"]


def test_a_tracker_that_cannot_be_made():
    said = []

    def make():
        raise RuntimeError("not logged in")

    tracker = FailSafe("The tracker", make, said.append)
    tracker.log(1, {})
    tracker.close()
    assert len(said) == 1 and "RuntimeError: not logged in" in said[0]


@pytest.mark.parametrize(
    "package, make", [("tensorboardX", TensorBoard), ("wandb", open_wandb)]
)
def test_a_library_that_is_missing_is_no_failure(tmp_path, monkeypatch, package, make):
    # An entry of None is how Python is told that there is no such module.
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"grpojax\[tracking\]"):
        FailSafe("It", lambda: make(started(tmp_path / "x")), lambda _: None)
    assert not (tmp_path / "x").exists()


def test_what_a_killed_process_gave_last_is_given_again(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    path = tmp_path / "place.json"
    first = Cursor(path)
    for step in range(1, 11):
        clock[0] += 10.0
        assert first.is_new("metrics", step)
        first.advance("metrics", step)
        assert not first.is_new("metrics", step)
    killed = Cursor(path)
    assert killed.id == first.id
    assert [step for step in range(1, 11) if killed.is_new("metrics", step)] == [
        7,
        8,
        9,
        10,
    ]
    first.close()
    assert not Cursor(path).is_new("metrics", 10)
    assert Cursor(path).is_new("completions", 1)
