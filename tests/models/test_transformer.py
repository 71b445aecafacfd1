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


TIME = 6
FAMILIES = [("llama", False), ("llama3", True), ("qwen2", True), ("qwen3", False)]

law = settings(max_examples=8, deadline=None)
tokens = st.lists(st.integers(0, 18), min_size=TIME, max_size=TIME).map(np.array)


@pytest.fixture(scope="module", params=FAMILIES, ids=[name for name, _ in FAMILIES])
def directory(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return tiny_checkpoints.make_directory(folder, *request.param)


@pytest.fixture(scope="module")
def policy(directory):
    return models.load(directory)


@eqx.filter_jit
def _extend(policy, *args, **kwargs):
    hidden, cache = policy.extend(*args, **kwargs)
    return policy.logits(hidden), cache


def extend(policy, *args, **kwargs):
    # Numbers as arrays, so that where a chunk lies is no reason to compile again.
    return _extend(policy, *args, **jax.tree.map(jnp.asarray, kwargs))


def whole(policy, ids):
    return extend(policy, ids, jnp.arange(len(ids)))


def assert_close(logits, expected):
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


@law
@given(ids=tokens, cuts=st.sets(st.integers(1, TIME - 1)))
def test_any_chunking_gives_what_the_whole_gives(policy, ids, cuts):
    expected, _ = whole(policy, ids)
    cache = policy.empty_cache(TIME + 2)
    logits = []
    for start, end in itertools.pairwise([0, *sorted(cuts), TIME]):
        positions = jnp.arange(start, end)
        visible = jnp.arange(TIME + 2)[None] <= positions[:, None]
        chunk, cache = extend(
            policy, ids[start:end], positions, cache, column=start, visible=visible
        )
        logits.append(chunk)
    assert_close(jnp.concatenate(logits), expected)


@law
@given(ids=tokens, shift=st.integers(0, TIME - 1))
def test_where_a_column_lies_does_not_matter(policy, ids, shift):
    expected, _ = whole(policy, ids)
    cache = policy.empty_cache(TIME)
    logits = []
    for t in range(TIME):
        age = (shift + t - jnp.arange(TIME)) % TIME
        row, cache = extend(
            policy,
            ids[t : t + 1],
            jnp.array([t]),
            cache,
            column=(shift + t) % TIME,
            visible=(age <= t)[None],
        )
        logits.append(row)
    assert_close(jnp.concatenate(logits), expected)


@law
@given(ids=tokens, split=st.integers(1, TIME - 1), garbage=st.integers(0, 18))
def test_a_context_and_what_follows_give_what_the_whole_gives(
    policy, ids, split, garbage
):
    expected, _ = whole(policy, ids)
    padded = np.where(np.arange(TIME) < split, ids, garbage)
    first, context = whole(policy, padded)
    assert_close(first[:split], expected[:split])
    positions = jnp.arange(split, TIME)
    rest, own = extend(
        policy, ids[split:], positions, context=context, context_length=split
    )
    assert_close(rest, expected[split:])
    assert own.keys.shape[1] == TIME - split


@law
@given(ids=tokens, split=st.integers(1, TIME - 1))
def test_a_shared_context_serves_many_streams_that_decode(policy, ids, split):
    rows = np.stack([ids, (ids + np.arange(TIME)) % 19])
    rows[:, :split] = ids[:split]
    expected = [whole(policy, row)[0] for row in rows]
    _, context = whole(policy, ids)

    def decode(policy, row, position, cache, visible, context):
        return extend(
            policy,
            row,
            position,
            cache,
            column=position[0] - split,
            visible=visible,
            context=context,
            context_length=split,
        )

    step = jax.vmap(decode, in_axes=(None, 0, None, 0, None, None))
    cache = jax.tree.map(lambda x: jnp.stack([x, x]), policy.empty_cache(TIME))
    for t in range(split, TIME):
        visible = (jnp.arange(TIME) <= t - split)[None]
        logits, cache = step(
            policy, rows[:, t : t + 1], jnp.array([t]), cache, visible, context
        )
        for row in range(2):
            assert_close(logits[row, 0], expected[row][t])


@law
@given(ids=tokens, seed=st.integers(0, 99))
def test_what_is_not_visible_does_not_matter(policy, ids, seed):
    width = TIME + 2
    filled = jax.tree.map(
        lambda x: jnp.asarray(
            np.random.default_rng(seed).normal(scale=50, size=x.shape), x.dtype
        ),
        policy.empty_cache(width),
    )
    visible = jnp.arange(width)[None] <= jnp.arange(TIME)[:, None]
    empty, garbage = (
        extend(policy, ids, jnp.arange(TIME), cache, visible=visible)[0]
        for cache in (policy.empty_cache(width), filled)
    )
    np.testing.assert_array_equal(empty, garbage)


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


def test_remat_changes_no_gradient(tmp_path):
    directory = tiny_checkpoints.make_directory(tmp_path, "qwen3")

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(policy):
        hidden, _ = policy.extend(jnp.arange(TIME), jnp.arange(TIME))
        return jnp.sum(jax.nn.log_softmax(policy.logits(hidden))[:, 0])

    expected = jax.tree.leaves(gradient(models.load(directory)))
    got = jax.tree.leaves(gradient(models.load(directory, remat=True)))
    for a, b in zip(expected, got, strict=True):
        assert np.abs(a).max() > 0
        assert_close(b, a)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_the_decoding_layout_changes_nothing(directory, compute_dtype):
    policy = models.load(directory, compute_dtype=compute_dtype)
    decoding = policy.for_decoding()
    expected, _ = whole(policy, jnp.arange(TIME))
    np.testing.assert_array_equal(whole(decoding, jnp.arange(TIME))[0], expected)
    assert expected.dtype == jnp.float32
    assert decoding.layers.up.dtype == decoding.embedding.dtype == compute_dtype
    assert decoding.norm.dtype == decoding.layers.mlp_norm.dtype == jnp.float32
    assert decoding.empty_cache(3).keys.dtype == compute_dtype


def test_every_axis_has_a_name(policy):
    names = policy.logical_axes()
    is_names = lambda x: isinstance(x, tuple)
    for leaf, axes in zip(
        jax.tree.leaves(policy), jax.tree.leaves(names, is_leaf=is_names), strict=True
    ):
        assert len(axes) == leaf.ndim
        assert all(isinstance(name, str) for name in axes)
    assert names.embedding == ("vocab", "hidden")
    assert names.layers.down == ("layer", "mlp", "hidden")


def test_a_cache_needs_to_know_what_is_visible(policy):
    with pytest.raises(ValueError, match="needs `visible`"):
        policy.extend(jnp.arange(2), jnp.arange(2), policy.empty_cache(2))


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
