"""Rewards of turns, beside their sums."""

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from grpojax import rollout

from ..helpers import count_env, UniformPolicy


SIZES = dict(prompts=4, group=3)
THREE = count_env(max_turns=3, reply_length=2, max_completion_length=20)


@pytest.fixture(scope="module", params=[None, 5], ids=["all slots", "refills"])
def trajectory(request):
    config = rollout.RolloutConfig(**SIZES, slots=request.param)
    generate = eqx.filter_jit(rollout.generate)
    return generate(UniformPolicy(50), THREE, config, key=jr.key(0))


def test_the_rewards_of_turns_add_up_to_those_of_the_conversation(trajectory):
    for name, total in trajectory.rewards.items():
        each = trajectory.turns.rewards[name]
        assert each.shape == (4, 3, 3)
        np.testing.assert_array_equal(np.cumsum(each, axis=-1)[..., -1], total)
    assert len(np.unique(trajectory.rewards["turns"])) > 1


def test_turns_end_where_a_reply_begins_or_nothing_follows(trajectory):
    ends, sampled = np.asarray(trajectory.turns.ends), np.asarray(trajectory.sampled)
    tokens, target = np.asarray(trajectory.tokens), int(THREE.target)
    for row in np.ndindex(ends.shape[:2]):
        count = int(trajectory.rewards["turns"][row])
        assert (ends[row] > 0).tolist() == [True] * count + [False] * (3 - count)
        start = 0
        for turn, end in enumerate(ends[row][:count]):
            assert (
                sampled[row][start:end].all() and not sampled[row][end : end + 2].any()
            )
            hits = float((tokens[row][start:end] == target).sum())
            assert trajectory.turns.rewards["target"][row][turn] == hits
            start = end + 2


def test_a_single_turn_has_no_rewards_of_turns():
    config = rollout.RolloutConfig(**SIZES)
    generate = lambda: rollout.generate(
        UniformPolicy(50), count_env(), config, key=jr.key(0)
    )
    shapes = eqx.filter_eval_shape(generate)
    assert shapes.turns is None and shapes.rewards["target"].shape == (4, 3)
