import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from grpojax import masked


SHAPE = (3, 4)
values = hnp.arrays(np.float32, SHAPE, elements=st.floats(-8, 8, width=32))
masks = hnp.arrays(bool, SHAPE)


@settings(max_examples=50, deadline=None)
@given(values, masks, st.sampled_from([None, 0, 1]), st.sampled_from([0, 1]))
def test_statistics_equal_numpy_on_the_kept_values(x, mask, axis, ddof):
    kept = np.ma.masked_array(x.astype(np.float64), ~mask)
    keep = {} if axis is None else dict(keepdims=True)
    mean = np.ma.filled(kept.mean(axis, **keep), 0)
    np.testing.assert_allclose(
        masked.mean(jnp.asarray(x), jnp.asarray(mask), axis), mean, atol=1e-5
    )
    spread = np.ma.filled(kept.var(axis, ddof=ddof, **keep), 0)
    enough = mask.sum(axis, **keep) > ddof
    spread = np.where(enough, spread, 0)
    got = masked.variance(jnp.asarray(x), jnp.asarray(mask), axis, ddof=ddof)
    np.testing.assert_allclose(got, spread, rtol=1e-4, atol=1e-4)
    got = masked.std(jnp.asarray(x), jnp.asarray(mask), axis, ddof=ddof)
    np.testing.assert_allclose(got, np.sqrt(spread), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("statistic", [masked.mean, masked.variance, masked.std])
def test_nothing_under_a_false_mask_reaches_value_or_gradient(statistic):
    x = jnp.asarray([1.0, 2.0, jnp.nan])
    mask = jnp.asarray([True, True, False])
    value, slope = jax.value_and_grad(lambda x: statistic(x, mask))(x)
    chex.assert_tree_all_finite((value, slope))
    assert slope[2] == 0


@pytest.mark.parametrize("statistic", [masked.mean, masked.variance, masked.std])
@pytest.mark.parametrize("mask", [[False] * 3, [True] * 3])
def test_empty_and_flat_have_a_finite_gradient(statistic, mask):
    """sqrt at 0 and 0 / 0 are where naive statistics give NaN."""
    x = jnp.full(3, 5.0)
    value, slope = jax.value_and_grad(lambda x: statistic(x, jnp.asarray(mask)))(x)
    chex.assert_tree_all_finite((value, slope))
    assert value == (5.0 if statistic is masked.mean and mask[0] else 0.0)
