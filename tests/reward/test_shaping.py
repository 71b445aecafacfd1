"""Weighting, and rewards that look at lengths, repetition and truncation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax.reward import (
    Chain,
    ClipTotal,
    Cosine,
    drop_truncated,
    exclude_truncated,
    Repetition,
    SoftOverlong,
    WeightedSum,
    zero_truncated,
)
from grpojax.types import Rewards

from .rows import of_lengths, trajectory_of


PAID = dict(correct=[[1.0, 0.0, 1.0]], format=[[1.0, 1.0, 0.0]])
ROWS = of_lengths(1, 2, 3, **PAID, terminated=[[True, False, True]])


def test_a_component_of_weight_zero_may_be_missing():
    named = {"correct": 1.0, "format": 0, "brief": 0.0}
    rewards = WeightedSum(named)(ROWS)
    np.testing.assert_array_equal(rewards.total, PAID["correct"])
    assert rewards.weights == {"correct": 1, "format": 0}
    for weight in (0.5, jnp.zeros(())):  # An array may be swept, or traced.
        with pytest.raises(ValueError, match=r"Received \['brief'\]"):
            WeightedSum({**named, "brief": weight})(ROWS)


def test_weights_add_up_by_name():
    rewards = WeightedSum({"correct": 1.0, "format": 0.5})(ROWS)
    np.testing.assert_array_equal(rewards.total, [[1.5, 0.5, 1.0]])
    np.testing.assert_array_equal(rewards.lengths, [[1, 2, 3]])
    np.testing.assert_array_equal(WeightedSum()(ROWS).total, [[2, 1, 1]])
    alone = WeightedSum({"format": 1.0})(ROWS)
    np.testing.assert_array_equal(alone.total, [[1, 1, 0]])
    assert alone.weights == {"correct": 0, "format": 1} and not alone.errors


def test_a_weight_of_zero_is_zero():
    """The trap of `x or default`."""
    rewards = WeightedSum({"correct": 0.0, "format": 0.0})(ROWS)
    assert not rewards.total.any() and rewards.valid.all()
    ends = ("correct_short", "correct_long", "wrong_short", "wrong_long")
    paid = Cosine(4, **dict.fromkeys(ends, 0.0))
    assert not paid(ROWS).total.any()


def test_names_are_checked():
    words = r"\['correct', 'format'\]. Received \['korrect'\]"
    with pytest.raises(ValueError, match=words):
        WeightedSum({"korrect": 1.0})(ROWS)
    twice = WeightedSum(None, SoftOverlong(4, 2), SoftOverlong(9, 2))
    with pytest.raises(ValueError, match=r"Received \['soft_overlong'\] from two"):
        twice(ROWS)
    named = WeightedSum(None, SoftOverlong(4, 2), SoftOverlong(9, 2, name="late"))
    assert set(named(ROWS).components) == {"correct", "format", "soft_overlong", "late"}
    with pytest.raises(ValueError, match="Cosine.component` .*Received 'right'"):
        Cosine(4, "right")(ROWS)


def test_a_component_that_does_not_apply_is_left_out():
    """TRL's nansum; where nothing applies the row stands outside."""

    def partly(trajectory):
        paid = jnp.array([[4.0, 5.0, 6.0]])
        valid = jnp.array([[True, False, False]])
        return Rewards.of(paid, name="partly", valid=valid, lengths=trajectory.lengths)

    both = WeightedSum({"correct": 1.0, "partly": 0.5}, partly)(ROWS)
    np.testing.assert_array_equal(both.total, [[3, 0, 1]])
    assert both.valid.all()
    np.testing.assert_array_equal(both.components["partly"], [[4, np.nan, np.nan]])
    alone = WeightedSum({"partly": 1.0}, partly)(ROWS)
    np.testing.assert_array_equal(alone.total, [[4, 0, 0]])
    np.testing.assert_array_equal(alone.valid, [[True, False, False]])


def test_soft_overlong_counts_tokens():
    """DAPO's piecewise values for L = 10 and c = 4; ids say nothing about lengths."""
    lengths = [1, 6, 7, 8, 10, 11]
    wanted = [0, 0, -0.25, -0.5, -1, -1]
    penalty = SoftOverlong(horizon=10, buffer=4)
    np.testing.assert_allclose(penalty(of_lengths(*lengths)).total, [wanted])
    rows = [[[1000 + n] * n for n in lengths]]
    np.testing.assert_allclose(penalty(trajectory_of(rows)).total, [wanted])
    for buffer in (0, 11):
        with pytest.raises(ValueError, match=f"horizon=10 and buffer={buffer}"):
            SoftOverlong(10, buffer)


