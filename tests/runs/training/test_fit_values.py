"""Runs of values, without a recipe: what they record, and how they are resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax.numpy as jnp
import pytest
import yaml

from grpojax import algorithms, fit, testing
from grpojax.runs.training.health import Thresholds
from grpojax.runs.training.settings import Checkpointing, Logging

from .values import KILLED_AT, make_step, Recorder, start, STEPS, train


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(path) -> list[dict]:
    records = lines(path / "metrics.jsonl")
    return [
        {k: x for k, x in r.items() if k not in ("time", "step_time")} for r in records
    ]


def files(path) -> dict[Path, bytes]:
    found = [x for x in path.rglob("*") if x.is_file() and x.name != ".lock"]
    return {x: x.read_bytes() for x in found}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run that was never interrupted: where, and the state after it."""
    path = tmp_path_factory.mktemp("runs") / "full"
    return path, train(path, trackers={"mine": Recorder})


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed after the metrics of a step, before its checkpoint."""
    path = tmp_path_factory.mktemp("runs") / "killed"
    root = Path(__file__).parents[3]
    script = f"from {start.__module__} import *; train_until_killed({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return path


@pytest.fixture
def copy(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "run")


def test_the_policy_of_the_tests_keeps_the_laws():
    testing.check_policy(start().policy, key=start().key)


def test_a_killed_run_ends_with_the_same_bits(full, copy):
    path, expected = full
    assert [x["step"] for x in lines(copy / "metrics.jsonl")][-1] == KILLED_AT
    assert json.loads((copy / "summary.json").read_text())["status"] == "running"
    again = train(copy, resume=True, trackers={"mine": Recorder})
    assert int(again.version) == STEPS
    chex.assert_trees_all_equal(again, expected)
    assert not jnp.array_equal(again.policy.table, start().policy.table)
    assert untimed(copy) == untimed(path) and len(untimed(path)) == STEPS
    assert (copy / "config.yaml").read_bytes() == (path / "config.yaml").read_bytes()
    mine = copy / "tracking" / "mine.jsonl"
    assert mine.read_bytes() == (path / "tracking" / "mine.jsonl").read_bytes()
    assert [x["step"] for x in lines(mine)] == list(range(1, STEPS + 1))
    events = [event["kind"] for event in lines(copy / "events.jsonl")]
    assert events.count("resume") == 1 and events[-1] == "finish"
    summary = json.loads((copy / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", STEPS)


def test_a_finished_run_can_be_longer(full, tmp_path):
    path, _ = full
    copy = shutil.copytree(path, tmp_path / "run")
    longer = train(copy, steps=STEPS + 2, resume=True)
    anew = train(tmp_path / "anew", steps=STEPS + 2)
    chex.assert_trees_all_equal(longer, anew)
    assert untimed(copy) == untimed(tmp_path / "anew")


def test_the_configuration_describes_the_values(full):
    path, _ = full
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["steps"] == STEPS
    assert config["policy"] == {"name": "Bigram", "table": "float32[10,10]"}
    assert config["env"]["name"] == "CountEnv" and config["env"]["target"] == 7
    assert config["rollout"]["prompts"] == 4
    assert config["rollout"]["sampler"] == {"name": "Categorical", "temperature": 1.0}
    assert config["algorithm"]["advantage"]["name"] == "GroupNormalized"
    assert config["reward"]["weights"] == {"target": 1.0, "sevens": 0.5}
    (host,) = config["reward"]["others"]
    assert host["function"] == "tests.runs.training.values:sevens"
    assert "step_size: -0.05" in (path / "config.yaml").read_text()
    assert set(config["arrays"]) == {"env"}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(rate=0.5), r"`optimizer\.\S*step_size` was -0.05 and is -0.5: "),
        (dict(target=3), "`env.target` was 7 and is 3; "),
        (dict(ends=(1, 3)), r"`arrays.env` was '\w+' and is '\w+': "),
        (dict(ends=(1, 2, 3)), r"`env.end_tokens` was 'int32\[2\]' and is"),
        (dict(algorithm=algorithms.dr_grpo(length=12)), r"`algorithm\.\S+` was "),
        (dict(algorithm=algorithms.grpo(low=0.1)), r"surrogate.low` was 0.2 and is "),
    ],
)
def test_other_values_are_refused_by_name(copy, changes, message):
    before = files(copy)
    with pytest.raises(ValueError, match=message) as caught:
        train(copy, resume=True, **changes)
    text = str(caught.value)
    assert "as its last checkpoint records it" in text and "\n" not in text
    assert files(copy) == before


def test_a_directory_in_which_a_run_is_is_refused_without_resume(copy):
    before = files(copy)
    with pytest.raises(FileExistsError, match="resume it"):
        train(copy)
    assert files(copy) == before


class Failing:
    """A tracker that fails in one of its methods."""

    def __init__(self, method: str):
        self._method = method
        self._act("init", 0)

    def _act(self, method: str, step: int):
        if method == self._method and step in (0, 3):
            raise RuntimeError(f"no {method} today")

    def log(self, step, metrics):
        del metrics
        self._act("log", step)

    def table(self, name, step, rows):
        del name, rows
        self._act("table", step)

    def close(self):
        self._act("close", 0)


def test_a_tracker_that_fails_does_not_end_the_run(full, tmp_path):
    path, expected = full
    methods = ("init", "log", "close")
    trackers = {x: lambda _, method=x: Failing(method) for x in methods}
    trackers["mine"] = Recorder
    state = train(tmp_path / "run", trackers=trackers)
    chex.assert_trees_all_equal(state, expected)
    assert untimed(tmp_path / "run") == untimed(path)
    mine = [x["step"] for x in lines(tmp_path / "run" / "tracking" / "mine.jsonl")]
    assert mine == list(range(1, STEPS + 1))
    events = lines(tmp_path / "run" / "events.jsonl")
    warnings = [x["message"] for x in events if x["kind"] == "warning"]
    assert len(warnings) == len(methods)
    for method, warning in zip(methods, warnings, strict=True):
        assert warning.startswith(f"{method} failed and is disabled")
        assert f"no {method} today" in warning


def test_every_tracker_gets_every_step_of_a_resumed_run(full, copy):
    """Those before the checkpoint as well: a tracker skips what it has stored."""
    seen = []

    class InMemory(Recorder):
        def __init__(self, run):
            self.run = run

        def log(self, step, metrics):
            seen.append((step, metrics["reward"]))

    train(copy, resume=True, trackers={"memory": InMemory})
    assert seen == [(x["step"], x["reward"]) for x in untimed(full[0])]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Logging(every=0), "`Logging.every` .* at least 1. Received 0"),
        (lambda: Logging(samples=-1), "`Logging.samples` .* at least 0. Received -1"),
        (lambda: Checkpointing(every=0), "every` must be at least 1. Received 0"),
        (lambda: Checkpointing(keep_last=0), "keep_last` .* at least 1. Received 0"),
        (lambda: Checkpointing(keep_best=-1), "keep_best` .* 0. Received -1"),
        (lambda: Thresholds(window=0), "window` must be at least 1. Received 0"),
        (lambda: fit(start(), make_step(), steps=-1), "steps` .* 0. Received -1"),
        (
            lambda: fit(start(), make_step(), steps=1, trackers={"mine": Recorder}),
            "trackers .* Received mine without one",
        ),
        (
            lambda: fit(start(), make_step(), steps=1, resume=True),
            "resumes from .* Received resume=True without one: pass `out`",
        ),
    ],
)
def test_bad_numbers_are_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
