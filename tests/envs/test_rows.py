"""The host's columns of an environment, and the numbers of drawn problems."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

from envs.addition import Addition
from grpojax.env import Rows
from grpojax.rollout import generate, RolloutConfig

from ..helpers import count_env, UniformPolicy


def test_columns_of_rows_have_one_length():
    rows = Rows.of([{"question": "a", "level": 1}, {"question": "b"}])
    assert dict(rows) == {"question": ["a", "b"], "level": [1, None]}
    assert rows.size == 2
    assert repr(rows) == "Rows(2 rows of question, level)"
    with pytest.raises(ValueError, match="different lengths: {'a': 1, 'b': 2}"):
        Rows({"a": [1], "b": [1, 2]})


def test_rows_are_a_static_value_that_is_equal_to_itself_alone():
    rows = Rows({"a": [[1]]})  # A list cannot be hashed.
    assert {rows: 1}[rows] == 1
    assert rows != Rows({"a": [[1]]})


def test_a_trajectory_names_the_problem_of_each_prompt(tokenizer):
    env = Addition(tokenizer)
    policy = UniformPolicy(tokenizer.vocab_size)
    config = RolloutConfig(prompts=5, group=2)
    trajectory = eqx.filter_jit(generate)(policy, env, config, key=jr.key(3))
    assert trajectory.problems is not None
    states, prompts = jax.vmap(env.problem)(trajectory.problems)
    np.testing.assert_array_equal(states, trajectory.states)
    np.testing.assert_array_equal(prompts.tokens, trajectory.prompt.tokens)
    assert len({*trajectory.problems.tolist()}) > 1


def test_an_environment_without_numbers_has_none():
    env = count_env()
    policy = UniformPolicy(env.vocab_size)
    config = RolloutConfig(prompts=2, group=2)
    assert generate(policy, env, config, key=jr.key(0)).problems is None
