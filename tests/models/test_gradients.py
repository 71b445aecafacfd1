"""Custom gradients, against autodiff of the formulas."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax.models.attention import attend, block_mask, KVCache, Source
from grpojax.models.matrix import row_products
from grpojax.models.transformer._layers import rms_norm
from tests.helpers import mostly_slow


def cases(seed: int, chunk: int, columns: int, heads: int, kv_heads: int, dim: int):
    keys = iter(jr.split(jr.key(seed), 8))
    query = jr.normal(next(keys), (chunk, heads, dim))
    sources, visible = [], []
    for width in (columns, chunk):
        shape = kv_heads, width, dim
        cache = jr.normal(next(keys), shape), jr.normal(next(keys), shape)
        sources.append(KVCache(jnp.swapaxes(cache[0], 1, 2), cache[1]))
        visible.append(jr.bernoulli(next(keys), 0.6, (chunk, width)))
    # Whoever sees nothing else sees itself.
    visible[1] = visible[1] | jnp.eye(chunk, dtype=bool)
    visible[0] = visible[0][:1]  # One row for all of the chunk.
    return query, sources, visible, jr.normal(next(keys), (chunk, heads * dim))


def naive(query, sources, visible, sinks=None):
    """softmax(q kᵀ / sqrt(d)) v, with all columns side by side, and sinks beside."""
    chunk, heads, dim = query.shape
    columns = jnp.concatenate([x.values for x in sources], axis=1).shape[1]
    repeats = heads // sources[0].keys.shape[0]
    side_by_side = lambda arrays, axis: jnp.repeat(
        jnp.concatenate(arrays, axis=axis), repeats, axis=0
    )
    keys = side_by_side([x.keys for x in sources], 2)
    values = side_by_side([x.values for x in sources], 1)
    seen = jnp.concatenate(
        [jnp.broadcast_to(x, (chunk, x.shape[1])) for x in visible], 1
    )
    assert seen.shape == (chunk, columns)
    scores = jnp.einsum("qhd,hdc->hqc", query, keys) / dim**0.5
    scores = jnp.where(seen[None], scores, -jnp.inf)
    if sinks is not None:
        beside = jnp.broadcast_to(sinks[:, None, None], (heads, chunk, 1))
        scores = jnp.concatenate([scores, beside], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., :columns]
    return jnp.einsum("hqc,hcd->qhd", weights, values).reshape(chunk, heads * dim)


def masked(sources, visible) -> list[Source]:
    tokens = visible[1].shape[0]
    return [
        Source(cache, block_mask(mask, tokens))
        for cache, mask in zip(sources, visible, strict=True)
    ]


@pytest.mark.parametrize("examples", mostly_slow([5, 15], [5]))
def test_attention(examples):
    drawn = dict(
        seed=st.integers(0, 1000),
        chunk=st.sampled_from([1, 5, 130]),
        columns=st.sampled_from([1, 7, 200]),
        heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    )
    settings(deadline=None, max_examples=examples)(given(**drawn)(check_attention))()


def check_attention(seed, chunk, columns, heads):
    query, sources, visible, weight = cases(seed, chunk, columns, *heads, 8)

    def ours(query, sources, dtype="float32"):
        return jnp.sum(weight * attend(query, masked(sources, visible), dtype))

    wanted = lambda query, sources: jnp.sum(weight * naive(query, sources, visible))
    got = jax.grad(ours, argnums=(0, 1))(query, sources)
    want = jax.grad(wanted, argnums=(0, 1))(query, sources)
    for found, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("chunk", mostly_slow([5, 130], [5]))
def test_attention_with_sinks(chunk):
    """A column of the softmax without a value; it has a gradient, too."""
    query, sources, visible, weight = cases(0, chunk, 7, 4, 2, 8)
    sinks = 2 * jr.normal(jr.key(1), (4,))

    def ours(query, sources, sinks):
        found = attend(query, masked(sources, visible), "float32", sink_scores=sinks)
        return jnp.sum(weight * found), found

    def wanted(query, sources, sinks):
        found = naive(query, sources, visible, sinks)
        return jnp.sum(weight * found), found

    both = [
        jax.jit(jax.grad(one, argnums=(0, 1, 2), has_aux=True))(query, sources, sinks)
        for one in (ours, wanted)
    ]
    for found, right in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_attention_of_16_bits(seed):
    query, sources, visible, weight = cases(seed, 6, 9, 4, 2, 16)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), sources)

    def ours(query, sources):
        return jnp.sum(weight * attend(query, masked(sources, visible), "bfloat16"))

    wanted = lambda query, sources: jnp.sum(weight * naive(query, sources, visible))
    got = jax.grad(ours, argnums=(0, 1))(query, narrow)
    want = jax.grad(wanted, argnums=(0, 1))(query, sources)
    for found, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        error = jnp.linalg.norm(found.astype(jnp.float32) - right)
        assert error < 0.02 * jnp.linalg.norm(right)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), batch=st.sampled_from([(), (3,), (2, 3)]))
def test_rms_norm(seed, batch):
    one, two, three = jr.split(jr.key(seed), 3)
    x, weight = (jr.normal(key, (*batch, 7)) for key in (one, two))
    scale, eps = jr.normal(three, (7,)), 1e-5
    plain = lambda x, scale: (
        x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale
    )
    ours = lambda x, scale: jnp.sum(weight * rms_norm(x, scale, eps))
    wanted = lambda x, scale: jnp.sum(weight * plain(x, scale))
    got = jax.value_and_grad(ours, argnums=(0, 1))(x, scale)
    want = jax.value_and_grad(wanted, argnums=(0, 1))(x, scale)
    for found, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


def test_row_products():
    x, y = jr.normal(jr.key(0), (2, 3, 4, 5))
    np.testing.assert_allclose(row_products(x, y), np.sum(x * y, -1), rtol=1e-5)
