"""The laws of every estimator in one matrix; a new one joins by one line."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

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

from . import oracle


EPS = 1e-6


class Case(NamedTuple):
    """An estimator and what is known of it.

    - `oracle`: list of groups -> list of advantages, in NumPy.
    - `zero`: over what its advantages add up to 0: "group", "batch", weighed by lengths
        as "group tokens" or "batch tokens", or nothing.
    - `degree`: rewards times c are worth c to this power.
    - `own`: whether a group of equal rewards gets 0 whatever the others were paid.
    """

    estimator: Callable
    oracle: Callable
    zero: str | None
    degree: int
    own: bool = True


ESTIMATORS = {
    "GroupNormalized": Case(
        GroupNormalized(EPS), oracle.GroupNormalized(EPS, 1), "group", 0
    ),
    "GroupNormalized(ddof=0)": Case(
        GroupNormalized(EPS, 0), oracle.GroupNormalized(EPS, 0), "group", 0
    ),
    "group_centered": Case(group_centered, oracle.group_centered, "group", 1),
    "leave_one_out": Case(leave_one_out, oracle.leave_one_out, "group", 1),
    "BatchNormalized": Case(
        BatchNormalized(EPS), oracle.BatchNormalized(EPS, 1), "batch", 0, own=False
    ),
    "BatchScaled": Case(BatchScaled(EPS), oracle.BatchScaled(EPS), "group", 0),
    "BestOfGroup": Case(BestOfGroup(EPS), oracle.BestOfGroup(EPS), None, 0),
    "DapoMix": Case(DapoMix(0.2, EPS), oracle.DapoMix(0.2, EPS), "batch", 0, own=False),
    "Gdpo": Case(Gdpo(EPS), oracle.Gdpo(EPS), "batch", 0),
    "ReinforcePlusPlus": Case(
        ReinforcePlusPlus(),
        oracle.reinforce_plus_plus(False),
        "batch tokens",
        0,
        False,
    ),
    "ReinforcePlusPlus(group_baseline)": Case(
        ReinforcePlusPlus(group_baseline=True),
        oracle.reinforce_plus_plus(True),
        "batch tokens",
        0,
    ),
    "opo": Case(opo, oracle.opo, "group tokens", 1),
}

SHAPE = (8, 4)
quarters = hnp.arrays(np.int8, SHAPE, elements=st.integers(-8, 8)).map(
    lambda x: x.astype(np.float32) / 4
)
lengths = hnp.arrays(np.int32, SHAPE, elements=st.integers(1, 9))
masks = hnp.arrays(bool, SHAPE)
law = settings(max_examples=25, deadline=None)


class Batch(NamedTuple):
    """Two components, `oracle.WEIGHTS` of which are the total."""

    a: np.ndarray
    b: np.ndarray
    valid: np.ndarray
    lengths: np.ndarray


batches = st.builds(Batch, quarters, quarters, masks, lengths)


def rewards_of(batch: Batch) -> Rewards:
    a, b, valid, lengths = map(jnp.asarray, batch)
    return Rewards(
        total=oracle.WEIGHTS[0] * a + oracle.WEIGHTS[1] * b,
        components={"a": a, "b": b},
        weights=dict(zip("ab", map(jnp.float32, oracle.WEIGHTS), strict=True)),
        valid=valid,
        keep=jnp.ones(a.shape, bool),
        lengths=lengths,
    )


@jax.jit
def compiled(batch: Batch):
    """All estimators at once: one program for every law."""
    rewards = rewards_of(batch)
    return {name: case.estimator(rewards) for name, case in ESTIMATORS.items()}


@jax.jit
def slopes(batch: Batch, cotangent):
    def value(ab, case):
        rewards = rewards_of(batch._replace(a=ab[0], b=ab[1]))
        return jnp.sum(case.estimator(rewards) * cotangent)

    ab = (batch.a, batch.b)
    return {name: jax.grad(value)(ab, case) for name, case in ESTIMATORS.items()}


@jax.jit
def compiled_by_id(batch: Batch, ids):
    rewards = rewards_of(batch)
    return {
        name: ByGroupId(case.estimator, ids, groups=9)(rewards)
        for name, case in ESTIMATORS.items()
    }


def advantages(batch: Batch) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in compiled(batch).items()}


def close(seen, wanted, name, tolerance=1e-4):
    np.testing.assert_allclose(seen, wanted, tolerance, tolerance, err_msg=name)


@law
@given(batches)
def test_equals_the_formula_on_the_rows_that_count(batch):
    """And so rows under the mask stand outside every statistic."""
    groups = [oracle.Group(*(x[p][batch.valid[p]] for x in (batch.a, batch.b,
              batch.lengths))) for p in range(SHAPE[0])]  # fmt: skip
    for name, seen in advantages(batch).items():
        assert not seen[~batch.valid].any(), name
        wanted = ESTIMATORS[name].oracle(groups)
        for p in range(SHAPE[0]):
            close(seen[p][batch.valid[p]], wanted[p], name)


@law
@given(batches, st.randoms(use_true_random=False))
def test_by_group_id_equals_the_formula_on_ragged_groups(batch, random):
    """Ids in any order, some groups empty; each row belongs to whom its id says."""
    ids = np.array([random.randrange(9) for _ in range(32)], np.int32).reshape(SHAPE)
    groups = []
    for group in range(9):
        own = (ids == group) & batch.valid
        groups.append(oracle.Group(batch.a[own], batch.b[own], batch.lengths[own]))
    for name, seen in compiled_by_id(batch, ids).items():
        wanted = ESTIMATORS[name].oracle(groups)
        assert not seen[~batch.valid].any(), name
        for group in range(9):
            own = (ids == group) & batch.valid
            close(seen[own], wanted[group], name)


@law
@given(batches, st.randoms(use_true_random=False))
def test_by_group_id_equals_the_axis_form(batch, random):
    order = list(range(32))
    random.shuffle(order)
    ids = np.repeat(np.arange(8, dtype=np.int32), 4)[order].reshape(SHAPE)
    shuffled = Batch(*(x.reshape(-1)[order].reshape(SHAPE) for x in batch))
    by_axis = advantages(batch)
    for name, seen in compiled_by_id(shuffled, ids).items():
        close(seen.reshape(-1), by_axis[name].reshape(-1)[order], name)


@pytest.mark.laws
@law
@given(batches)
def test_sums_are_zero(batch):
    for name, seen in advantages(batch).items():
        zero = ESTIMATORS[name].zero
        if zero is None:
            assert (seen >= 0).all() and ((seen > 0).sum(axis=1) <= 1).all(), name
            continue
        weighed = seen * batch.lengths if "tokens" in zero else seen
        total = weighed.sum(axis=1) if "group" in zero else weighed.sum()
        close(total, np.zeros_like(total), name, 1e-3)


@law
@given(batches, st.integers(-20, 20), st.integers(-20, 20))
def test_a_shift_of_all_rewards_changes_nothing(batch, a, b):
    shifted = advantages(batch._replace(a=batch.a + a / 4, b=batch.b + b / 4))
    for name, seen in advantages(batch).items():
        close(shifted[name], seen, name, 1e-3)


@law
@given(batches, st.sampled_from([0.5, 2.0, 3.0, 8.0]))
def test_scale_is_divided_out_or_kept(batch, scale):
    scaled = advantages(batch._replace(a=batch.a * scale, b=batch.b * scale))
    for name, seen in advantages(batch).items():
        close(scaled[name], seen * scale ** ESTIMATORS[name].degree, name, 1e-3)


rewards_of_any_size = st.floats(-1e3, 1e3, width=32)


@law
@given(rewards_of_any_size, rewards_of_any_size, masks, lengths)
def test_equal_rewards_give_exactly_zero_and_a_finite_gradient(a, b, valid, lengths):
    full = lambda x: np.full(SHAPE, x, np.float32)
    batch = Batch(full(a), full(b), valid, lengths)
    slope = slopes(batch, full(1.0))
    for name, seen in advantages(batch).items():
        assert not seen.any(), name
    chex.assert_tree_all_finite(slope)


@law
@given(hnp.arrays(np.float32, 8, elements=rewards_of_any_size), masks, lengths)
def test_a_group_of_equal_rewards_gets_exactly_zero(each, valid, lengths):
    """Rounding of a mean must not make an advantage of nothing."""
    a = np.repeat(each[:, None], 4, axis=1)
    batch = Batch(a, 0.1 + a, valid, lengths)
    for name, seen in advantages(batch).items():
        assert not (ESTIMATORS[name].own and seen.any()), name


@law
@given(batches)
def test_gradients_are_finite(batch):
    cotangent = np.arange(32, dtype=np.float32).reshape(SHAPE)
    chex.assert_tree_all_finite(slopes(batch, cotangent))


@law
@given(batches, st.permutations(range(8)), st.permutations(range(4)))
def test_permuting_prompts_and_members_permutes_advantages(batch, prompts, members):
    move = lambda x: x[prompts][:, members]
    moved = advantages(Batch(*map(move, batch)))
    for name, seen in advantages(batch).items():
        close(moved[name], move(seen), name)


@law
@given(batches)
def test_nothing_under_the_mask_is_read(batch):
    hidden = lambda x: np.where(batch.valid, x, np.nan).astype(x.dtype)
    other = advantages(batch._replace(a=hidden(batch.a), b=hidden(batch.b)))
    for name, seen in advantages(batch).items():
        np.testing.assert_array_equal(other[name], seen, err_msg=name)


@law
@given(batches)
def test_leave_one_out_is_group_centered_by_another_name(batch):
    seen = advantages(batch._replace(valid=np.ones(SHAPE, bool)))
    close(seen["leave_one_out"], 4 / 3 * seen["group_centered"], "G / (G - 1)", 1e-6)


def test_statistics_are_those_of_all_devices():
    """The trap of statistics that each process computes on its own rows."""
    rng = np.random.default_rng(0)
    batch = Batch(
        *rng.normal(size=(2, *SHAPE)).astype(np.float32),
        np.ones(SHAPE, bool),
        rng.integers(1, 9, SHAPE, np.int32),
    )
    if len(jax.devices()) < 8:
        pytest.skip("A mesh of 8 devices needs 8 devices.")
    mesh = jax.make_mesh((8,), ("data",), devices=jax.devices()[:8])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    spread = compiled(Batch(*(jax.device_put(x, rows) for x in batch)))
    for name, seen in advantages(batch).items():
        close(spread[name], seen, name, 1e-5)
    # One shard's own statistics would say something else.
    alone = BatchNormalized(EPS)(rewards_of(Batch(*(x[:1] for x in batch))))
    assert np.abs(alone - np.asarray(spread["BatchNormalized"])[:1]).max() > 0.1


@pytest.mark.parametrize(
    "estimator", [c.estimator for n, c in ESTIMATORS.items() if n not in
                  ("BatchNormalized", "ReinforcePlusPlus")]
)  # fmt: skip
def test_a_group_of_one_has_no_baseline(estimator):
    with pytest.raises(ValueError, match="a group of one has no baseline.*group=1"):
        estimator(Rewards.of(jnp.ones((8, 1))))
