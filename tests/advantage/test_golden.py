"""Numbers that other systems were seen to compute."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.advantage import (
    BatchNormalized,
    BatchScaled,
    BestOfGroup,
    ByGroupId,
    DapoMix,
    Gdpo,
    group_centered,
    GroupNormalized,
    leave_one_out,
    opo,
    ReinforcePlusPlus,
)
from grpojax.types import Rewards


CLOSE = dict(rtol=1e-6, atol=1e-6)

MLLM_JAX = jnp.array([[0.0, 0, 0, 0], [2, 2, 0, 1]])


@pytest.mark.parametrize(
    "estimator, wanted",
    [
        (
            GroupNormalized(ddof=0),
            [0, 0, 0, 0, 0.9044249, 0.9044249, -1.5073749, -0.3014750],
        ),
        (leave_one_out, [0, 0, 0, 0, 1, 1, -1.6666666, -0.3333333]),
        # The last was written down as -0.2139618, which its two parts do not add up to.
        (DapoMix(), [-0.145848] * 4 + [1.2252904, 1.2252904, -1.6532228, -0.2139664]),
    ],
)
def test_mllm_jax(estimator, wanted):
    seen = jax.jit(estimator)(Rewards.of(MLLM_JAX))
    np.testing.assert_allclose(seen.reshape(-1), wanted, **CLOSE)


@ft.partial(jax.jit, static_argnames=("groups", "size"))
def by_ids(values, ids, groups, size=None):
    """The estimators that do not look at the other groups."""
    estimators = {
        "GroupNormalized": GroupNormalized(1e-6),
        "group_centered": group_centered,
        "leave_one_out": leave_one_out,
        "BestOfGroup": BestOfGroup(1e-6),
        "opo": opo,
    }
    flat = Rewards.of(values[:, None])
    return {
        name: ByGroupId(estimator, ids, groups=groups, size=size)(flat)[:, 0]
        for name, estimator in estimators.items()
    }


def test_verl():
    """Groups of 4, 2 and 4 rows, shuffled."""
    values = np.array([1.0, 0, 0, 1, 0.5, 0, 1, 1, 1, 1])
    ids = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    order = np.array([7, 2, 5, 0, 9, 4, 1, 8, 3, 6])
    seen = by_ids(values[order], ids[order], groups=3)
    for name, first, second in (
        ("GroupNormalized", 0.866024, 0.707105),
        ("group_centered", 0.5, 0.25),
        ("leave_one_out", 0.666667, 0.5),
        ("opo", 0.5, 0.25),  # Of equal lengths.
    ):
        wanted = [first, -first, -first, first, second, -second, 0, 0, 0, 0]
        close = dict(rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(seen[name], np.array(wanted)[order], **close)
    best = np.array([0, 0, 0, 0, 1.414210, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(seen["BestOfGroup"], best[order], rtol=2e-6)


def test_ragged_groups_of_mllm_jax():
    values, ids = np.array([1.0, 2, 3, 10, 20]), np.array([0, 0, 0, 1, 1])
    wanted = np.array([-1.5, 0, 1.5, -10, 10])
    for order in (np.arange(5), np.array([3, 0, 4, 2, 1])):
        seen = by_ids(values[order], ids[order], groups=2, size=3)
        np.testing.assert_allclose(seen["leave_one_out"], wanted[order], **CLOSE)


def test_a_group_of_one_row_gets_zero_by_its_id():
    values, ids = np.array([1.0, 2, 3, 10, 7]), np.array([0, 0, 0, 0, 1])
    for name, seen in by_ids(values, ids, groups=2, size=3 + 1).items():
        assert seen[4] == 0 and seen[:4].any(), name


def test_a_row_that_fits_nowhere_is_nan_and_padding_is_zero():
    flat = Rewards.of(
        jnp.array([[1.0, 2.0, 3.0, 4.0, 5.0]]),
        valid=jnp.array([[True, True, True, True, False]]),
    )
    ids = jnp.array([0, 0, 2, -1, -1])  # Groups 2 and -1 are not there.
    seen = ByGroupId(group_centered, ids, groups=2, size=2)(flat)
    np.testing.assert_array_equal(seen, [[-0.5, 0.5, np.nan, np.nan, 0]])
    full = ByGroupId(group_centered, jnp.zeros(5, int), groups=1, size=2)(flat)
    assert np.isnan(full[0, 2:4]).all() and full[0, 4] == 0


def test_by_group_id_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="Received 3 ids for 4 rows"):
        ByGroupId(group_centered, jnp.zeros(3, int), groups=1)(
            Rewards.of(jnp.ones((2, 2)))
        )
    with pytest.raises(ValueError, match="groups` must be at least 1. Received 0"):
        ByGroupId(group_centered, jnp.zeros(3, int), groups=0)


TRL = np.array([[1.0, 0.0, 0.25, 1.0], [0.0, 0.0, 0.0, 0.5]])


def test_trl_scales():
    """`scale_rewards` "group", "batch" and "none", by hand."""
    center = TRL - TRL.mean(1, keepdims=True)
    group = center / (TRL.std(1, ddof=1, keepdims=True) + 1e-4)
    batch = center / (TRL.std(ddof=1) + 1e-4)
    rewards = Rewards.of(TRL)
    np.testing.assert_allclose(GroupNormalized()(rewards), group, rtol=1e-5)
    np.testing.assert_allclose(BatchScaled()(rewards), batch, rtol=1e-5)
    np.testing.assert_allclose(group_centered(rewards), center, rtol=1e-5)


def test_gdpo_leaves_out_a_component_that_does_not_apply():
    """TRL's nanmean, nanstd and nansum."""
    other = np.array([[3.0, np.nan, 1.0, 2.0], [np.nan] * 4])
    rewards = Rewards.of(TRL, name="a")
    rewards = Rewards(
        rewards.total,
        {"a": rewards.components["a"], "b": jnp.asarray(other, jnp.float32)},
        {"a": jnp.float32(1.0), "b": jnp.float32(0.5)},
        rewards.valid,
        rewards.keep,
        rewards.lengths,
    )
    z = (TRL - TRL.mean(1, keepdims=True)) / (TRL.std(1, ddof=1, keepdims=True) + 1e-4)
    known = other[0, [0, 2, 3]]
    z[0, [0, 2, 3]] += 0.5 * (known - known.mean()) / (known.std(ddof=1) + 1e-4)
    wanted = (z - z.mean()) / (z.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(Gdpo()(rewards), wanted, rtol=1e-4, atol=1e-6)


def test_reinforce_plus_plus_whitens_tokens_not_rows():
    """Rows of 1 and 3 tokens that are paid 1 and 0: the mean is 1/4, not 1/2."""
    lengths = jnp.array([[1, 3]])
    rewards = Rewards.of(jnp.array([[1.0, 0.0]]), lengths=lengths)
    deviation = np.array([[0.75, -0.25]])
    wanted = deviation / np.sqrt(0.25)  # (1 · 0.75² + 3 · 0.25²) / (4 - 1)
    np.testing.assert_allclose(ReinforcePlusPlus()(rewards), wanted, rtol=1e-6)
    rows = BatchNormalized()(rewards)
    assert np.abs(rows - wanted).max() > 0.1


def test_opo_weighs_by_length():
    rewards = Rewards.of(jnp.array([[1.0, 0.0]]), lengths=jnp.array([[1, 3]]))
    np.testing.assert_allclose(opo(rewards), [[0.75, -0.25]], rtol=1e-6)
