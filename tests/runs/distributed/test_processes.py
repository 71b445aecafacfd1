"""Many processes compute what one does, end together, and go on together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.random as jr
import optax
import pytest

from grpojax import init, models, sharding
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from grpojax.runs.distributed.preemption import EXIT_PREEMPTED
from grpojax.runs.distributed.supervise import EXIT_PEER
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.training import fit as training

from ...helpers import distance, same_bits, transformer


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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(each: int) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={each}"
    return os.environ | {
        "XLA_FLAGS": f"--xla_backend_optimization_level=0 {flags}",
        "JAX_PLATFORMS": "cpu",
    }


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
    cut = assignments(run__steps=4, mesh__data=1, mesh__fsdp=-1, mesh__tensor=2)
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


JOINED = """
import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import optax

import grpojax as gx
from grpojax import models, reward, sharding
from grpojax.runs.distributed import mesh as placement, processes
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from tests.helpers import count_env, transformer

out, sizes, port, index = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
ids = dict(coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=index)
optimizer = optax.adam(0.1)
with processes.distributed(heartbeat_timeout=10, **ids):
    state = gx.init(transformer(), optimizer=optimizer, key=jr.key(0))
    mesh = sharding.make_mesh(**sizes)
    state = sharding.place(state, mesh)
    answer = None
"""


def joined(body: str, out: Path, *, each: int, **sizes: int) -> list[subprocess.Popen]:
    """Two processes that do something together and print `answer`."""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    script = f"{JOINED}{indented}    print(json.dumps(answer))\n"
    arguments = [str(out), json.dumps(sizes), str(free_port())]
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments, str(index)],
            env=environment(each),
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def answers(members: list[subprocess.Popen]) -> list:
    said = [member.communicate(timeout=300) for member in members]
    assert [member.returncode for member in members] == [0, 0], said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


AGREEING = """
def fail():
    raise ValueError("no such run")

try:
    processes.on_process_0(fail)
except ValueError as error:
    refused = str(error)
answer = [
    processes.broadcast_from_0(lambda: ["index", index]),
    processes.on_process_0(lambda: index),
    [processes.any_process(flag) for flag in (False, index == 1, True)],
    refused,
]
with Checkpoints(out / "checkpoints") as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, state, config="", files={"by": str(index).encode()})
    checkpoints.wait()
    again = checkpoints.restore(state)
    answer.append([again.step, [x.decode() for x in again.files.values()]])
models.save(again.state.policy, out / "model")
"""


def test_two_processes_agree_and_write_together(tmp_path):
    first, second = answers(joined(AGREEING, tmp_path, each=2, fsdp=2, tensor=2))
    agreed = [["index", 0], None, [False, True, True], "no such run", [2, ["0"]]]
    assert second == agreed
    agreed[1] = 0
    assert first == agreed
    state = init(transformer(), optimizer=optax.adam(0.1), key=jr.key(0))
    found = Checkpoints(tmp_path / "checkpoints").restore(state)
    assert found.step == 2 and same_bits(found.state, state)
    # No process has written the whole of a weight that is cut.
    written = [
        sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())
        for folder in (tmp_path / "checkpoints" / "2" / "state").glob("ocdbt.process_*")
    ]
    assert len(written) == 2 and min(written) > 0.3 * sum(written)
    assert same_bits(models.load(tmp_path / "model"), state.policy)


JUDGING = """
seen = []

def judge(prompts, completions):
    seen.append([prompts, completions])
    return [float(len(text)) for text in completions]

pay = reward.HostReward(judge, str, name="length")
pay = reward.WeightedSum({"length": 1.0}, pay)

@eqx.filter_jit
def collect(state, env):
    made = gx.collect(state, env=env, reward=pay, prompts=8, group=2)
    return placement.replicate(made.rewards.total)

with jax.set_mesh(mesh):
    paid = collect(state, sharding.place(count_env(target=7), mesh))
answer = [paid.tolist(), seen]
"""


@pytest.mark.slow
def test_a_judge_sees_the_rows_of_its_own_process(tmp_path):
    members = joined(JUDGING, tmp_path, each=4, data=2, fsdp=2, tensor=2)
    (paid, first), (told, second) = answers(members)
    assert paid == told
    rows = [
        [row for prompts, said in calls for row in zip(prompts, said, strict=True)]
        for calls in (first, second)
    ]
    # Eight prompts of two samples: each process is asked about its half, once.
    assert [len(x) for x in rows] == [8, 8]
    assert not set(rows[0]) & set(rows[1])
    lengths = sorted(float(len(said)) for _, said in rows[0] + rows[1])
    assert lengths == sorted(x for row in paid for x in row)


FAILING = """
with jax.set_mesh(mesh):
    double = jax.jit(lambda x: x + 0 * x.sum())
    x = state.policy.embedding
    for count in range(10**9):
        x = double(x)
        x.block_until_ready()
        if count == 20 and index == failing:
            raise OSError("the disk is gone")
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_ends_the_others(tmp_path, failing):
    body = f"failing = {failing}\n{FAILING}"
    members = joined(body, tmp_path, each=2, fsdp=2, tensor=2)
    start = time.monotonic()
    said = [member.communicate(timeout=60) for member in members]
    assert time.monotonic() - start < 60
    assert members[failing].returncode == 1
    assert "OSError: the disk is gone" in said[failing][1]
    # Without a supervisor, which turns this into words.
    assert members[1 - failing].returncode == -signal.SIGABRT
