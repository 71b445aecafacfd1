"""Quantized keys and values: memory saved, and error."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import models, policy as policies, rollout
from grpojax.models.attention import (
    attend,
    block_mask,
    KVCache,
    quantize_cache,
    Source,
)
from tests.helpers import CONFIGS, count_env, transformer


# Of one number, as a share of the largest that it shares a scale with.
ERROR = {"int8": 1 / 254, "bfloat16": 1 / 256}

generate = eqx.filter_jit(rollout.generate)


def in_float64(query, keys, values, visible):
    """Attention as it is defined, for every chunk position and head."""
    chunk, heads, head_dim = query.shape
    out = np.zeros((chunk, heads, head_dim))
    for t, head in np.ndindex(chunk, heads):
        shared = head * keys.shape[0] // heads
        scores = query[t, head] @ keys[shared] / np.sqrt(head_dim)
        weight = np.where(visible[t], np.exp(scores - scores[visible[t]].max()), 0)
        out[t, head] = weight / weight.sum() @ values[shared]
    return out


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.1, 1.0, 3.0]))
def test_attention_errs_by_no_more_than_its_bound(dtype, seed, spread):
    """A weight errs by a factor of e^2ε where scores err by ε."""
    chunk, heads, kv_heads, head_dim, columns = 3, 4, 2, 8, 7
    draw = np.random.default_rng(seed)
    query = draw.normal(size=(chunk, heads, head_dim), scale=spread)
    # Tokens of unlike size, of which each has a scale of its own.
    size = np.exp(draw.normal(size=columns))
    keys = draw.normal(size=(kv_heads, head_dim, columns)) * size
    values = draw.normal(size=(kv_heads, columns, head_dim)) * size[:, None]
    visible = draw.random((chunk, columns)) < 0.7
    visible[:, 0] = True
    as_float32 = lambda x: jnp.asarray(x, jnp.float32)
    kept = quantize_cache(KVCache(as_float32(keys), as_float32(values)), dtype)
    got = attend(
        as_float32(query),
        [Source(kept, block_mask(jnp.asarray(visible), chunk))],
        "float32",
    )
    got = np.asarray(got, np.float64).reshape(chunk, heads, head_dim)
    exact = in_float64(query, keys, values, visible)
    for t, head in np.ndindex(chunk, heads):
        shared = head * kv_heads // heads
        largest_key = np.abs(keys[shared])[:, visible[t]].max()
        largest_value = np.abs(values[shared])[visible[t]].max()
        score = np.abs(query[t, head]).sum() * largest_key * ERROR[dtype]
        weight = np.expm1(2 * score / np.sqrt(head_dim))
        bound = (weight + ERROR[dtype]) * largest_value
        assert np.abs(got[t, head] - exact[t, head]).max() <= bound + 1e-5
    assert np.abs(got - exact).max() > 1e-6  # Something was rounded.


def test_a_scale_is_a_token_s_and_a_head_s():
    """127 steps each way to the largest number, and nothing to what is nothing."""
    keys = jnp.asarray([[[1.0, 100.0, 0.0], [-0.5, 25.0, 0.0]]])
    kept = quantize_cache(KVCache(keys, jnp.swapaxes(keys, 1, 2)), "int8")
    np.testing.assert_array_equal(kept.keys, [[[127, 127, 0], [-64, 32, 0]]])
    np.testing.assert_allclose(kept.key_scale, [[1 / 127, 100 / 127, 0]], rtol=1e-6)
    np.testing.assert_array_equal(kept.values, jnp.swapaxes(kept.keys, 1, 2))
    np.testing.assert_array_equal(kept.value_scale, kept.key_scale)


def bytes_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_int8_takes_about_half_of_bfloat16(compute_dtype):
    layers, heads, head_dim, columns = 3, 2, 128, 10
    config = models.TransformerConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=8,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
    )

    def counted(cache_dtype):
        make = lambda: models.Transformer(
            config,
            compute_dtype=compute_dtype,
            cache_dtype=cache_dtype,
            key=jr.key(0),
        ).for_decoding()
        return bytes_of(
            eqx.filter_eval_shape(lambda: policies.empty_cache(make(), columns))
        )

    numbers = 2 * layers * heads * columns
    assert counted("int8") == numbers * (head_dim + 4)
    assert counted("bfloat16") == numbers * head_dim * 2
    exact = {"float32": 4, "bfloat16": 2}[compute_dtype]
    assert counted(None) == numbers * head_dim * exact
    assert counted("int8") / counted("bfloat16") == pytest.approx(0.516, abs=0.001)


@pytest.mark.slow
def test_the_rollout_holds_no_cache_in_floats():
    """By the compiler's account: the memory that is saved is that of the caches."""
    config = models.TransformerConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_layers=9,  # More than are unrolled for decoding.
        num_heads=2,
        num_kv_heads=2,
        head_dim=64,
    )
    env = count_env(max_completion_length=128)
    sizes = dict(config=rollout.RolloutConfig(prompts=4, group=8), key=jr.key(0))

    def temporary_and_cache(cache_dtype):
        make = lambda: models.Transformer(
            config, cache_dtype=cache_dtype, key=jr.key(0)
        )
        policy = eqx.filter_eval_shape(make)
        cache = lambda p: policies.empty_cache(p.for_decoding(), 128)
        whole = 32 * bytes_of(eqx.filter_eval_shape(cache, policy))
        arrays, static = eqx.partition(
            policy, lambda x: isinstance(x, jax.ShapeDtypeStruct)
        )
        run = lambda arrays: (
            rollout.generate(eqx.combine(arrays, static), env, **sizes).tokens
        )
        memory = jax.jit(run).lower(arrays).compile().memory_analysis()
        return memory.temp_size_in_bytes, whole

    wide, of_floats = temporary_and_cache(None)
    narrow, of_integers = temporary_and_cache("int8")
    assert of_integers < 0.27 * of_floats
    # One layer in float32, which is what the products of a CPU take.
    assert wide - narrow > of_floats - of_integers - of_floats / 8 * 2


