"""Stochastic rounding of weights and moments."""

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import update


rounding = update.stochastic_rounding
floats = st.floats(2.0**-100, 2.0**100, width=32) | st.just(0.0)


def neighbors(x: float) -> set[float]:
    """The bfloat16 numbers around a number: seven bits follow its leading one."""
    if x == 0:
        return {0.0}
    ulp = 2.0 ** (np.floor(np.log2(abs(x))) - 7)
    return {float(np.floor(x / ulp) * ulp), float(np.ceil(x / ulp) * ulp)}


@settings(max_examples=50, deadline=None)
@given(x=floats, sign=st.sampled_from([1, -1]), seed=st.integers(0, 2**31))
def test_a_number_becomes_one_of_its_two_neighbors(x, sign, seed):
    values = jnp.full(50, sign * x, jnp.float32)
    rounded = update.stochastic_round(values, key=jr.key(seed))
    assert rounded.dtype == jnp.bfloat16
    exact = float(values[0])
    assert set(map(float, rounded)) <= neighbors(exact)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_on_average_nothing_is_lost(share, sign):
    count, ulp = 100_000, 2.0**-7
    values = jnp.full(count, sign * (1 + share * ulp), jnp.float32)
    rounded = np.asarray(update.stochastic_round(values, key=jr.key(1)), np.float64)
    up = np.mean(np.abs(rounded) > 1)
    deviation = np.sqrt(share * (1 - share) / count)
    assert abs(up - share) < 5 * deviation


def test_what_is_exact_or_not_finite_stays():
    kept = jnp.asarray([0.0, 1.0, -3.5, 2.0**-126, jnp.inf, -jnp.inf], jnp.bfloat16)
    wide = jnp.repeat(kept.astype(jnp.float32)[:, None], 100, axis=1)
    rounded = update.stochastic_round(wide, key=jr.key(0))
    np.testing.assert_array_equal(rounded, jnp.broadcast_to(kept[:, None], wide.shape))
    nan = jax.lax.bitcast_convert_type(jnp.uint32(0x7FFFFFFF), jnp.float32)
    assert jnp.isnan(update.stochastic_round(jnp.full(100, nan), key=jr.key(0))).all()


def descend(optimizer, params, gradients):
    """What many updates make of parameters, and the states on the way."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), state

    start = params, optimizer.init(params)
    (params, _), states = jax.lax.scan(step, start, gradients)
    return params, states


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), rate=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_whoever_adds_the_update_gets_the_rounded_weights(seed, rate):
    weight_key, gradient_key = jr.split(jr.key(seed))
    weights = jr.normal(weight_key, (200,), jnp.bfloat16)
    gradient = jr.normal(gradient_key, (200,), jnp.bfloat16)
    optimizer = rounding(optax.sgd(rate), state_dtype="float32")
    updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    assert updates.dtype == jnp.bfloat16
    new = optax.apply_updates(weights, updates)
    wide = lambda x: np.asarray(x, np.float64)
    exact = wide(weights) - np.float32(rate) * wide(gradient)
    # Where hardly anything is left of a weight, its update's last bit shows.
    allowed = 2.0**-7 * np.abs(exact) + 2.0**-8 * np.abs(wide(updates))
    assert (np.abs(wide(new) - exact) <= allowed).all()


def test_small_updates_arrive_that_the_nearest_number_would_forget():
    """Of a hundred-thousandth each, where 1/256 is the next number."""
    weights = jnp.ones(1000, jnp.bfloat16)
    gradients = jnp.ones((500, 1000), jnp.bfloat16)
    forgotten, _ = descend(optax.sgd(1e-5), weights, gradients)
    assert (forgotten == 1).all()
    optimizer = rounding(optax.sgd(1e-5), state_dtype="bfloat16")
    arrived, _ = descend(optimizer, weights, gradients)
    moved = 1 - np.asarray(arrived, np.float64)
    assert moved.mean() == pytest.approx(0.005, rel=0.1)


def test_the_second_moment_shrinks_when_gradients_do():
    """By a thousandth each time, and half of a last bit is a 512th."""
    large, small = jnp.ones((20, 200)), jnp.full((1000, 200), 1e-3)
    gradients = jnp.concatenate([large, small]).astype(jnp.bfloat16)
    weights = jnp.ones(200, jnp.bfloat16)

    def second_moment(optimizer):
        _, states = descend(optimizer, weights, gradients)
        return np.asarray(optax.tree.get(states, "nu")[-1], np.float64).mean()

    adam = optax.adam(0.0)
    exact = 1 - 0.999**20
    decayed = exact * 0.999**1000
    assert second_moment(adam) > 0.9 * exact
    seen = second_moment(rounding(adam, state_dtype="bfloat16"))
    assert seen == pytest.approx(decayed, rel=0.1)


def test_float32_throughout_is_the_optimizer_itself():
    weights = {"a": jr.normal(jr.key(0), (5, 3)), "b": None}
    gradients = {"a": jr.normal(jr.key(1), (10, 5, 3)), "b": None}
    optimizer = optax.adamw(1e-2)
    plain, _ = descend(optimizer, weights, gradients)
    wrapped, _ = descend(rounding(optimizer, state_dtype="float32"), weights, gradients)
    chex.assert_trees_all_equal(plain, wrapped)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_moments_are_kept_as_said_and_hyperparameters_are_not_rounded(state_dtype):
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    )
    weights = jnp.ones((4, 2), jnp.bfloat16)
    made = rounding(optimizer, state_dtype=state_dtype)
    state = made.init(weights)
    _, after = made.update(weights, state, weights)
    for found in (state, after):
        arrays = [x for x in jax.tree.leaves(found) if x.ndim > 0]
        assert [x.dtype.name for x in arrays] == [state_dtype] * 2
        rate = optax.tree.get(found, "learning_rate")
        assert rate.dtype == jnp.float32 and float(rate) == float(jnp.float32(1e-3))


def test_weights_in_bfloat16_go_the_way_of_those_in_float32():
    """Along the same gradients, a direction and noise, with moments in bfloat16 too."""
    weight_key, gradient_key = jr.split(jr.key(0))
    narrow = jr.normal(weight_key, (2000,), jnp.bfloat16)
    gradients = 0.3 + jr.normal(gradient_key, (100, 2000), jnp.bfloat16)
    wide = narrow.astype(jnp.float32)
    adam = optax.adam(1e-5)
    wanted, _ = descend(adam, wide, gradients.astype(jnp.float32))
    got, _ = descend(rounding(adam, state_dtype="bfloat16"), narrow, gradients)
    nearest, _ = descend(adam, narrow, gradients)
    moved = wanted - wide
    along = lambda weights: float((weights - wide) @ moved / (moved @ moved))
    assert along(got.astype(jnp.float32)) == pytest.approx(1, abs=0.15)
    assert along(nearest.astype(jnp.float32)) < 0.5


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=f"float32 or bfloat16. Received {dtype}"):
        rounding(optax.sgd(1.0), state_dtype=dtype)


def test_weights_are_needed():
    optimizer = rounding(optax.sgd(1.0), state_dtype="float32")
    with pytest.raises(ValueError, match="update\\(gradients, state, params\\)"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
