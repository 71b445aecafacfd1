"""Partial rollouts: a step ends when it has its groups, and the others go on."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import policy as policies, rollout, RolloutConfig, sharding, TrainStep

from ..helpers import count_env, leaves, transformer


ENVS = {
    "one turn": count_env(),
    "two turns": count_env(max_turns=2, reply_length=3, max_completion_length=16),
    "older columns": count_env(
        ends=(1, 2), max_prompt_length=70, max_completion_length=200
    ),
}
PROMPTS, GROUP = 2, 3


def config_of(partial, slots=None):
    return RolloutConfig(PROMPTS, GROUP, slots=slots, partial_prompts=partial)


@eqx.filter_jit
def take(policy, env, config, partial, step):
    made = rollout.draw(env, config, key=jr.fold_in(jr.key(0), step))
    return rollout.generate_partial(policy, env, config, partial, made, version=step)


@eqx.filter_jit
def plain(policy, env, config, step):
    config = dataclasses.replace(config, partial_prompts=0)
    return rollout.generate(policy, env, config, key=jr.fold_in(jr.key(0), step))


def begin(env, config):
    count = config.partial_prompts // config.prompts
    drawn = [
        rollout.draw(env, config, key=jr.fold_in(jr.key(0), step))
        for step in range(count)
    ]
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)
    return rollout.PartialRows.of(env, joined), count


@eqx.filter_jit
def teacher_forced(policy, trajectory):
    row = lambda prompt, tokens: policies.log_prob(policy, prompt, tokens)
    group = jax.vmap(row, in_axes=(None, 0))
    return jax.vmap(group)(trajectory.prompt, trajectory.tokens)


def rows_of(trajectory):
    """Each prompt's tokens, with the rewards and log-probs that belong to them."""
    return {
        (np.asarray(x.prompt.tokens).tobytes(), np.asarray(x.tokens).tobytes()): x
        for i in range(trajectory.terminated.shape[0])
        for x in [trajectory.take(jnp.array([i]))]
    }


@pytest.mark.laws
@pytest.mark.parametrize(
    ("name", "slots"), [("two turns", None), ("one turn", 4), ("older columns", 4)]
)
def test_every_row_is_that_of_a_whole_rollout(name, slots):
    """With one policy; no prompt is trained on twice, and none is lost."""
    policy, env, config = transformer(), ENVS[name], config_of(4, slots)
    partial, ahead = begin(env, config)
    expected, found, longest = {}, {}, 0
    for step in range(ahead + 4):
        expected |= rows_of(plain(policy, env, config, jnp.int32(step)))
    carried = 0
    for step in range(4):
        number = jnp.int32(step + ahead)
        trajectory, partial, iterations = take(policy, env, config, partial, number)
        new = rows_of(trajectory)
        assert not set(new) & set(found)
        found |= new
        carried += int(jnp.sum(partial.started & ~partial.over))
        longest = max(longest, int(iterations))
    assert len(found) == 4 * PROMPTS and set(found) <= set(expected)
    assert carried > 0
    for key, row in found.items():
        same = expected[key]
        np.testing.assert_array_equal(row.sampled, same.sampled)
        np.testing.assert_array_equal(row.terminated, same.terminated)
        chex.assert_trees_all_close(row.rewards, same.rewards)
        np.testing.assert_allclose(row.log_prob, same.log_prob, atol=1e-5)


@pytest.mark.laws
@pytest.mark.parametrize("name", ["two turns", "older columns"])
def test_tokens_are_of_the_policy_of_their_version(name):
    env, config = ENVS[name], config_of(2, 4)
    by_version = [transformer(seed=seed) for seed in range(6)]
    partial, ahead = begin(env, config)
    mixed = 0
    for step in range(1, 5):
        policy, number = by_version[step], jnp.int32(step)
        trajectory, partial, _ = take(policy, env, config, partial, number)
        versions = np.asarray(trajectory.version)
        assert ((versions >= 1) == np.asarray(trajectory.sampled)).all()
        mixed += len(set(versions[trajectory.sampled])) > 1
        for version in set(versions[trajectory.sampled]):
            gap = teacher_forced(by_version[version], trajectory) - trajectory.log_prob
            mine = trajectory.sampled & (versions == version)
            assert float(jnp.abs(jnp.where(mine, gap, 0)).max()) <= 1e-5
    assert mixed > 0 and ahead == 1


def test_steps_take_what_their_tokens_do():
    """A plain rollout waits for its longest row, a partial one does not."""
    policy, env = transformer(), ENVS["older columns"]
    config = config_of(0, slots=6)
    longest = max(
        int(plain(policy, env, config, jnp.int32(step)).lengths.max())
        for step in range(6)
    )
    config = config_of(6, slots=6)
    partial, ahead = begin(env, config)
    every, tokens = [], []
    for step in range(6):
        number = jnp.int32(step + ahead)
        before = jnp.sum(partial.completions.sampled)
        trajectory, partial, iterations = take(policy, env, config, partial, number)
        made = jnp.sum(trajectory.sampled) + jnp.sum(partial.completions.sampled)
        every.append(int(iterations))
        tokens.append(int(made - before))
    # All slots sample in every iteration.
    assert [6 * x for x in every] == tokens
    assert max(every) < longest


@pytest.mark.slow
@pytest.mark.laws
@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_train_steps_on_one_device_and_on_a_mesh():
    env = count_env()
    config = RolloutConfig(4, 4, partial_prompts=4)
    step = TrainStep(env, optax.adam(3e-3), rollout=config)
    state = step.init(transformer(), key=jr.key(0))
    scanned, metrics = eqx.filter_jit(grpojax.train)(state, step, steps=3)
    again = state
    for _ in range(3):
        again, _ = eqx.filter_jit(step)(again)
    chex.assert_trees_all_equal(leaves(scanned), leaves(again))
    assert metrics["staleness/max"].max() > 0
    mesh = sharding.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        found, metrics = eqx.filter_jit(step)(sharding.place(state, mesh))
    assert int(found.version) == 1 and jnp.isfinite(metrics["loss"])
    assert found.partial.over.shape == (16,)


def test_errors():
    with pytest.raises(ValueError, match="must be a multiple of prompts"):
        config_of(3)
    with pytest.raises(ValueError, match="Received cache_tokens=512 besides"):
        RolloutConfig(2, 3, partial_prompts=2, cache_tokens=512)
    step = TrainStep(count_env(), optax.adam(1e-3), rollout=config_of(2))
    state = grpojax.init(transformer(), optimizer=step.optimizer, key=jr.key(0))
    with pytest.raises(ValueError, match="make it by `TrainStep.init`"):
        eqx.filter_jit(step)(state)
