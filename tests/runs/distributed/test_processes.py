"""Processes agree, fail together, and write checkpoints together."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax.random as jr
import optax
import pytest

from grpojax import init, models
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from grpojax.runs.distributed import processes

from ...helpers import transformer
from .launch import environment, free_port


JOINED = """
import json
import sys
from pathlib import Path

import chex
import equinox as eqx
import jax
import jax.random as jr
import optax

import grpojax as gx
from grpojax import models, reward, rollout, sharding
from grpojax.runs.distributed import mesh as meshes, processes
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
    assert found.step == 2
    chex.assert_trees_all_equal(found.state, state)
    # No process has written the whole of a weight that is cut.
    written = [
        sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())
        for folder in (tmp_path / "checkpoints" / "2" / "state").glob("ocdbt.process_*")
    ]
    assert len(written) == 2 and min(written) > 0.3 * sum(written)
    chex.assert_trees_all_equal(models.load(tmp_path / "model"), state.policy)


JUDGING = """
seen = []

def judge(prompts, completions):
    seen.append([prompts, completions])
    return [float(len(text)) for text in completions]

pay = reward.HostReward(judge, repr, name="length")
pay = reward.WeightedSum({"length": 1.0}, pay)
config = rollout.RolloutConfig(prompts=8, group=2)

@eqx.filter_jit
def collect(state, env):
    made = gx.collect(state, env, rollout=config, reward=pay)
    return meshes.replicate(made.rewards.total)

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


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="cannot be had .*: choose another"):
            with processes.distributed(
                coordinator=place, num_processes=2, process_id=0
            ):
                pass
