import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from grpojax.advantage import (
    keep_all,
    nonzero_variance,
    NonzeroVariancePrompts,
    take_nonzero_variance,
)
from grpojax.types import Prompt, Rewards, Trajectory


SHAPE = (6, 3)
law = settings(max_examples=25, deadline=None)
zero_or_one = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 1.0]))
masks = hnp.arrays(bool, SHAPE)


def trajectory_of(total) -> Trajectory:
    """Every array says which prompt it belongs to."""
    prompts, group = total.shape
    number = jnp.broadcast_to(jnp.arange(prompts)[:, None, None], (prompts, group, 4))
    return Trajectory(
        prompt=Prompt(number[:, 0], number[:, 0, 0] + 1),
        tokens=number,
        sampled=jnp.ones(number.shape, bool),
        log_prob=-number.astype(float),
        version=number,
        terminated=jnp.ones(total.shape, bool),
        rewards={"reward": jnp.asarray(total)},
        temperature=jnp.asarray(0.5),
    )


@jax.jit
def select(total, valid):
    rewards = Rewards.of(total, valid=valid)
    some = take_nonzero_variance(trajectory_of(total), rewards, count=3)
    return (
        keep_all(rewards),
        nonzero_variance(rewards),
        NonzeroVariancePrompts(3)(rewards),
        some,
    )


@law
@given(zero_or_one, masks)
def test_prompts_with_something_to_learn_come_first(total, valid):
    every, rows, mask, (trajectory, rewards) = select(total, valid)
    differ = [len(set(r[v])) > 1 for r, v in zip(total, valid, strict=True)]
    found = [p for p in range(6) if differ[p]]
    others = [p for p in range(6) if not differ[p]]
    assert every.all()
    wanted = np.repeat(np.array(differ)[:, None], 3, axis=1)
    np.testing.assert_array_equal(rows, wanted)
    first = np.isin(np.arange(6), found[:3])
    np.testing.assert_array_equal(mask, wanted & first[:, None])
    chosen = (found + others)[:3]
    assert trajectory.temperature == 0.5
    numbers = np.asarray(trajectory.tokens[:, 0, 0])
    np.testing.assert_array_equal(numbers, chosen)
    for x in (trajectory.version, -trajectory.log_prob, trajectory.prompt.tokens):
        assert (np.moveaxis(np.asarray(x), 0, -1) == numbers).all()
    np.testing.assert_array_equal(rewards.total, np.where(valid, total, 0)[chosen])
    np.testing.assert_array_equal(rewards.valid, valid[chosen])
    # The mask and the smaller batch train on the same rows.
    kept = np.asarray(nonzero_variance(rewards))
    assert set(numbers[kept[:, 0]]) == set(np.flatnonzero(first))
    assert kept.sum() == mask.sum()


def test_equality_is_not_blurred_by_rounding():
    """The mean of three times 0.1 is not 0.1; but 0.1 + 0.2 differs from 0.3."""
    with jax.enable_x64(True):
        same = np.full((1, 3), 0.1)
        assert (same - same.mean()).any()
        assert not nonzero_variance(Rewards.of(same)).any()
        assert nonzero_variance(Rewards.of(np.array([[0.1 + 0.2, 0.3]]))).all()


def test_a_prompt_whose_rows_are_all_dropped_has_nothing_to_learn_from():
    rewards = Rewards.of(jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    keep = jnp.array([[False, False], [True, False]])
    dropped = Rewards(rewards.total, {}, {}, rewards.valid, keep, rewards.lengths)
    np.testing.assert_array_equal(NonzeroVariancePrompts(1)(dropped), keep)


def test_counts_that_make_no_batch_are_refused():
    rewards = Rewards.of(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="at least 1. Received 0"):
        NonzeroVariancePrompts(0)
    with pytest.raises(ValueError, match="count=3 for 2 prompts"):
        take_nonzero_variance(trajectory_of(rewards.total), rewards, count=3)
