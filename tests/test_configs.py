"""`RolloutConfig`, `UpdateConfig` and samplers: what they refuse, and sweeps."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import rollout, RolloutConfig, UpdateConfig
from grpojax.rollout import Categorical

from .helpers import count_env, transformer


# Evaluated in a process without the tests' type checker, which refuses some of these
# before the values' own checks.
REFUSED = {
    **{
        f"RolloutConfig({', '.join([*required, f'{name}={value}'])})": (
            f"ValueError: rollout: {name} must be a positive integer. "
            f"Received {name}={value}."
        )
        for name, required in (
            ("prompts", ["group=2"]),
            ("group", ["prompts=2"]),
            ("train_prompts", ["prompts=2", "group=2"]),
            ("slots", ["prompts=2", "group=2"]),
        )
        for value in ("0", "-1", "2.5", "True")
    },
    **{
        f"UpdateConfig({name}={value})": (
            f"ValueError: {name} must be a positive integer. Received {value}."
        )
        for name in ("epochs", "minibatches", "tokens", "microbatches", "chunk")
        for value in ("0", "-1", "2.5", "True")
    },
    **{
        f"Categorical({value})": (
            "ValueError: Categorical(temperature=...) must be positive and finite. "
            f"Received temperature={shown}. "
        )
        for value, shown in (("0", "0"), ("-0.5", "-0.5"), ("float('nan')", "nan"))
    },
    "RolloutConfig(2, 2, sampler=Categorical)": (
        "TypeError: rollout: `sampler` must be an instance of "
        "`rollout.AbstractSampler`. Received <class"
    ),
    "RolloutConfig(2, 2, sampler=0.7)": (
        "TypeError: rollout: `sampler` must be an instance of "
        "`rollout.AbstractSampler`. Received 0.7"
    ),
    "RolloutConfig(2, 2, behavior='int8')": (
        "TypeError: rollout: `behavior` must be a function of the trained policy. "
        "Received 'int8': pass one such as `models.quantize`."
    ),
}
PROGRAM = """
import json, sys
from grpojax import RolloutConfig, UpdateConfig
from grpojax.rollout import Categorical
for expression in json.load(sys.stdin):
    try:
        eval(expression)
    except (TypeError, ValueError) as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
    else:
        print(json.dumps("accepted"))
"""


@pytest.fixture(scope="module")
def answers():
    command = [sys.executable, "-c", PROGRAM]
    process = subprocess.run(
        command, input=json.dumps(list(REFUSED)), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    messages = map(json.loads, process.stdout.splitlines())
    return dict(zip(REFUSED, messages, strict=True))


@pytest.mark.parametrize("expression", REFUSED)
def test_bad_values_are_refused_in_a_sentence(answers, expression):
    assert answers[expression].startswith(REFUSED[expression])


def test_good_values_are_taken():
    config = RolloutConfig(4, 2, train_prompts=3, slots=5, sampler=rollout.Greedy())
    assert config.limits is None
    assert jax.tree.leaves(UpdateConfig(2, 3, 4, recompute=False, chunk=128)) == []
    assert UpdateConfig().recompute is None
    # A temperature is a leaf, which may be an array.
    assert jax.tree.leaves(RolloutConfig(2, 2, sampler=Categorical(0.7))) == [0.7]


def test_a_sweep_over_temperatures_compiles_once():
    """Over `RolloutConfig.sampler.temperature`; a lane equals its own rollout."""
    policy, env, traces = transformer(), count_env(), []

    def generate(config, key):
        traces.append(None)
        trajectory = rollout.generate(policy, env, config, key=key)
        return trajectory.tokens, trajectory.log_prob, trajectory.temperature

    temperatures = jnp.array([0.5, 1.0, 2.0])
    config = RolloutConfig(3, 4, slots=5)
    at = lambda x: eqx.tree_at(lambda c: c.sampler.temperature, config, x)
    sweep = jax.jit(jax.vmap(generate, in_axes=(0, None)))
    lanes = sweep(at(temperatures), jr.key(0))
    sweep(at(temperatures + 0.1), jr.key(0))
    assert len(traces) == 1
    alone = jax.jit(generate)
    np.testing.assert_array_equal(lanes[2], temperatures)
    for lane, temperature in enumerate(temperatures):
        tokens, log_prob, _ = alone(at(temperature), jr.key(0))
        np.testing.assert_array_equal(lanes[0][lane], tokens)
        np.testing.assert_allclose(lanes[1][lane], log_prob, atol=1e-5)
    assert len(traces) == 2
    assert (lanes[0][0] != lanes[0][2]).any()