def test_soft_overlong_counts_only_what_the_policy_said():
    trajectory = of_lengths(10)
    sampled = trajectory.sampled.at[0, 0, 3:6].set(False)  # A reply.
    replied = dataclasses.replace(trajectory, sampled=sampled)
    assert SoftOverlong(10, 4)(replied).total == -0.25


def open_r1_cosine(length, horizon, right):
    low, high = (0.5, 1.0) if right else (-0.5, -1.0)
    return low + 0.5 * (high - low) * (1 + math.cos(length / horizon * math.pi))


def test_cosine():
    lengths, right = [1, 4, 8, 8, 3, 9], [1, 1, 1, 0, 0, 0]
    rows = of_lengths(*lengths, correct=[right])
    pairs = zip(lengths, right, strict=True)
    wanted = [open_r1_cosine(min(n, 8), 8, yes) for n, yes in pairs]
    np.testing.assert_allclose(Cosine(8)(rows).total, [wanted], atol=1e-6)


def distinct_share(tokens, size) -> float:
    runs = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


SHORT = 9
repeat = {n: jax.jit(Repetition(n, 0.5)) for n in (1, 3, SHORT + 1)}
said = st.lists(st.integers(0, 2), min_size=1, max_size=SHORT)


@settings(max_examples=25, deadline=None)
@given(st.lists(said, min_size=4, max_size=4), st.sampled_from(sorted(repeat)))
def test_repetition_equals_counting_runs(rows, size):
    padded = trajectory_of([rows, [list(range(SHORT))] * 4])  # Of one width.
    wanted = [-0.5 * (1 - distinct_share(row, size)) for row in rows]
    got = repeat[size](padded).total
    np.testing.assert_allclose(got, [wanted, [0] * 4], atol=1e-6)


def test_repetition_does_not_run_across_a_reply():
    trajectory = trajectory_of([[[5, 5, 9, 5, 5, 5]]])
    replied = trajectory.sampled.at[0, 0, 2].set(False)
    replied = dataclasses.replace(trajectory, sampled=replied)
    # 55, 55, 55 instead of 55, 59, 95, 55, 55.
    np.testing.assert_allclose(Repetition(2)(replied).total, -2 / 3, rtol=1e-6)
    np.testing.assert_allclose(Repetition(2)(trajectory).total, -2 / 5, rtol=1e-6)
    with pytest.raises(ValueError, match="Received 0"):
        Repetition(0)


def test_truncated_rows():
    base = WeightedSum({"format": 1.0})
    zero, drop, exclude = (
        Chain(base, rule)(ROWS)
        for rule in (zero_truncated, drop_truncated, exclude_truncated)
    )
    np.testing.assert_array_equal(zero.total, [[1, 0, 0]])
    assert zero.keep.all() and zero.valid.all()
    np.testing.assert_array_equal(drop.keep, ROWS.terminated)
    assert drop.valid.all() and drop.total[0, 1] == 1
    np.testing.assert_array_equal(exclude.keep, ROWS.terminated)
    np.testing.assert_array_equal(exclude.valid, ROWS.terminated)


def test_chain_goes_first_to_last():
    twice = lambda _, rewards: dataclasses.replace(rewards, total=2 * rewards.total)
    base, bound = WeightedSum({"correct": 1.0}), ClipTotal(0.0, 1.5)
    np.testing.assert_array_equal(
        Chain(base, twice, bound)(ROWS).total, [[1.5, 0, 1.5]]
    )
    np.testing.assert_array_equal(Chain(base, bound, twice)(ROWS).total, [[2, 0, 2]])


REWARD = jax.jit(
    Chain(
        WeightedSum(None, SoftOverlong(6, 3), Cosine(6), Repetition(2)),
        zero_truncated,
        ClipTotal(-1.0, 3.0),
    )
)
row = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(row, min_size=3, max_size=3), min_size=2, max_size=2),
    st.randoms(use_true_random=False),
    st.permutations(range(3)),
    st.permutations(range(4)),
)
def test_permuting_prompts_and_members_permutes_rewards(rows, random, prompts, members):
    full = [*([*group, [1] * 6] for group in rows), [[2] * 6] * 4]
    flag = lambda: np.array([[random.random() < 0.5 for _ in range(4)] for _ in full])
    correct, ended = flag(), flag()
    move = lambda x: x[np.array(prompts)][:, np.array(members)]
    moved = [[full[p][g] for g in members] for p in prompts]
    plain = REWARD(trajectory_of(full, correct=correct, terminated=ended))
    other = trajectory_of(moved, correct=move(correct), terminated=move(ended))
    np.testing.assert_array_equal(REWARD(other).total, move(plain.total))
