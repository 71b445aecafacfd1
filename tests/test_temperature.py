"""One temperature: of the sampler, the loss and a KL reward."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import rollout, RolloutConfig, TrainStep, update

from .helpers import count_env, transformer


OPTIMIZER = optax.adam(3e-3)
ROLLOUT = RolloutConfig(prompts=3, group=4, slots=5)
STEP = TrainStep(count_env(), OPTIMIZER, rollout=ROLLOUT)
change = dataclasses.replace


def start():
    return grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))


@pytest.mark.slow
def test_one_temperature_for_the_sampler_and_the_loss():
    """Log-probs are computed at the temperature that the tokens were sampled at."""
    entropy = []
    run = eqx.filter_jit(lambda step, state: step(state))
    for temperature in (0.5, 1.0, 2.0):
        sampler = rollout.Categorical(jnp.asarray(temperature))
        _, metrics = run(
            change(STEP, rollout=change(ROLLOUT, sampler=sampler)), start()
        )
        assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5
        entropy.append(float(metrics["entropy"]))
    assert entropy == sorted(entropy) and entropy[0] < entropy[2] - 0.1


@pytest.fixture(scope="module")
def cold():
    """Experience at temperature 0.5."""
    config = change(ROLLOUT, sampler=rollout.Categorical(0.5))
    return eqx.filter_jit(grpojax.collect)(start(), STEP.env, rollout=config)


def test_learning_takes_the_temperature_from_the_experience(cold):
    """The trap of a `learn` that is not given it: a gap of 0.54 nats."""
    assert cold.trajectory.temperature == 0.5
    _, metrics = eqx.filter_jit(grpojax.learn)(start(), cold, OPTIMIZER)
    assert float(metrics["sampling/sampling_logp_difference/mean"]) <= 1e-5
    assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5
    # At another temperature the gap would be seen.
    warm = eqx.tree_at(lambda x: x.trajectory.temperature, cold, jnp.asarray(1.0))
    _, metrics = eqx.filter_jit(grpojax.learn)(start(), warm, OPTIMIZER)
    assert float(metrics["sampling/sampling_logp_difference/mean"]) > 0.1


def test_the_kl_of_a_policy_from_itself_is_zero_at_every_temperature(cold):
    """The trap of a reward that is not given it: +5.3, -1.16 ... in place of 0."""
    rewards = eqx.filter_jit(update.KLReward(start().policy))(cold.trajectory)
    # A sum over the tokens of a row, each of which is scored within 1e-5.
    lengths = np.maximum(np.asarray(cold.trajectory.lengths), 1)
    each = np.asarray(rewards.components["kl"]) / lengths
    np.testing.assert_allclose(each, 0, atol=1e-5)
