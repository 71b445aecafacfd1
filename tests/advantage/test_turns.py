"""Credit of turns: against NumPy, and of a single turn as before."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.advantage import (
    ByGroupId,
    ByTurn,
    group_centered,
    GroupNormalized,
    leave_one_out,
    TurnNormalized,
)
from grpojax.reward import Chain, ClipTotal, DiscountTurns, WeightedSum
from grpojax.types import Prompt, Rewards, Trajectory, TurnRewards


PROMPTS, GROUP, TURNS, TIME = 2, 4, 3, 12
REWARD = WeightedSum({"a": 1.0, "b": 0.5, "length": 0.01})


def trajectory_of(seed: int = 0) -> Trajectory:
    """Conversations of one to three turns of two to three tokens, a reply between."""
    draw = np.random.default_rng(seed)
    shape = (PROMPTS, GROUP)
    ends = np.zeros((*shape, TURNS), np.int32)
    sampled = np.zeros((*shape, TIME), bool)
    taken = np.zeros(ends.shape, bool)
    for row in np.ndindex(shape):
        place = 0
        for turn in range(draw.integers(1, TURNS + 1)):
            place += turn > 0  # The reply.
            length = draw.integers(2, 4)
            sampled[row][place : place + length] = True
            place += length
            ends[row][turn], taken[row][turn] = place, True
    each = {x: np.where(taken, draw.integers(0, 3, ends.shape), 0.0) for x in "ab"}
    each = {name: x.astype(np.float32) for name, x in each.items()}
    return Trajectory(
        prompt=Prompt(jnp.zeros((PROMPTS, 1), int), jnp.ones(PROMPTS, int)),
        tokens=jnp.zeros((*shape, TIME), jnp.int32),
        sampled=jnp.asarray(sampled),
        log_prob=jnp.zeros((*shape, TIME)),
        version=jnp.zeros((*shape, TIME), jnp.int32),
        terminated=jnp.ones(shape, bool),
        rewards={name: jnp.asarray(x.sum(-1)) for name, x in each.items()},
        temperature=jnp.ones(()),
        turns=TurnRewards(jnp.asarray(ends), jax.tree.map(jnp.asarray, each)),
    )


def length(trajectory: Trajectory) -> Rewards:
    return Rewards.of(-trajectory.lengths.astype(jnp.float32), name="length")


def rewards_of(trajectory: Trajectory, *shapings) -> Rewards:
    return Chain(WeightedSum(REWARD.weights, length), *shapings)(trajectory)


def conversations(trajectory: Trajectory) -> list[list[list[float]]]:
    """The rewards of the turns of every member of every group; a list of what was."""
    found, turns = [], jax.device_get(trajectory.turns)
    for p in range(PROMPTS):
        group = []
        for g in range(GROUP):
            count = int((turns.ends[p, g] > 0).sum())
            own = turns.rewards["a"][p, g] + 0.5 * turns.rewards["b"][p, g]
            own = [float(x) for x in own[:count]]
            own[-1] -= 0.01 * float(trajectory.lengths[p, g])
            group.append(own)
        found.append(group)
    return found


def returns_of(paid: list[float], discount: float) -> list[float]:
    later = [0.0]
    for reward in reversed(paid):
        later.insert(0, reward + discount * later[0])
    return later[:-1]


def check(found, trajectory, expected):
    """Every sampled token has what is expected of its turn, `[prompt][group][turn]`."""
    ends = np.asarray(trajectory.turns.ends)
    seen = 0
    for p, g, time in zip(*np.nonzero(np.asarray(trajectory.sampled)), strict=True):
        turn = int(((ends[p, g] > 0) & (ends[p, g] <= time)).sum())
        assert found[p, g, time] == pytest.approx(expected[p][g][turn], abs=1e-5)
        seen += turn > 0
    assert seen > 10


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_are_compared_turn_by_turn(discount):
    trajectory = trajectory_of()
    estimator = ByTurn(GroupNormalized(eps=0.1), discount=discount)
    found = jax.jit(lambda x: estimator(rewards_of(x)))(trajectory)
    expected = []
    for group in conversations(trajectory):
        returns = [returns_of(paid, discount) for paid in group]
        own = [[0.0] * len(x) for x in returns]
        for turn in range(TURNS):
            members = [g for g in range(GROUP) if len(returns[g]) > turn]
            values = np.array([returns[g][turn] for g in members])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            for g, value in zip(members, values, strict=True):
                own[g][turn] = float((value - values.mean()) / (spread + 0.1))
        expected.append(own)
    check(found, trajectory, expected)


@pytest.mark.parametrize("discount", [0.5, 1.0])
def test_process_supervision_sums_what_is_normalized_over_all_turns(discount):
    trajectory = trajectory_of(1)
    found = TurnNormalized(discount, eps=0.1)(rewards_of(trajectory))
    expected = []
    for group in conversations(trajectory):
        every = np.concatenate(group)
        scale = every.std(ddof=1) + 0.1
        normal = [[(x - every.mean()) / scale for x in paid] for paid in group]
        expected.append([returns_of(paid, discount) for paid in normal])
    check(found, trajectory, expected)


def test_what_a_shaping_changes_is_paid_at_the_last_turn():
    trajectory = trajectory_of(2)
    clipped = rewards_of(trajectory, ClipTotal(-1.0, 1.0))
    found = ByTurn(group_centered, discount=1.0)(clipped)
    totals = np.clip(
        [[sum(x) for x in own] for own in conversations(trajectory)], -1, 1
    )
    first = totals - totals.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, :, 0], first, atol=1e-5)


def test_a_discount_shortens_conversations():
    trajectory = trajectory_of(3)
    rewards = rewards_of(trajectory, DiscountTurns(0.5))
    expected = [
        [returns_of(paid, 0.5)[0] for paid in own] for own in conversations(trajectory)
    ]
    np.testing.assert_allclose(rewards.total, expected, atol=1e-6)
    later = ByTurn(leave_one_out)(rewards)[:, :, 0]
    np.testing.assert_allclose(later, leave_one_out(rewards), atol=1e-5)
    plain = Rewards.of(jnp.ones((2, 2)))
    assert DiscountTurns(0.5)(trajectory, plain) is plain


@pytest.mark.parametrize("estimator", [GroupNormalized(), leave_one_out])
def test_a_single_turn_has_the_estimator_s_advantage_to_the_last_bit(estimator):
    total = jax.random.normal(jax.random.key(0), (3, 4))
    rewards = Rewards.of(total, valid=total > -1)
    chex.assert_trees_all_equal(ByTurn(estimator)(rewards), estimator(rewards))
    normalized = TurnNormalized(eps=1e-4)(rewards)
    chex.assert_trees_all_equal(normalized, GroupNormalized()(rewards))


def test_equal_conversations_have_exactly_nothing():
    trajectory = trajectory_of()
    same = jax.tree.map(
        lambda x: x[:, :1].repeat(GROUP, 1), rewards_of(trajectory).turns
    )
    rewards = Rewards.of(same.sum)
    rewards = Rewards(**{**vars(rewards), "turns": same})
    for estimator in (ByTurn(), ByTurn(leave_one_out, 0.3)):
        assert not estimator(rewards).any()


def test_groups_by_their_ids_have_turns_too():
    trajectory = trajectory_of(4)
    rewards, ids = rewards_of(trajectory), jnp.asarray([[0] * GROUP, [1] * GROUP])
    found = ByGroupId(ByTurn(group_centered), ids, groups=2, size=GROUP)(rewards)
    np.testing.assert_array_equal(found, ByTurn(group_centered)(rewards))


def test_a_class_is_no_estimator():
    with pytest.raises(TypeError, match="estimator"):
        ByTurn(GroupNormalized)  # type: ignore[arg-type]
