"""Rollouts by the policies of versions before: a ring in the train state."""

import dataclasses

import chex
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import rollout, RolloutConfig, TrainStep

from .helpers import count_env, transformer


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))


def step_of(staleness) -> TrainStep:
    config = RolloutConfig(prompts=2, group=4, staleness=staleness)
    return TrainStep(count_env(), OPTIMIZER, rollout=config)


def start(staleness: int):
    return step_of(staleness).init(transformer(), key=jr.key(0))


take = eqx.filter_jit(lambda step, state: step(state))
generate = eqx.filter_jit(rollout.generate)


@pytest.mark.laws
def test_it_samples_with_the_policy_of_so_many_versions_before():
    staleness = 2
    step, state = step_of(staleness), start(staleness)
    policies = [state.policy]
    for number in range(4):
        found = eqx.filter_jit(step.generate)(state)
        version = max(number - staleness, 0)
        expected = generate(
            policies[version],
            step.env,
            dataclasses.replace(step.rollout, staleness=0),
            version=jnp.asarray(version),
            key=jr.fold_in(jr.key(0), number),
        )
        chex.assert_trees_all_equal(found, expected)
        state, metrics = take(step, state)
        assert float(metrics["staleness/mean"]) == number - version
        assert float(metrics["staleness/max"]) == number - version
        policies.append(state.policy)
    assert len(state.past) == staleness


@pytest.mark.laws
def test_none_is_the_plain_step_bit_for_bit():
    plain, kept = start(0), start(2)
    for _ in range(2):
        plain, expected = take(step_of(0), plain)
        kept, metrics = take(step_of(0), kept)
    chex.assert_trees_all_equal(kept.policy, plain.policy)
    chex.assert_trees_all_equal({x: metrics[x] for x in expected}, expected)


@pytest.mark.laws
def test_a_sweep_by_vmap():
    every = jnp.arange(3, dtype=jnp.int32)

    def run(staleness):
        _, metrics = grpojax.train(start(2), step_of(staleness), steps=3)
        return metrics["reward"], metrics["staleness/mean"]

    rewards, behind = eqx.filter_jit(eqx.filter_vmap(run))(every)
    np.testing.assert_array_equal(behind, [[0, 0, 0], [0, 1, 1], [0, 1, 2]])
    for staleness in range(3):
        alone, _ = eqx.filter_jit(run)(staleness)
        np.testing.assert_allclose(rewards[staleness], alone, rtol=1e-5)


def test_a_state_that_keeps_too_few():
    with pytest.raises(ValueError, match=r"make it by `TrainStep.init`"):
        take(step_of(2), start(1))
    with pytest.raises(ValueError, match="must be at least 0"):
        step_of(-1)
