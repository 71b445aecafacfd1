"""Descriptions of values tell one run's configuration from another's."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml

from grpojax import algorithms, RolloutConfig
from grpojax.rollout import Categorical, Greedy
from grpojax.runs.io.description import describe, describe_arrays

from ...helpers import count_env, transformer


def scaled(factor):
    def function(x):
        return factor * x

    return function


def recursive():
    def inner(n):
        return inner(n - 1) if n else 0

    return inner


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def method(self, x):
        return self(x)


def test_plain_values():
    assert describe(Categorical(0.5)) == {"name": "Categorical", "temperature": 0.5}
    assert describe(Greedy()) == {"name": "Greedy"}
    assert describe({1: (2, None, "x")}) == {"1": [2, None, "x"]}
    assert describe([True, 1, 1.5, None]) == [True, 1, 1.5, None]
    plain = describe([np.float64(1.5), np.int32(2), np.bool_(True), jnp.asarray(3)])
    assert plain == [1.5, 2, True, 3]
    assert [type(x) for x in plain] == [float, int, bool, int]
    assert describe(jnp.zeros((2, 3), jnp.bfloat16)) == "bfloat16[2,3]"
    assert describe(object()) == "object"
    assert describe(list(range(100))) == describe(list(range(100)))
    assert describe(list(range(100))).startswith("list of 100: ")
    assert describe(list(range(100))) != describe([*range(99), 0])


def test_functions():
    here = "tests.runs.io.test_description"
    assert describe(scaled) == f"{here}:scaled"
    name = f"{here}:scaled.<locals>.function"
    assert describe(scaled(2.0)) == {"name": name, "factor": 2.0}
    partial = {"name": "partial", "function": f"{here}:scaled", "factor": 3}
    assert describe(functools.partial(scaled, factor=3)) == {
        **partial,
        "arguments": [],
    }
    assert describe(Scaled(1)) == f"{here}:Scaled"
    assert describe(Scaled(1).method)["self"] == f"{here}:Scaled"
    assert describe(len) == "builtins:len"
    assert describe(recursive())["inner"] == f"{here}:recursive.<locals>.inner"

    @functools.wraps(scaled)
    def decorated(factor):
        return functools, here, scaled(factor)

    assert describe(decorated) == describe(scaled)


@pytest.mark.parametrize(
    "one, other",
    [
        (optax.adam(1e-3), optax.adam(1e-4)),
        (optax.adamw(1e-3), optax.adamw(1e-3, weight_decay=0.1)),
        (optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)),
        (
            optax.adam(optax.cosine_decay_schedule(1e-3, 10)),
            optax.adam(optax.cosine_decay_schedule(1e-3, 20)),
        ),
        (optax.clip_by_global_norm(1.0), optax.clip_by_global_norm(2.0)),
        (algorithms.grpo(), algorithms.gspo()),
        (algorithms.grpo(), algorithms.grpo(beta=0.04)),
        (algorithms.dr_grpo(length=4), algorithms.dr_grpo(length=5)),
        (RolloutConfig(2, 4), RolloutConfig(2, 4, sampler=Categorical(0.9))),
    ],
)
def test_settings_of_a_step_are_told_apart(one, other):
    assert describe(one) != describe(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adamw(optax.linear_schedule(1e-3, 0.0, 10)),
        lambda: algorithms.dapo(),
        lambda: transformer(),
        lambda: count_env(),
    ],
)
def test_a_description_is_the_same_again_and_survives_yaml(make):
    described = describe(make())
    assert described == describe(make())
    assert yaml.safe_load(yaml.safe_dump(described)) == described


def test_arrays_are_told_apart_by_name():
    found = describe_arrays({"env": count_env(), "same": count_env(), "none": len})
    assert set(found) == {"env", "same"} and found["env"] == found["same"]
    other = describe_arrays({"env": count_env(ends=(1, 2, 3, 4, 6))})
    assert other["env"] != found["env"]