def test_a_token_copies_no_cache_of_unrolled_layers():
    """XLA's CPU backend does, where nothing says that one is read before written."""
    config = models.TransformerConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        head_dim=24,
    )
    policy, env = models.Transformer(config, key=jr.key(0)), count_env()
    columns = env.max_completion_length
    sizes = rollout.RolloutConfig(prompts=3, group=5)
    run = lambda policy: rollout.generate(policy, env, sizes, key=jr.key(1))
    text = jax.jit(run).lower(policy).compile().as_text()
    cache = rf"f32\[1,15,2,(24,{columns}|{columns},24)\]"
    assert re.search(cache, text)
    # Two for each layer when the loop begins, and none that a token makes.
    copied = re.findall(rf"= {cache}\S* copy\(", text)
    assert len(copied) <= 2 * config.num_layers


@pytest.fixture(scope="module")
def in_slots():
    """What an int8 policy says, by the number of slots and the seed."""
    run = lambda slots, seed: generate(
        transformer(cache_dtype="int8"),
        count_env(),
        rollout.RolloutConfig(prompts=3, group=4, slots=slots),
        key=jr.key(seed),
    )
    return functools.cache(run)


@pytest.mark.laws
@pytest.mark.parametrize("seed", range(6))
def test_the_same_tokens_for_every_number_of_slots(in_slots, seed):
    every, some = in_slots(None, seed), in_slots(5, seed)
    np.testing.assert_array_equal(every.tokens, some.tokens)
    np.testing.assert_array_equal(every.sampled, some.sampled)


def test_the_decoder_s_log_prob_is_recorded_and_near_the_exact_one(in_slots):
    """The decoder scores as it samples; the exact policy differs by a little."""
    exact, policy, said = transformer(), transformer(cache_dtype="int8"), in_slots(5, 0)

    @eqx.filter_jit
    def gap(scorer):
        row = lambda prompt, tokens: policies.log_prob(scorer, prompt, tokens)
        scored = jax.vmap(jax.vmap(row, in_axes=(None, 0)))(said.prompt, said.tokens)
        return jnp.where(said.sampled, jnp.abs(scored - said.log_prob), 0)

    own, other = gap(policy.for_decoding()), gap(exact)
    # A last bit that differs may round a key the other way; hardly any does.
    assert float(jnp.mean(own > 1e-5)) < 0.1 and float(own.max()) < 0.1
    assert 1e-4 < float(other.max()) < 0.5
    assert float(jnp.median(other[said.sampled])) > 10 * float(
        jnp.median(own[said.sampled])
    )


@pytest.mark.slow
def test_wide_caches_of_narrow_products_hold_the_same_numbers():
    """So that a CPU need not widen them; the layers are unrolled, too."""
    said = [
        generate(
            transformer(compute_dtype="bfloat16", cache_dtype=cache_dtype),
            count_env(),
            rollout.RolloutConfig(prompts=3, group=4, slots=5),
            key=jr.key(0),
        )
        for cache_dtype in ("bfloat16", "float32")
    ]
    np.testing.assert_array_equal(*(x.tokens for x in said))
    np.testing.assert_allclose(*(x.log_prob for x in said), atol=1e-5)


@pytest.mark.parametrize(
    ("cache_dtype", "compute_dtype"),
    [("float16", "float32"), ("int4", "float32"), ("bfloat16", "float16")],
)
def test_unknown_cache_dtypes_are_refused(cache_dtype, compute_dtype):
    with pytest.raises(ValueError, match=f"Received cache_dtype='{cache_dtype}' with"):
        models.Transformer(
            CONFIGS["llama"],
            compute_dtype=compute_dtype,
            cache_dtype=cache_dtype,
            key=jr.key(0),
        )
