"""An update whose result is not finite is skipped and counted, in every dtype."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import RolloutConfig, TrainStep

from ..helpers import count_env
from .doubles import Bigram, bigram


ROLLOUT = RolloutConfig(prompts=3, group=4)


def floats(tree):
    return [x for x in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def take(optimizer, dtype):
    policy = Bigram(bigram().table.astype(dtype))
    state = grpojax.init(policy, optimizer=optimizer, key=jr.key(0))
    step = TrainStep(count_env(vocab_size=12), optimizer, rollout=ROLLOUT)
    with jax.numpy_dtype_promotion("standard"):
        return state, *eqx.filter_jit(step)(state)


def hostile(update):
    """An optimizer of finite gradients whose updates are not."""

    def change(updates, state, params=None):
        del params
        return jax.tree.map(update, updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), change)


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        (optax.adamw(1e-4), jnp.float16),
        pytest.param(optax.adam(1e-4, eps=1e-12), jnp.float16, marks=pytest.mark.slow),
        pytest.param(optax.adam(1e-4, eps=0.0), jnp.float16, marks=pytest.mark.slow),
        pytest.param(hostile(lambda x: x / 0), jnp.float32, marks=pytest.mark.slow),
        (hostile(lambda x: x * jnp.nan), jnp.float32),
        (hostile(lambda x: jnp.full_like(x, jnp.inf)), jnp.bfloat16),
        pytest.param(optax.adam(float("nan")), jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_it_is_skipped_and_counted(optimizer, dtype):
    before, after, metrics = take(optimizer, dtype)
    assert np.isfinite(metrics["grad_norm"])
    whole = all(np.isfinite(np.asarray(x, np.float32)).all() for x in floats(after))
    assert whole and float(metrics["skipped_updates"]) == 1
    chex.assert_trees_all_equal(floats(before.policy), floats(after.policy))


def test_an_infinite_bound_in_a_state_is_no_fault():
    plateau = optax.contrib.reduce_on_plateau()
    inner = optax.adam(1e-3)

    def change(updates, state, params=None):
        updates, first = inner.update(updates, state[0], params)
        return updates, (first, state[1])

    optimizer = optax.GradientTransformation(
        lambda params: (inner.init(params), plateau.init(params)), change
    )
    _, _, metrics = take(optimizer, jnp.float32)
    assert float(metrics["skipped_updates"]) == 0
