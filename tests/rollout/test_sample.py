"""Samplers draw from the distribution whose log-probabilities they record."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import rollout
from grpojax.rollout._sample import _cumulate, _in_blocks, _pick

from ..helpers import mostly_slow


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


@pytest.mark.parametrize(
    "vocabulary", mostly_slow([1, 300, 49_152, 151_936], [1, 300, 49_152])
)
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


def kept_by_hand(weights, temperature, top_k, top_p, min_p) -> set[int]:
    """Hugging Face's three warpers one after the other, in Python."""
    p = np.asarray(weights, np.float64) ** (1 / temperature)
    order = sorted(range(len(p)), key=lambda i: -p[i])
    order = order[: top_k or len(order)]
    if top_p is not None:
        total = sum(p[i] for i in order)
        before = np.cumsum([0, *(p[i] / total for i in order)])[:-1]
        order = [i for i, mass in zip(order, before, strict=True) if mass < top_p]
    floor = (min_p or 0.0) * max(p)
    return {i for i in order if p[i] >= floor}


WEIGHTS = (0.05, 0.31, 0.13, 0.01, 0.2, 0.17, 0.03, 0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(top_k=1),
        dict(top_k=3),
        dict(top_k=99),
        dict(top_p=0.6),
        dict(top_p=1.0),
        dict(top_p=1e-6),
        dict(min_p=0.4),
        dict(min_p=0.0),
        dict(top_k=4, top_p=0.7),
        dict(temperature=2.0, top_k=6, top_p=0.8, min_p=0.35),
        dict(temperature=0.5, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
def test_a_truncated_softmax_is_the_one_that_is_recorded(arguments):
    """The tokens that are kept, their frequencies, and their log-probabilities."""
    count, logits = 20_000, jnp.log(jnp.array(WEIGHTS))
    sampler = rollout.Truncated(**arguments)
    draw = jax.jit(jax.vmap(lambda key: sampler(logits, key=key)))
    tokens, log_prob = (np.asarray(x) for x in draw(jr.split(jr.key(1), count)))
    given = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None}
    kept = kept_by_hand(WEIGHTS, **(given | arguments))
    weights = np.array([w if i in kept else 0.0 for i, w in enumerate(WEIGHTS)])
    weights **= 1 / arguments.get("temperature", 1.0)
    wanted = weights * (weights > 0) / weights.sum()
    assert set(tokens.tolist()) == kept
    np.testing.assert_allclose(np.exp(log_prob), wanted[tokens], rtol=1e-5)
    seen = np.bincount(tokens, minlength=8) / count
    deviation = np.sqrt(wanted * (1 - wanted) / count)
    assert np.all(np.abs(seen - wanted) <= 4 * deviation)


def test_ties_and_impossible_tokens():
    logits = jnp.array([0.0, 1.0, 1.0, -jnp.inf, 1.0])
    draw = lambda **x: set(
        jax.vmap(lambda key: rollout.Truncated(**x)(logits, key=key)[0])(
            jr.split(jr.key(2), 200)
        ).tolist()
    )
    assert draw(top_k=1) == {1, 2, 4}  # As likely as the last one that is kept.
    assert draw(top_k=5) == draw(top_p=1.0) == draw(min_p=0.0) == {0, 1, 2, 4}


def test_nothing_truncated_is_the_categorical():
    logits, key = jr.normal(jr.key(3), (300,)), jr.key(4)
    for one, other in zip(
        rollout.Truncated(0.7)(logits, key=key),
        rollout.Categorical(0.7)(logits, key=key),
        strict=True,
    ):
        assert one == other


@pytest.mark.parametrize(
    "arguments", [dict(top_k=0), dict(top_p=0.0), dict(top_p=1.5), dict(min_p=-0.1)]
)
def test_truncations_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"Truncated\({name}=...\) must be "):
        rollout.Truncated(**arguments)


def test_a_truncated_distribution_is_not_trained_on():
    with pytest.raises(ValueError, match="whole softmax.*Truncated.*`Categorical`"):
        rollout.RolloutConfig(2, 2, sampler=rollout.Truncated(top_k=3))
