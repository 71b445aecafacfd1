"""Samplers draw from the distribution whose log-probabilities they record."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import rollout
from grpojax.rollout._sample import _in_blocks, _inverse_cdf


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_recorded_probabilities_tail_included(temperature):
    """Detects a truncated tail, and a temperature on one of the two alone."""
    count, logits = 40_000, jnp.log(jnp.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01]))
    sampler = rollout.Categorical(temperature)
    draw = jax.jit(jax.vmap(lambda key: sampler(logits, key=key)))
    tokens, log_prob = (np.asarray(x) for x in draw(jr.split(jr.key(0), count)))
    weights = np.asarray(jnp.exp(logits / temperature))
    wanted = weights / weights.sum()
    np.testing.assert_allclose(np.exp(log_prob), wanted[tokens], rtol=1e-5)
    seen = np.bincount(tokens, minlength=7) / count
    deviation = np.sqrt(wanted * (1 - wanted) / count)
    assert np.all(np.abs(seen - wanted) <= 4 * deviation)
    assert seen.min() > 0


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0]), min_size=1).filter(
        any
    ),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
)
def test_the_first_index_whose_sum_exceeds_the_threshold(weights, uniform):
    """These weights add up without rounding, so that the answer is one integer."""
    table = _in_blocks(jnp.array(weights), 0.0)
    drawn = jnp.array(uniform, jnp.float32)
    index = int(_inverse_cdf(jnp.sum(table, axis=1), lambda row: table[row], drawn))
    threshold = np.float32(uniform) * np.float32(sum(weights))
    wanted = int(np.argmax(np.cumsum(weights) > threshold))
    if threshold >= sum(weights):  # Rounded up to the total.
        wanted = max(i for i, weight in enumerate(weights) if weight)
    assert index == wanted
