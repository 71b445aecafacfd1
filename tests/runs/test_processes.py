"""Many processes compute what one does, end together, and go on together."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from grpojax import models, sharding
from grpojax.runs import recipes, training
from grpojax.runs.checkpoints import Checkpoints
from grpojax.runs.preemption import EXIT_PREEMPTED
from grpojax.runs.recipe import Recipe
from grpojax.runs.supervision import EXIT_PEER

from ..helpers import distance, same_bits


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
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = f"--xla_force_host_platform_device_count={each}"
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_backend_optimization_level=0 {flags}",
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, "-m", "grpojax", "train", "--out", str(out)]
        command += ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count)]
        command += [word for pair in words for word in ("--set", pair)]
        self.logs = [out.with_name(f"{out.name}-{i}.log") for i in range(count)]
        self.members = []
        for index, log in enumerate(self.logs):
            with log.open("w") as file:
                self.members.append(
                    subprocess.Popen(
                        [*command, "--process", str(index), "--resume"],
                        env=environment,
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

    def said(self) -> str:
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
    said, known = (
        [
            (x["prompt"], [sample["text"] for sample in x["samples"]])
            for x in lines(run / "completions.jsonl")
        ]
        for run in (path, other)
    )
    assert said == known
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
    assert processes.wait() == [0, 0], processes.said()
    return path, processes


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


def test_checkpoints_hold_shards_that_any_mesh_can_read(alone, together):
    """Both wrote the state after the last step: each reads what the other wrote."""
    path, _ = together
    config = models.load(alone / "model").config
    for run, sizes in ((path, dict(fsdp=8)), (alone, dict(data=2, fsdp=2, tensor=2))):
        recipe = recipes.load(Recipe(), run / "config.yaml")
        mesh = sharding.make_mesh(**sizes)
        setup = training.prepare(recipe, run, resume=True)
        assert setup.directory is not None and setup.going_on is not None
        setup.directory.close()
        assert setup.going_on.step == 2
        like = sharding.place(setup.state, mesh)
        found = Checkpoints(run / "checkpoints").restore(like).state
        assert same_bits(found, setup.state)
        places = zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True)
        assert all(x.sharding == y.sharding for x, y in places)
        assert found.policy.config == config


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_and_another_mesh(
    assignments, tmp_path, together, alone
):
    """Half of the steps on two processes, the rest on one, and the other way round."""
    longer = assignments(run__steps=4)
    whole = tmp_path / "whole"
    training.train(recipes.load(Recipe(), None, longer), whole)
    first, _ = together
    path = shutil.copytree(first, tmp_path / "to-one")
    cut = assignments(run__steps=4, mesh__data=1, mesh__fsdp=4, mesh__tensor=1)
    training.train(recipes.load(Recipe(), None, cut), path, resume=True)
    assert_close_runs(path, whole, 1e-5)
    path = shutil.copytree(alone, tmp_path / "to-two")
    cut = assignments(run__steps=4, mesh__data=4, mesh__fsdp=2, mesh__tensor=1)
    processes = Processes(cut, path)
    assert processes.wait() == [0, 0], processes.said()
    assert_close_runs(path, whole, 1e-5)


def until(condition, processes, timeout: float = 300) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, processes.said()
        assert all(x.poll() is None for x in processes.members), processes.said()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("when", ["starting", "stepping"])
def test_one_that_dies_ends_the_others(assignments, tmp_path, victim, when):
    path = tmp_path / "run"
    processes = Processes(assignments(run__steps=10**6), path)
    metrics = path / "metrics.jsonl"
    started = path / "config.yaml"
    until(started.exists if when == "starting" else metrics.exists, processes)
    start = time.monotonic()
    processes.members[victim].kill()
    assert processes.members[1 - victim].wait(timeout=60) == EXIT_PEER
    print(f"{when}, {victim} killed: {time.monotonic() - start:.1f} s")
    said = processes.logs[1 - victim].read_text()
    assert "another process of the run has died or cannot be reached" in said


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_told_to_leave_all_leave_after_the_same_step(assignments, tmp_path, told):
    path = tmp_path / "run"
    processes = Processes(assignments(run__steps=10**6), path)
    until((path / "metrics.jsonl").exists, processes)
    processes.members[told].terminate()
    assert processes.wait(timeout=120) == [EXIT_PREEMPTED] * 2, processes.said()
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "preempted"
    steps = sorted(int(x.name) for x in (path / "checkpoints").iterdir())
    assert steps[-1] == summary["steps"] == len(lines(path / "metrics.jsonl"))


@pytest.mark.slow
def test_what_the_first_refuses_all_refuse(assignments, alone, tmp_path):
    path = shutil.copytree(alone, tmp_path / "run")
    processes = Processes(assignments(optimizer__learning_rate=1), path)
    assert processes.wait(timeout=120) == [2, 2], processes.said()
    for log in processes.logs:
        assert "`optimizer.learning_rate` was" in log.read_text()


JUDGING = """
import json
import sys

import equinox as eqx
import jax
import jax.random as jr
import optax

import grpojax as gx
from grpojax import reward, sharding
from grpojax.runs import placement, processes
from grpojax.runs.recipe import Distributed
from tests.helpers import count_env, transformer

port, index = sys.argv[1:]
seen = []


def judge(prompts, completions):
    seen.append([prompts, completions])
    return [float(len(text)) for text in completions]


told = dict(coordinator=f"127.0.0.1:{port}", count=2, index=int(index))
with processes.joined(Distributed(), **told):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    optimizer = optax.sgd(0.1)
    state = gx.init(transformer(), optimizer=optimizer, key=jr.key(0))
    pay = reward.weighted_sum(
        {"length": 1.0}, reward.host_reward(judge, str, name="length")
    )
    with jax.set_mesh(mesh):
        collect = eqx.filter_jit(
            lambda *x: placement.everywhere(
                gx.collect(x[0], env=x[1], reward=pay, prompts=8, group=2)
            )
        )
        made = collect(*sharding.place((state, count_env(target=7)), mesh))
    made = jax.device_get(made)
    print(json.dumps([seen, made.rewards.total.tolist(), made.trajectory.lengths.tolist()]))
"""


@pytest.mark.slow
def test_a_judge_sees_the_rows_of_its_own_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={EACH}"
    root = Path(__file__).parents[2]
    members = [
        subprocess.Popen(
            [sys.executable, "-c", JUDGING, str(port), str(index)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    answers = [member.communicate(timeout=300)[0] for member in members]
    assert [member.returncode for member in members] == [0, 0]
    (first, total, _), (second, other, _) = (
        json.loads(answer.splitlines()[-1]) for answer in answers
    )
    assert total == other
    rows = [
        [(p, c) for prompts, said in calls for p, c in zip(prompts, said, strict=True)]
        for calls in (first, second)
    ]
    # Eight prompts of two samples: each process is asked about its half, once.
    assert [len(x) for x in rows] == [8, 8]
    assert not set(rows[0]) & set(rows[1])
    paid = sorted(float(len(said)) for _, said in rows[0] + rows[1])
    assert paid == sorted(x for row in total for x in row)
