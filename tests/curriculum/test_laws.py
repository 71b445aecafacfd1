"""Laws of every curriculum, for any sizes."""

import functools as ft
import itertools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Int

from grpojax import curriculum
from grpojax.curriculum._curriculum import sample
from grpojax.curriculum._permutation import permuted
from grpojax.env import AbstractDatasetEnvironment, Rows
from grpojax.types import Prompt, Rewards

from ..helpers import mostly_slow


class Numbers(AbstractDatasetEnvironment[Int[Array, ""]]):
    """Problems that nobody asks: a number, tasks and rows."""

    size: int
    tasks_: tuple[tuple[str, int], ...] = ()
    rows_: Rows | None = None
    end_tokens: Int[Array, " end"] = eqx.field(
        default_factory=lambda: jnp.zeros(1, jnp.int32)
    )
    vocab_size: int = 1
    max_prompt_length: int = 1
    max_completion_length: int = 1
    max_turns: int = 1

    @property
    def tasks(self):
        return dict(self.tasks_)

    @property
    def rows(self):
        return self.rows_

    def problem(self, index):
        return index, Prompt(jnp.zeros(1, jnp.int32), jnp.ones((), jnp.int32))

    def step(self, state, turn):
        raise AssertionError(f"nobody answers {state}: {turn}")


def of_tasks(*sizes: int) -> Numbers:
    tasks = tuple((f"task {number}", size) for number, size in enumerate(sizes))
    return Numbers(sum(sizes), tasks)


def run(chosen, memory, count: int, steps: int, seed: int = 0) -> np.ndarray:
    """The problems of some steps, of which half of the completions pass."""

    @ft.partial(jax.jit, static_argnums=2)
    def step(memory, version, count):
        problems = chosen.draw(memory, jr.key(seed), version, count)
        total = jr.bernoulli(jr.fold_in(jr.key(1), version), shape=(count, 2))
        rewards = Rewards.of(total.astype(jnp.float32), name="correct")
        memory = chosen.advance(memory, problems)
        return chosen.observe(memory, problems, rewards), problems

    drawn = []
    for version in range(steps):
        after, problems = step(memory, jnp.asarray(version, jnp.int32), count)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, memory)
        memory = after
        drawn.append(np.asarray(problems))
    return np.stack(drawn)


CURRICULA = {
    "Uniform": curriculum.Uniform(),
    "ShuffledEpochs": curriculum.ShuffledEpochs(),
    "Mixture": curriculum.Mixture({"task 0": 1, "task 1": 3}),
    "PassRateBand": curriculum.PassRateBand(0.3, 0.7),
    "Learnability": curriculum.Learnability(floor=0.0, decay=0.1),
}


@pytest.mark.parametrize("name", mostly_slow(CURRICULA, ["Mixture", "Learnability"]))
@settings(max_examples=3, deadline=None)
@given(first=st.integers(1, 9), other=st.integers(1, 9), count=st.integers(1, 20))
def test_draws_are_numbers_of_problems(name, first, other, count):
    env, chosen = of_tasks(first, other), CURRICULA[name]
    drawn = run(chosen, chosen.init(env), count, 3)
    assert drawn.dtype == np.int32 and drawn.shape == (3, count)
    assert drawn.min() >= 0 and drawn.max() < env.size


