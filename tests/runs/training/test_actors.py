"""Asynchronous training: rollouts on other devices, with the same result."""

import chex
import jax
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import reward, RolloutConfig, sharding, TrainStep
from grpojax.runs.training.settings import Checkpointing

from ...helpers import count_env, leaves, transformer


OPTIMIZER = optax.adam(1e-2)
DEVICES = jax.devices()
pytestmark = pytest.mark.skipif(len(DEVICES) < 8, reason="needs eight devices")


def judge(completions, **_):
    return [0.37 * text.count("7") for text in completions]


def decode(tokens):
    return " ".join(map(str, tokens))


def make_step(staleness, actors=None, paid=None):
    return TrainStep(
        count_env(max_completion_length=8),
        OPTIMIZER,
        rollout=RolloutConfig(4, 4, staleness=staleness),
        reward=paid or reward.WeightedSum({"target": 1.0}),
        actors=actors,
    )


def mesh_of(*devices, **sizes):
    return sharding.make_mesh(**sizes, devices=devices)


def start(staleness, mesh=None):
    state = make_step(staleness).init(transformer(), key=jr.key(0))
    return state if mesh is None else sharding.place(state, mesh)


def train(staleness, actors=None, paid=None, mesh=None, steps=4, **settings):
    step = make_step(staleness, actors, paid)
    return grpojax.fit(start(staleness, mesh), step, steps=steps, **settings)


@pytest.mark.laws
@pytest.mark.parametrize("staleness", [0, 2])
def test_the_result_is_that_of_one_device_bit_for_bit(staleness):
    expected = train(staleness)
    found = train(staleness, mesh_of(DEVICES[1]))
    chex.assert_trees_all_equal(leaves(found), leaves(expected))
    assert found.version.devices() == {DEVICES[0]}


@pytest.mark.slow
@pytest.mark.laws
def test_meshes_of_actors_and_learners_and_a_reward_in_python():
    host = reward.HostReward(judge, decode, name="judge")
    paid = reward.WeightedSum({"target": 0.7, "judge": 0.3}, host)
    mesh = mesh_of(*DEVICES[:4], fsdp=2, tensor=2)
    expected = train(1, paid=paid, mesh=mesh, steps=2)
    actors = mesh_of(*DEVICES[4:6], fsdp=2)
    found = train(1, actors, paid, mesh, steps=2)
    same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
    jax.tree.map(same, leaves(found.policy), leaves(expected.policy))


def test_a_run_goes_on_where_it_was(tmp_path):
    actors = mesh_of(DEVICES[1])
    expected = train(2, actors, steps=5)
    settings = dict(out=tmp_path / "run", checkpoint=Checkpointing(1))
    train(2, actors, steps=3, **settings)
    # The learner's device alone computes the rest: the result is the same.
    found = train(2, steps=5, resume=True, **settings)
    chex.assert_trees_all_equal(leaves(found), leaves(expected))


@pytest.mark.slow
def test_rows_under_way_are_in_checkpoints(tmp_path):
    """Their tokens are, and no keys and values: those are computed again."""
    rollout = RolloutConfig(2, 4, slots=8, partial_prompts=2)
    step = TrainStep(count_env(), OPTIMIZER, rollout=rollout)

    def train(steps, **settings):
        state = step.init(transformer(), key=jr.key(0))
        return grpojax.fit(state, step, steps=steps, **settings)

    settings = dict(out=tmp_path / "run", checkpoint=Checkpointing(1))
    train(2, **settings)
    found = train(4, resume=True, **settings)
    chex.assert_trees_all_equal(leaves(found), leaves(train(4)))
    assert found.partial.completions.sampled.any()


def test_an_error_of_the_rollout_ends_the_run():
    def fails(**_):
        raise KeyboardInterrupt("stop")

    host = reward.HostReward(fails, decode, name="judge", retries=0)
    paid = reward.WeightedSum({"judge": 1.0}, host)
    with pytest.raises(KeyboardInterrupt):
        train(1, mesh_of(DEVICES[1]), paid)


def test_actors_need_devices_of_their_own():
    with pytest.raises(ValueError, match="devices of their own. Received .*0"):
        train(1, mesh_of(*DEVICES[:2], data=2))
