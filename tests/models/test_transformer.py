"""The laws of the policy contract, for every family."""

import itertools

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoints
from hypothesis import given, settings

from grpojax import models
from grpojax.policy import empty_cache, Past
from grpojax.types import Axes
from tests.helpers import mostly_slow


TIME = 6
FAMILIES = [("llama", False), ("llama3", True), ("qwen2", True), ("qwen3", False)]

law = settings(max_examples=8, deadline=None)
tokens = st.lists(st.integers(0, 18), min_size=TIME, max_size=TIME).map(np.array)


@pytest.fixture(
    scope="module",
    params=mostly_slow((name for name, _ in FAMILIES), ["qwen3"]),
)
def directory(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return tiny_checkpoints.make_directory(
        folder, request.param, dict(FAMILIES)[request.param]
    )


@pytest.fixture(scope="module")
def policy(directory):
    return models.load(directory)


@eqx.filter_jit
def extend(policy, ids, positions, *past, **options):
    hidden, cache = policy.extend(ids, positions, *past, **options)
    return policy.logits(hidden), cache


def whole(policy, ids):
    return extend(policy, ids, jnp.arange(len(ids)))


def assert_close(logits, expected):
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


@law
@given(ids=tokens, cuts=st.sets(st.integers(1, TIME - 1)))
def test_any_chunking_equals_the_entire_sequence(policy, ids, cuts):
    """By one cache that is written, and by as many caches as there are chunks."""
    expected, _ = whole(policy, ids)
    cache, columns = empty_cache(policy, TIME + 2), np.arange(TIME + 2)
    past, collected, apart = [], [], []
    for start, end in itertools.pairwise([0, *sorted(cuts), TIME]):
        chunk = ids[start:end], jnp.arange(start, end)
        seen = Past(cache, jnp.asarray(columns < start)[None])
        logits, written = extend(policy, *chunk, seen)
        cache = policy.write(cache, written, start)
        collected.append(logits)
        logits, own = extend(policy, *chunk, *past)
        past.append(Past(own, jnp.ones((1, end - start), bool)))
        apart.append(logits)
    assert_close(jnp.concatenate(collected), expected)
    assert_close(jnp.concatenate(apart), expected)


@law
@given(ids=tokens, shift=st.integers(0, TIME - 1))
def test_the_order_of_columns_does_not_matter(policy, ids, shift):
    expected, _ = whole(policy, ids)
    cache = empty_cache(policy, TIME)
    logits = []
    for t in range(TIME):
        age = (shift + t - np.arange(TIME)) % TIME
        seen = Past(cache, jnp.asarray((age > 0) & (age <= t))[None])
        row, written = extend(policy, ids[t : t + 1], jnp.array([t]), seen)
        cache = policy.write(cache, written, (shift + t) % TIME)
        logits.append(row)
    assert_close(jnp.concatenate(logits), expected)


@law
@given(ids=tokens, split=st.integers(1, TIME - 1), garbage=st.integers(0, 18))
def test_a_context_and_its_continuation_equal_the_entire_sequence(
    policy, ids, split, garbage
):
    expected, _ = whole(policy, ids)
    padded = np.where(np.arange(TIME) < split, ids, garbage)
    first, context = whole(policy, padded)
    assert_close(first[:split], expected[:split])
    read = Past(context, (jnp.arange(TIME) < split)[None])
    rest, own = extend(policy, ids[split:], jnp.arange(split, TIME), read)
    assert_close(rest, expected[split:])
    shapes = jax.tree.map(jnp.shape, empty_cache(policy, TIME - split))
    assert jax.tree.map(jnp.shape, own) == shapes


@law
@given(ids=tokens, split=st.integers(1, TIME - 1))
def test_a_shared_context_serves_many_streams_that_decode(policy, ids, split):
    rows = np.stack([ids, (ids + np.arange(TIME)) % 19])
    rows[:, :split] = ids[:split]
    expected = [whole(policy, row)[0] for row in rows]
    _, context = whole(policy, ids)
    read = Past(context, (jnp.arange(TIME) < split)[None])

    def decode(token, cache, position, seen):
        return extend(policy, token, position, read, Past(cache, seen))

    step = jax.vmap(decode, in_axes=(0, 1, None, None), out_axes=(0, 1))
    pair = lambda x: jnp.stack([x, x], axis=1)
    cache = jax.tree.map(pair, empty_cache(policy, TIME))
    for t in range(split, TIME):
        seen = jnp.asarray(np.arange(TIME) < t - split)[None]
        logits, written = step(rows[:, t : t + 1], cache, jnp.array([t]), seen)
        cache = policy.write(cache, written, t - split)
        for row in range(2):
            assert_close(logits[row, 0], expected[row][t])


@law
@given(ids=tokens, seed=st.integers(0, 99))
def test_what_is_not_visible_does_not_matter(policy, ids, seed):
    width = TIME + 2
    clean = empty_cache(policy, width)
    draw = np.random.default_rng(seed)
    garbage = lambda x: jnp.asarray(draw.normal(scale=50, size=x.shape), x.dtype)
    nothing = jnp.zeros((1, width), bool)
    alone = whole(policy, ids)[0]
    for cache in (clean, jax.tree.map(garbage, clean)):
        logits, _ = extend(policy, ids, jnp.arange(TIME), Past(cache, nothing))
        np.testing.assert_array_equal(logits, alone)


@law
@given(ids=tokens, split=st.integers(1, TIME - 1))
def test_sequences_in_one_chunk_do_not_see_each_other(policy, ids, split):
    first, second = (whole(policy, part)[0] for part in (ids[:split], ids[split:]))
    column = np.arange(TIME)
    together = (column[:, None] < split) == (column[None] < split)
    visible = jnp.asarray(together & (column[None] <= column[:, None]))
    positions = jnp.asarray(np.where(column < split, column, column - split))
    logits, _ = extend(policy, ids, positions, visible=visible)
    assert_close(logits, jnp.concatenate([first, second]))


def test_no_gradient_flows_from_the_future(policy):
    ids = jnp.arange(TIME)

    def total(embedding):
        changed = eqx.tree_at(lambda p: p.embedding, policy, embedding)
        hidden, _ = changed.extend(ids, jnp.arange(TIME))
        return hidden @ jnp.arange(1.0, hidden.shape[1] + 1)

    # Every position has a token of its own, so rows of the embedding are positions.
    jacobian = jax.jit(jax.jacrev(total))(policy.embedding)[:, :TIME]
    size = np.abs(jacobian).sum(-1)
    assert np.all(size[np.triu_indices(TIME, 1)] == 0)
    assert np.all(size[np.tril_indices(TIME)] > 0)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_the_decoding_layout_changes_nothing(directory, compute_dtype):
    policy = models.load(directory, compute_dtype=compute_dtype)
    decoding = policy.for_decoding()
    expected, _ = whole(policy, jnp.arange(TIME))
    # A tied head is transposed: its sums accumulate in another order.
    assert_close(whole(decoding, jnp.arange(TIME))[0], np.asarray(expected))
    assert expected.dtype == jnp.float32
    layer = decoding.stacks[-1]
    assert layer.up.dtype == decoding.embedding.dtype == compute_dtype
    assert decoding.norm.dtype == layer.mlp_norm.dtype == jnp.float32
    stored = whole(decoding, jnp.arange(TIME))[1][0].keys.dtype
    assert stored == {"float32": "float32", "bfloat16": "uint16"}[compute_dtype]


def test_every_axis_has_a_name(policy):
    names = policy.logical_axes()
    is_axes = lambda x: isinstance(x, Axes)
    for leaf, axes in zip(
        jax.tree.leaves(policy), jax.tree.leaves(names, is_leaf=is_axes), strict=True
    ):
        assert len(axes.names) == len(axes.pieces) == leaf.ndim
        assert all(isinstance(name, str) for name in axes.names)
        # Heads are contiguous: their axis is split between them.
        for size, pieces in zip(leaf.shape, axes.pieces, strict=True):
            assert size % pieces == 0
    assert names.embedding.names == ("vocab", "hidden")
    assert names.layers.down.names == ("layer", "mlp", "hidden")
    assert names.layers.key.pieces[-1] == policy.config.num_kv_heads


def test_a_fresh_policy_has_the_shape_of_its_config():
    config = models.TransformerConfig(
        vocab_size=7,
        hidden_size=8,
        intermediate_size=10,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
        qkv_bias=True,
        qk_norm=True,
    )
    make = eqx.filter_jit(models.Transformer)
    policy = make(config, dtype="bfloat16", key=jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(policy)} == {jnp.dtype("bfloat16")}
    assert policy.vocab_size == 7 and policy.compute_dtype == "bfloat16"
    assert policy.layers.query_bias.shape == (3, 8)
    assert policy.layers.key_norm.shape == (3, 2)
    assert policy.head.shape == (8, 7)
    # Variance 1 / inputs, for every matrix apart.
    fan_in = np.asarray(policy.layers.down, np.float32).std() * 10**0.5
    assert 0.8 < fan_in < 1.2


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_layers=0), "num_layers must be a positive integer. Received 0"),
        (dict(num_kv_heads=3), "num_heads=4, num_kv_heads=3"),
        (dict(head_dim=3), "must be even. Received head_dim=3"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change, message):
    sizes = dict(
        vocab_size=7,
        hidden_size=8,
        intermediate_size=10,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=2,
    )
    with pytest.raises(ValueError, match=message):
        models.TransformerConfig(**(sizes | change))
