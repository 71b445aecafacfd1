"""A step whose reward runs Python: two programs that compute what one does."""

import contextlib
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import reward, RolloutConfig, sharding, TrainStep
from grpojax.runs.training.step import lower

from ...helpers import count_env, leaves, mostly_slow, transformer


OPTIMIZER = optax.adam(1e-2)
PROMPTS, GROUP = 8, 4
MESH = {"data": 2, "fsdp": 2, "tensor": 2}


class Judge:
    """Counts a letter, and the calls and their rows."""

    def __init__(self):
        self.rows, self.lock = [], threading.Lock()

    def __call__(self, completions, **_):
        with self.lock:
            self.rows.append(len(completions))
        return [0.37 * text.count("7") for text in completions]


def decode(tokens):
    return " ".join(map(str, tokens))


def make_step(paid):
    return TrainStep(
        count_env(max_completion_length=8),
        OPTIMIZER,
        grpojax.algorithms.dapo(),
        rollout=RolloutConfig(PROMPTS, GROUP),
        reward=paid,
    )


def start(mesh=None):
    state = grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))
    return state if mesh is None else sharding.place(state, mesh)


@pytest.mark.parametrize("sizes", mostly_slow([{}, MESH], [MESH]))
def test_two_programs_compute_the_same_bits_as_one(sizes):
    judge = Judge()
    host = reward.HostReward(judge, decode, name="judge")
    # Weights and shapings are computed in a program, with and without the split.
    total = reward.WeightedSum({"target": 0.7, "judge": 0.3}, host)
    paid = reward.Chain(total, reward.ClipTotal(jnp.float32(-0.9), jnp.float32(0.8)))
    step, mesh, count = make_step(paid), None, 1
    if sizes:
        devices = jax.devices()[: np.prod(list(sizes.values()))]
        mesh = sharding.make_mesh(**sizes, devices=devices)
        count = mesh.shape["data"] * mesh.shape["fsdp"]
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        one, two = eqx.filter_jit(step), lower(start(mesh), step, samples=2).compile()
        assert list(two.bytes) == ["sample", "update"]
        state, expected = start(mesh), start(mesh)
        for _ in range(2):
            state, metrics, samples = two.call(state)
            calls = len(judge.rows)
            expected, measured = one(expected)
            assert calls + count == len(judge.rows)
    # One call for each shard of the batch.
    assert judge.rows == [PROMPTS * GROUP // count] * (2 * 2 * count)
    assert len(samples.rewards["judge"]) == 2
    assert 0 < metrics["rewards/judge/mean"] < 1
    same = lambda a, b: np.testing.assert_array_equal(a, b)
    jax.tree.map(same, metrics, measured)
    jax.tree.map(same, leaves(state.policy), leaves(expected.policy))


class First(eqx.Module):
    """Asks about the first token of every completion."""

    host: reward.HostReward

    def __call__(self, trajectory):
        first = jnp.arange(trajectory.tokens.shape[-1]) == 0
        sampled = trajectory.sampled & first
        return self.host(eqx.tree_at(lambda x: x.sampled, trajectory, sampled))


@pytest.mark.slow
def test_a_reward_that_changes_the_trajectory_is_asked_about_what_it_passes_on():
    seen = []

    def judge(completions, **_):
        seen.append(max(len(text.split()) for text in completions))
        return [float(text == "7") for text in completions]

    step = make_step(First(reward.HostReward(judge, decode, name="first")))
    lowered = lower(start(), step, samples=PROMPTS)
    assert list(lowered.programs) == ["sample", "update"]
    _, _, samples = lowered.compile().call(start())
    assert seen[-1] == 1
    np.testing.assert_array_equal(samples.total, samples.tokens[:, :, 0] == 7)


@pytest.mark.slow
def test_a_host_reward_that_a_function_encloses_stays_a_callback():
    judge = Judge()
    host = reward.HostReward(judge, decode, name="judge")
    compiled = lower(start(), make_step(lambda trajectory: host(trajectory))).compile()
    assert list(compiled.bytes) == ["step"]
    _, metrics, _ = compiled.call(start())
    assert metrics["reward"] >= 0  # Waits for the program, and so for the callback.
    assert judge.rows == [PROMPTS * GROUP]