@settings(max_examples=6, deadline=None)
@given(size=st.integers(1, 17), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_an_epoch_is_a_permutation(size, count, seed):
    chosen = curriculum.ShuffledEpochs()
    memory = chosen.init(Numbers(size))
    asked = run(chosen, memory, count, 2 * size // count + 3, seed).reshape(-1)
    epochs = [asked[i : i + size] for i in range(0, len(asked) - size + 1, size)]
    assert len(epochs) >= 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert size < 8 or not (epochs[0] == epochs[1]).all()


@settings(max_examples=5, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    count=st.integers(1, 20),
)
def test_each_task_of_a_mixture_has_its_epochs(sizes, count):
    chosen = curriculum.Mixture()
    env = of_tasks(*sizes)
    asked = run(chosen, chosen.init(env), count, 60 // count + 1).reshape(-1)
    for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        own = asked[(asked >= first) & (asked < first + size)] - first
        for i in range(0, len(own) - size + 1, size):
            assert sorted(own[i : i + size]) == list(range(size))


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 2**31 - 1), first=st.integers(0, 2**31 - 1))
def test_a_permutation_of_any_size_is_one(size, first):
    start = first % size
    index = jnp.arange(start, min(start + 300, size), dtype=jnp.int32)
    images = jax.jit(jax.vmap(permuted, (None, None, 0)))(
        jr.key(first), jnp.asarray(size, jnp.int32), index
    )
    assert len({*images.tolist()}) == len(index)
    assert 0 <= images.min() and images.max() < size


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_permutation_is_equally_likely(size):
    """χ² over all permutations, against five standard deviations of it."""
    keys = jr.split(jr.key(0), 6000)
    index, number = jnp.arange(size, dtype=jnp.int32), jnp.asarray(size, jnp.int32)
    one = jax.vmap(permuted, (None, None, 0))
    drawn = jax.jit(jax.vmap(lambda key: one(key, number, index)))(keys)
    kinds = {order: 0 for order in itertools.permutations(range(size))}
    for order in drawn.tolist():
        kinds[tuple(order)] += 1
    expected, freedom = len(keys) / len(kinds), len(kinds) - 1
    chi = sum((count - expected) ** 2 / expected for count in kinds.values())
    assert chi < freedom + 5 * (2 * freedom) ** 0.5


@settings(max_examples=5, deadline=None)
@given(size=st.integers(1, 10**6), count=st.integers(1, 9), seed=st.integers(0, 99))
def test_uniform_is_what_the_environment_draws(size, count, seed):
    env, chosen, version = Numbers(size), curriculum.Uniform(), 3
    key = jr.fold_in(jr.key(seed), version)  # As `rollout.generate` has it.
    keys = jax.vmap(lambda p: jr.fold_in(jr.split(key)[0], p))(
        jnp.arange(count, dtype=jnp.uint32)
    )
    drawn = chosen.draw(chosen.init(env), jr.key(seed), jnp.asarray(version), count)
    np.testing.assert_array_equal(drawn, jax.vmap(env.draw)(keys))


@settings(max_examples=10, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=1, max_size=9),
    count=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_stratified_draws_are_within_two_of_their_share(weights, count, seed):
    weights = [*weights, 1.0, 0.0]
    drawn = sample(jnp.array(weights), jr.key(seed), count)
    found = np.bincount(drawn, minlength=len(weights))
    expected = count * np.array(weights) / sum(weights)
    assert (abs(found - expected) < 2 + 1e-4).all()
    assert (found[np.array(weights) == 0] == 0).all()


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_rows_that_do_not_count_change_no_rate(data):
    """As if they were not there; a prompt without others leaves its rate."""
    flags = st.lists(st.booleans(), min_size=3, max_size=3)
    valid = np.array(data.draw(st.lists(flags, min_size=4, max_size=4)))
    passed = np.array(data.draw(st.lists(flags, min_size=4, max_size=4)), np.float32)
    chosen = curriculum.Learnability(decay=0.5)
    before, problems = chosen.init(Numbers(6)), np.array([0, 2, 4, 5], np.int32)
    by_flag = Rewards.of(passed, name="correct", valid=valid)
    by_nan = Rewards.of(np.where(valid, passed, np.nan), name="correct")
    for rewards in (by_flag, by_nan):
        rate = chosen.observe(before, jnp.asarray(problems), rewards).rate
        expected = np.full(6, 0.5)
        for problem, counts, values in zip(problems, valid, passed, strict=True):
            if counts.any():
                expected[problem] = 0.25 + 0.5 * values[counts].mean()
        np.testing.assert_allclose(rate, expected, rtol=1e-6)
