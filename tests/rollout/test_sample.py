"""Samplers draw from the distribution whose log-probabilities they record."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import rollout
from grpojax.rollout._sample import _cumulate, _in_blocks, _pick


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
    drawn = jnp.array(uniform, jnp.float32)
    index = int(_pick(_cumulate(jnp.array(weights)), drawn))
    threshold = np.float32(uniform) * np.float32(sum(weights))
    wanted = int(np.argmax(np.cumsum(weights) > threshold))
    if threshold >= sum(weights):  # Rounded up to the total.
        wanted = max(i for i, weight in enumerate(weights) if weight)
    assert index == wanted


def distribution(weights: jax.Array) -> np.ndarray:
    """Of `_pick` over all 2²³ uniforms, for each row of weights, by bisection."""
    steps = 2**23
    cumulative = jax.vmap(_cumulate)(weights)
    each = jax.vmap(_pick, (None, 0))
    index = jnp.arange(weights.shape[1])

    @jax.jit
    def first_above(row):
        """How many uniforms draw each index or one before it."""

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) // 2
            above = each(row, middle.astype(jnp.float32) / steps) > index
            return jnp.where(above, low, middle + 1), jnp.where(above, middle, high)

        start = jnp.zeros_like(index), jnp.full_like(index, steps)
        return jax.lax.fori_loop(0, 24, halve, start)[1]

    counts = np.diff(np.asarray(jax.lax.map(first_above, cumulative)), prepend=0)
    return counts / steps


@pytest.mark.parametrize("vocabulary", [1, 300, 49_152, 151_936])
def test_total_variation_from_the_softmax_by_enumeration(vocabulary):
    """Of every pair of uniforms that can be drawn, at vocabularies of real models."""
    logits = 2 * jr.normal(jr.key(vocabulary), (vocabulary,))
    weights = _in_blocks(jnp.exp(logits), 0.0)
    rows = distribution(jnp.sum(weights, axis=1)[None])[0]
    drawn = (rows[:, None] * distribution(weights)).reshape(-1)[:vocabulary]
    exact = np.exp(np.asarray(logits, np.float64))
    exact /= exact.sum()
    assert 0.5 * np.abs(drawn - exact).sum() < 1e-4
    assert np.all(drawn[exact > 1e-7] > 0)
