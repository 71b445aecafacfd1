"""An update taken apart adds up to the update."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import advantage, algorithms, update
from grpojax.types import Rewards

from .doubles import bigram, log_probs, random_trajectory


def record(updates, state, params=None):
    del state, params
    return jax.tree.map(jnp.zeros_like, updates), updates


RECORDER = optax.GradientTransformation(lambda params: params, record)
"""An optimizer whose state is the last gradient, and that changes nothing."""


def update_of(objective, optimizer, config=update.UpdateConfig(), *, gap=0.0):
    """The arguments of `improve` and of `inspect`."""
    policy = bigram()
    trajectory = random_trajectory(policy, gap=gap)
    rewards = Rewards.of(jr.normal(jr.key(3), (4, 4)), lengths=trajectory.lengths)
    advantages = advantage.group_centered(rewards)
    given = policy, optimizer.init(policy), trajectory, advantages
    return given, dict(objective=objective, optimizer=optimizer, config=config)


@functools.cache
def recorded():
    """The trajectory, its advantages, and the inspection with the gradient."""
    given, settings = update_of(algorithms.dr_grpo().objective, RECORDER)
    _, gradient, _, found = jax.jit(lambda: update.inspect(*given, **settings))()
    return *given[2:], gradient.table, found


@pytest.mark.slow
@pytest.mark.laws
def test_rows_add_up_to_the_update():
    config = update.UpdateConfig(epochs=2, minibatches=2)
    objective = algorithms.grpo(low=0.01, high=0.01).objective
    given, settings = update_of(objective, optax.sgd(3.0), config, gap=0.1)
    expected = jax.jit(lambda: update.improve(*given, **settings))()
    found = jax.jit(lambda: update.inspect(*given, **settings))()
    policy, _, trajectory, _ = given
    for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(found[:3]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    rows, prompts = found[3].rows, found[3].prompts
    mask = np.asarray(trajectory.sampled)
    # The mean over two updates per epoch, of two epochs.
    assert float(rows.loss.sum()) / 4 == pytest.approx(
        float(expected[2]["loss"]), rel=1e-4
    )
    clipped = [np.asarray(x)[:, mask].mean() for x in (rows.clip_low, rows.clip_high)]
    names = "clip_ratio/low_mean", "clip_ratio/high_mean"
    # Minibatches have other numbers of tokens, and weigh the same.
    assert clipped == [pytest.approx(float(expected[2][x]), rel=0.2) for x in names]
    assert min(clipped) > 0
    log_prob, _ = log_probs(policy.table, trajectory)
    first = np.where(mask, log_prob, 0)
    # Prompts 0 and 2 are in the first minibatch, which the policy has sampled.
    np.testing.assert_allclose(rows.log_prob[0, ::2], first[::2], atol=1e-5)
    assert np.abs(rows.log_prob[0, 1::2] - first[1::2]).max() > 1e-3
    ratio = np.exp(rows.log_prob[0] - trajectory.log_prob)
    np.testing.assert_allclose(rows.ratio[0][mask], ratio[mask], rtol=1e-5)
    assert prompts.grad_norm.shape == (2, 2, 2)


@pytest.mark.laws
def test_gradients_of_rows_and_prompts_are_those_of_the_loss():
    trajectory, advantages, total, found = recorded()
    rows, prompts, policy = found.rows, found.prompts, bigram()

    def loss(table, weight):
        log_prob, _ = log_probs(table, trajectory)
        value = jnp.where(trajectory.sampled, log_prob, 0) * advantages[..., None]
        return -jnp.sum(value * weight) / value.size

    every = jnp.eye(16).reshape(16, 4, 4, 1)
    of_rows = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(policy.table, every)
    of_rows = np.asarray(of_rows).reshape(4, 4, *total.shape)
    norm = lambda x: np.sqrt((x**2).sum(axis=(-2, -1)))
    np.testing.assert_allclose(rows.grad_norm[0], norm(of_rows), atol=1e-6)
    of_prompts = of_rows.sum(axis=1)
    np.testing.assert_allclose(prompts.grad_norm[0, 0], norm(of_prompts), atol=1e-6)
    np.testing.assert_allclose(of_prompts.sum(axis=0), total, atol=1e-6)
    for found, each in ((rows, of_rows), (prompts, of_prompts)):
        lengths = np.maximum(norm(each) * norm(total), 1e-9)
        cosine = (each * total).sum(axis=(-2, -1)) / lengths
        where = found.grad_cosine.reshape(cosine.shape)
        np.testing.assert_allclose(where, cosine, atol=1e-4)
    assert float(rows.grad_norm[0, 0, 1]) == 0  # It has no token.


def test_the_noise_scale_is_that_of_the_paper():
    """|G|² and tr Σ of per-prompt gradients, unbiased, from their definition."""
    *_, total, found = recorded()
    prompts = found.prompts
    norms = 4 * np.asarray(prompts.grad_norm[0, 0], float)
    size = float(jnp.linalg.norm(total))
    # The sample variance of vectors whose mean has the length `size`.
    noise = (np.sum(norms**2) - 4 * size**2) / 3
    signal = size**2 - noise / 4
    assert float(prompts.noise[0, 0]) == pytest.approx(noise, rel=1e-3)
    assert float(prompts.signal[0, 0]) == pytest.approx(signal, rel=1e-3, abs=1e-6)
    assert np.isnan(prompts.noise_scale[0, 0]) == (signal <= 0)
