"""Pass rates: what is asked often, and what is never forgotten."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax.curriculum import Learnability, Mixture, PassRateBand
from grpojax.env import Rows
from grpojax.types import Rewards

from .test_laws import Numbers, of_tasks


def after(chosen, memory, problem: int, passed: float, times: int = 1):
    rewards = Rewards.of(jnp.array([[passed, passed]]), name="correct")
    for _ in range(times):
        memory = chosen.observe(memory, jnp.array([problem]), rewards)
    return memory


def test_what_is_half_learned_is_asked_most():
    chosen = Learnability(decay=0.5, floor=0.0)
    memory = after(chosen, chosen.init(Numbers(3)), 0, passed=0.0)
    memory = after(chosen, memory, 1, passed=1.0, times=2)
    np.testing.assert_allclose(memory.rate, [0.25, 0.875, 0.5])
    weights = np.array([0.25 * 0.75, 0.875 * 0.125, 0.25])
    found = chosen.probabilities(memory)
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-6)


def test_a_band_asks_what_is_inside_and_what_is_unknown():
    chosen = PassRateBand(0.2, 0.8, decay=0.0, floor=0.0)
    memory = after(chosen, chosen.init(Numbers(4)), 0, passed=0.0)
    memory = after(chosen, memory, 1, passed=1.0)
    memory = after(chosen, memory, 2, passed=0.75)
    np.testing.assert_allclose(chosen.probabilities(memory), [0, 0, 0.5, 0.5])


def test_without_a_floor_a_bin_that_fails_is_never_asked_again():
    """And with one it is seen to have been learned meanwhile."""
    column = Rows({"level": ["easy"] * 5 + ["hard"] * 5})
    env = Numbers(10, rows_=column)
    for floor, share in ((0.0, 0.0), (0.2, 0.1)):
        chosen = Learnability(decay=0.0, floor=floor, column="level")
        memory = after(chosen, chosen.init(env), 7, passed=0.0)
        np.testing.assert_allclose(memory.rate, [0.5, 0])
        probabilities = chosen.probabilities(memory)
        assert float(probabilities[5:].sum()) == pytest.approx(share)
    drawn = chosen.draw(memory, jr.key(0), jnp.zeros((), jnp.int32), 100)
    hard = np.asarray(drawn)[np.asarray(drawn) >= 5]
    assert 8 <= len(hard) <= 12
    memory = after(chosen, memory, int(hard[0]), passed=0.5)
    np.testing.assert_allclose(memory.rate, [0.5, 0.5])


def test_if_all_is_learned_all_is_asked():
    chosen = Learnability(decay=0.0, floor=0.0)
    memory = after(chosen, chosen.init(Numbers(2)), 0, passed=1.0)
    memory = after(chosen, memory, 1, passed=0.0)
    np.testing.assert_allclose(chosen.probabilities(memory), [0.5, 0.5])


def test_a_problem_that_is_asked_twice_in_a_step_counts_twice():
    chosen = Learnability(decay=0.5)
    rewards = Rewards.of(jnp.array([[1.0, 1.0], [1.0, 0.0]]), name="correct")
    memory = chosen.observe(chosen.init(Numbers(2)), jnp.array([1, 1]), rewards)
    np.testing.assert_allclose(memory.rate, [0.5, 0.25 * 0.5 + 0.75 * 0.75])


def test_what_does_not_fit_is_refused():
    rows = Numbers(1, rows_=Rows({"level": [1]}))
    with pytest.raises(ValueError, match="rows: level. Received 'lvl'"):
        Learnability(column="lvl").init(rows)
    with pytest.raises(ValueError, match="rows: it has none. Received 'lvl'"):
        Learnability(column="lvl").init(Numbers(1))
    with pytest.raises(ValueError, match="between 0 and 1. Received floor=2"):
        Learnability(floor=2)
    with pytest.raises(ValueError, match=r"low=0.8 and high=0.2: exchange"):
        PassRateBand(0.8, 0.2)
    chosen = Learnability(component="right")
    rewards = Rewards.of(jnp.ones((1, 1)), name="correct")
    with pytest.raises(ValueError, match="components: correct. Received 'right'"):
        chosen.observe(chosen.init(Numbers(1)), jnp.array([0]), rewards)
    with pytest.raises(ValueError, match="one of them is positive. Received"):
        Mixture({"task 0": 0})
    with pytest.raises(ValueError, match="environment: task 0, task 1. Received sums"):
        Mixture({"sums": 1}).init(of_tasks(1, 2))
    with pytest.raises(ValueError, match="there are none. Received none"):
        Mixture().init(Numbers(1))
