"""The learning rate as a record in the optimizer's state."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import update
from grpojax.algorithms import grpo

from .doubles import bigram, random_trajectory


SCHEDULE = optax.cosine_decay_schedule(1e-2, 10)
WEIGHTS = {"a": jr.normal(jr.key(0), (5, 3)), "b": jr.normal(jr.key(1), (4,))}
GRADIENTS = jax.tree.map(lambda x: jr.normal(jr.key(2), (6, *x.shape)), WEIGHTS)
OPTIMIZERS = {
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(SCHEDULE)),
    "chain of one": optax.chain(optax.adam(SCHEDULE)),
    "sgd": optax.sgd(SCHEDULE),
    "named tuple": optax.masked(optax.adam(SCHEDULE), {"a": True, "b": False}),
    "labels": optax.multi_transform(
        {"fast": optax.adam(SCHEDULE), "frozen": optax.set_to_zero()},
        {"a": "fast", "b": "frozen"},
    ),
    "decay of some": optax.adamw(SCHEDULE, mask={"a": True, "b": False}),
    "rounding": update.stochastic_rounding(
        optax.adamw(SCHEDULE), state_dtype="float32"
    ),
}


@eqx.filter_jit
def descend(optimizer, weights=WEIGHTS, gradients=GRADIENTS):
    """Weights and states after each of six updates, and the last state."""

    def step(carry, gradient):
        weights, state = carry
        updates, state = optimizer.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), (updates, state)

    start = weights, optimizer.init(weights)
    (_, last), (updates, states) = jax.lax.scan(step, start, gradients)
    return updates, states, last


def paths(tree) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_optimizer(name):
    optimizer = OPTIMIZERS[name]
    wrapped = update.with_learning_rate(optimizer, SCHEDULE)
    wanted, _, state = descend(optimizer)
    got, records, extended = descend(wrapped)
    chex.assert_trees_all_equal(wanted, got)
    rates = optax.tree.get(records[-1], "learning_rate")
    np.testing.assert_array_equal(rates, jax.vmap(SCHEDULE)(jnp.arange(6)))
    # The record is appended: the arrays of a tuple have the paths that they had.
    before = paths(state if type(state) is tuple else (state,))
    after = paths(extended)
    record = {path: x for path, x in after.items() if path not in before}
    assert [path.split(".")[-1] for path in record] == ["updates", "learning_rate"]
    assert list(before) == list(after)[: len(before)]
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_it_may_be_rounded_stochastically(state_dtype):
    """The record stays in float32, and the updates are those without it."""
    weights, gradients = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16), (WEIGHTS, GRADIENTS)
    )
    adam = optax.adam(SCHEDULE)
    rounding = lambda optimizer: update.stochastic_rounding(
        optimizer, state_dtype=state_dtype
    )
    recorded = rounding(update.with_learning_rate(adam, SCHEDULE))
    wanted, _, _ = descend(rounding(adam), weights, gradients)
    got, _, state = descend(recorded, weights, gradients)
    rate = optax.tree.get(state, "learning_rate")
    assert rate.dtype == jnp.float32 and rate == SCHEDULE(jnp.array(5))
    moments = optax.tree.get(state, "mu")
    assert {x.dtype.name for x in jax.tree.leaves(moments)} == {state_dtype}
    if state_dtype == "float32":  # Its state draws no noise.
        key = lambda tree: [x.astype(jnp.float32) for x in jax.tree.leaves(tree)]
        for a, b in zip(key(wanted), key(got), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, pytest.param(0.3, marks=pytest.mark.slow), jnp.array(0.3)]
)
def test_metrics_have_the_rate_of_the_last_update(schedule):
    policy = bigram()
    optimizer = update.with_learning_rate(optax.adam(schedule), schedule)
    params = eqx.filter(policy, eqx.is_inexact_array)
    advantages = jr.normal(jr.key(3), (4, 4))
    state, improve = optimizer.init(params), eqx.filter_jit(update.improve)
    for last in (3, 7):  # Four updates in each call.
        policy, state, metrics = improve(
            policy,
            state,
            random_trajectory(policy),
            advantages,
            objective=grpo().objective,
            optimizer=optimizer,
            config=update.UpdateConfig(epochs=2, minibatches=2),
        )
        wanted = schedule(last) if callable(schedule) else schedule
        np.testing.assert_allclose(metrics["learning_rate"], wanted, rtol=1e-6)
