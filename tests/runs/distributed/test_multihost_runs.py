"""Runs of several processes equal those of one, end together, and are resumed."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import pytest

from grpojax import models, sharding
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from grpojax.runs.cli import train as training
from grpojax.runs.distributed.preemption import EXIT_PREEMPTED
from grpojax.runs.distributed.supervise import EXIT_PEER
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe

from ...helpers import distance
from .launch import environment, free_port


# Two processes of so many devices each, and one of all.
EACH = 4
SIZES = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}


@pytest.fixture(scope="session")
def assignments(settings):
    def build(**changes) -> list[str]:
        small = {"rollout__prompts": 4, "rollout__group": 2, "checkpoint__every": 1}
        quick = {"distributed__heartbeat_timeout": 10, "distributed__start_timeout": 60}
        return settings(**{**small, **quick, **SIZES, **changes})

    return build


class Processes:
    """The processes of a run, started as a person would."""

    def __init__(self, words, out: Path, *, count: int = 2, each: int = EACH):
        command = [sys.executable, "-m", "grpojax", "train", "--out", str(out)]
        command += [
            "--coordinator",
            f"127.0.0.1:{free_port()}",
            "--processes",
            str(count),
        ]
        command += [word for pair in words for word in ("--set", pair)]
        self.logs = [out.with_name(f"{out.name}-{i}.log") for i in range(count)]
        self.members = []
        for index, log in enumerate(self.logs):
            with log.open("w") as file:
                self.members.append(
                    subprocess.Popen(
                        [*command, "--process", str(index), "--resume"],
                        env=environment(each),
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self, timeout: float = 300) -> list[int]:
        """The exit codes of all."""
        end = time.monotonic() + timeout
        try:
            return [x.wait(timeout=end - time.monotonic()) for x in self.members]
        finally:
            for member in self.members:
                member.kill()
                member.wait()

    def output(self) -> str:
        return "\n".join(f"--- {x.name}\n{x.read_text()[-3000:]}" for x in self.logs)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_close_runs(path: Path, other: Path, tolerance: float):
    """The same tokens, and numbers that differ by rounding."""
    there, expected = (lines(x / "metrics.jsonl") for x in (path, other))
    assert [x["step"] for x in there] == [x["step"] for x in expected]
    for record, known in zip(there, expected, strict=True):
        assert record.keys() == known.keys()
        for name in known.keys() - {"time", "step_time"}:
            assert record[name] == pytest.approx(known[name], abs=tolerance), name
    texts, known = (
        [
            (x["prompt"], [sample["text"] for sample in x["samples"]])
            for x in lines(run / "completions.jsonl")
        ]
        for run in (path, other)
    )
    assert texts == known
    weights = models.load(path / "model"), models.load(other / "model")
    assert distance(*weights) < tolerance


@pytest.fixture(scope="module")
def alone(assignments, tmp_path_factory):
    """One process of all devices."""
    path = tmp_path_factory.mktemp("alone") / "run"
    training.train(recipes.load(Recipe(), None, assignments()), path)
    return path


@pytest.fixture(scope="module")
def together(assignments, tmp_path_factory):
    """Two processes of half of them each."""
    path = tmp_path_factory.mktemp("together") / "run"
    processes = Processes(assignments(), path)
    assert processes.wait() == [0, 0], processes.output()
    return path, processes


@pytest.mark.slow
def test_two_processes_equal_one(alone, together):
    path, processes = together
    assert_close_runs(path, alone, 1e-5)
    first, second = (log.read_text() for log in processes.logs)
    assert "2 steps in" in first and "2 steps in" not in second
    answers = [
        [x["samples"] for x in lines(run / "predictions" / "2-sampled.jsonl")[1:]]
        for run in (path, alone)
    ]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_checkpoints_hold_shards_that_any_mesh_can_read(alone, together):
    """Both wrote the state after the last step: each reads what the other wrote."""
    path, _ = together
    config = models.load(alone / "model").config
    for run, sizes in ((path, dict(fsdp=8)), (alone, dict(data=2, fsdp=2, tensor=2))):
        recipe = recipes.load(Recipe(), run / "config.yaml")
        mesh = sharding.make_mesh(**sizes)
        setup = training.prepare(recipe, run, resume=True)
        assert setup.directory is not None and setup.restored is not None
        setup.directory.close()
        assert setup.restored.step == 2
        like = sharding.place(setup.state, mesh)
        found = Checkpoints(run / "checkpoints").restore(like).state
        chex.assert_trees_all_equal(found, setup.state)
        places = zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True)
        assert all(x.sharding == y.sharding for x, y in places)
        assert found.policy.config == config


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_and_another_mesh(
    assignments, tmp_path, together, alone
):
    """Half of the steps on two processes, the rest on one, and the other way round."""
    longer = assignments(run__steps=4)
    full = tmp_path / "full"
    training.train(recipes.load(Recipe(), None, longer), full)
    first, _ = together
    path = shutil.copytree(first, tmp_path / "to-one")
    other = assignments(run__steps=4, mesh__data=1, mesh__fsdp=4, mesh__tensor=1)
    training.train(recipes.load(Recipe(), None, other), path, resume=True)
    assert_close_runs(path, full, 1e-5)
    path = shutil.copytree(alone, tmp_path / "to-two")
    other = assignments(run__steps=4, mesh__data=1, mesh__fsdp=-1, mesh__tensor=2)
    processes = Processes(other, path)
    assert processes.wait() == [0, 0], processes.output()
    assert_close_runs(path, full, 1e-5)


def until(condition, processes, timeout: float = 300) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, processes.output()
        assert all(x.poll() is None for x in processes.members), processes.output()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("when", ["starting", "stepping", "saving"])
def test_one_that_dies_ends_the_others(assignments, tmp_path, victim, when):
    path = tmp_path / "run"
    processes = Processes(assignments(run__steps=10**6), path)
    metrics = path / "metrics.jsonl"
    started, saved = path / "config.yaml", path / "checkpoints"
    saving = lambda: saved.exists() and any(saved.glob("*.unfinished"))
    conditions = {"starting": started.exists, "stepping": metrics.exists}
    until(conditions.get(when, saving), processes)
    start = time.monotonic()
    processes.members[victim].kill()
    processes.members[victim].wait()
    assert processes.members[1 - victim].wait(timeout=60) == EXIT_PEER
    print(f"{when}, {victim} killed: {time.monotonic() - start:.1f} s")
    output = processes.logs[1 - victim].read_text()
    assert "another process of the run has died or cannot be reached" in output


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_preempted_all_leave_after_the_same_step(assignments, tmp_path, asked):
    path = tmp_path / "run"
    processes = Processes(assignments(run__steps=10**6), path)
    until((path / "metrics.jsonl").exists, processes)
    processes.members[asked].terminate()
    assert processes.wait(timeout=120) == [EXIT_PREEMPTED] * 2, processes.output()
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "preempted"
    steps = sorted(int(x.name) for x in (path / "checkpoints").iterdir())
    assert steps[-1] == summary["steps"] == len(lines(path / "metrics.jsonl"))


@pytest.mark.slow
def test_what_the_first_refuses_all_refuse(assignments, alone, tmp_path):
    path = shutil.copytree(alone, tmp_path / "run")
    processes = Processes(assignments(optimizer__learning_rate=1), path)
    assert processes.wait(timeout=120) == [2, 2], processes.output()
    for log in processes.logs:
        assert "`optimizer.learning_rate` was" in log.read_text()
