"""How a CPU decodes: matrices and keys in tiles, which are the same numbers."""

import dataclasses
import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import models, policy as policies
from grpojax.models.attention import (
    attend,
    block_mask,
    KVCache,
    quantize_cache,
    Source,
    write_cache,
)
from grpojax.models.matrix import (
    as_matrix,
    from_tiles,
    product,
    TiledMatrix,
    to_int8,
    to_tiles,
)
from grpojax.policy import Past
from tests.helpers import mostly_slow


CONFIG = models.TransformerConfig(
    vocab_size=192,
    hidden_size=192,
    intermediate_size=256,
    num_layers=2,
    num_heads=3,
    num_kv_heads=1,
    head_dim=64,
    tied=True,
)
WIDE = {"query", "output", "gate", "up", "down"}  # Keys and values have 64 outputs.
COLUMNS = 192

tile = lambda matrix: as_matrix(matrix).tiled()
normal = lambda seed, *shape: jr.normal(jr.key(seed), shape)
has_tiles = lambda cache: isinstance(cache.keys, TiledMatrix)
close = ft.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows", [(), (5,), (2, 3), (40,)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_with_tiles_is_that_with_their_matrix(rows, dtype):
    """Forward and backward, under any `vmap`; many rows untile the weight."""
    x, weight, pull = (
        normal(0, *rows, 1, 48),
        normal(1, 48, 24),
        normal(2, *rows, 1, 24),
    )
    tiles = to_tiles(weight, 8)
    assert tiles.shape == (3, 48, 8)
    np.testing.assert_array_equal(from_tiles(tiles), weight)

    def total(x, weight):
        one = lambda x: product(x, weight, dtype)
        for _ in rows:
            one = jax.vmap(one)
        return jnp.sum(one(x) * pull), one(x)

    grad = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (_, wanted), (of_x, of_weight) = grad(x, weight)
    (_, found), (same_x, of_tiles) = grad(x, tiles)
    close(found, wanted)
    close(same_x, of_x)
    close(from_tiles(of_tiles), of_weight)


def test_wide_matrices_are_tiled():
    wide, narrow = normal(0, 3, 8, 256), normal(0, 8, 128)
    matrix = tile(wide)
    assert isinstance(matrix, TiledMatrix) and matrix.tiles.shape == (3, 4, 8, 64)
    np.testing.assert_array_equal(matrix.dense("float32"), wide)
    assert tile(narrow) is narrow and tile(matrix) is matrix
    uneven, eighths = normal(0, 8, 200), to_int8(wide)
    assert tile(uneven) is uneven and tile(eighths) is eighths
    adapted = models.LowRankMatrix(wide[0], normal(1, 8, 2), normal(2, 2, 256), 4.0)
    x = normal(3, 5, 8)
    found = tile(adapted)
    assert isinstance(found, models.LowRankMatrix)
    assert isinstance(found.base, TiledMatrix)
    close(found.multiply(x, "float32"), adapted.multiply(x, "float32"))


def of_stacks(decoder) -> set[str]:
    projections = decoder.stacks[0].projections
    return {name for name, x in projections.items() if isinstance(x, TiledMatrix)}


@pytest.mark.parametrize(
    "rows, wanted, head",
    mostly_slow(
        [
            (1, WIDE, True),
            (16, WIDE, True),
            (17, {"gate", "up", "down"}, False),
            (32, {"gate", "up", "down"}, False),
            (33, set(), False),
            (None, set(), False),
        ],
        fast=[
            (16, WIDE, True),
            (32, {"gate", "up", "down"}, False),
            (33, set(), False),
        ],
    ),
)
def test_fewer_rows_have_more_tiled_matrices(rows, wanted, head):
    """And a tied head an array of its own."""
    policy = models.Transformer(CONFIG, key=jr.key(0))
    decoder = policy.for_decoding(rows)
    assert of_stacks(decoder) == wanted
    assert isinstance(decoder.head, TiledMatrix) == head
    of_head = as_matrix(decoder.head).dense("float32")
    np.testing.assert_array_equal(of_head, policy.embedding.T)
    tokens = jnp.arange(7)

    @eqx.filter_jit
    def logits(policy):
        hidden, _ = jax.vmap(lambda x: policy.extend(x[None], x[None]))(tokens)
        return policy.logits(hidden)

    close(logits(decoder), logits(policy))


def test_16_bit_matrices_are_not_tiled():
    policy = models.Transformer(CONFIG, compute_dtype="bfloat16", key=jr.key(0))
    assert of_stacks(policy.for_decoding(8)) == set()


@pytest.mark.slow
def test_a_conversation_across_tiles():
    """Of keys: chunks that fill a part of one, several, and one column each."""
    policy = models.Transformer(CONFIG, key=jr.key(0))
    decoder = policy.for_decoding(8)
    tokens = jr.randint(jr.key(1), (COLUMNS,), 0, CONFIG.vocab_size)
    extend = eqx.filter_jit(lambda policy, *x: policy.extend(*x))
    cache, column, found = policies.empty_cache(decoder, COLUMNS), 0, []
    assert all(map(has_tiles, cache))
    put = eqx.filter_jit(lambda *x: decoder.write(*x))
    for size in (50, 1, 64, 12, 1, 1, 63):
        part = slice(column, column + size)
        seen = jnp.broadcast_to(jnp.arange(COLUMNS) < column, (size, COLUMNS))
        position = jnp.arange(column, column + size)
        hidden, own = extend(decoder, tokens[part], position, Past(cache, seen))
        cache, column = put(cache, own, jnp.asarray(column)), column + size
        found.append(hidden)
    assert column == COLUMNS
    wanted, _ = extend(policy, tokens, jnp.arange(COLUMNS))
    close(jnp.concatenate(found), wanted)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_keys_are_written_where_they_belong(data):
    """With a tiled or plain cache, and a tiled or plain chunk."""
    columns = data.draw(st.sampled_from([100, 128, 192]))
    size = data.draw(st.sampled_from([1, 3, 64, 100]))
    column = data.draw(st.integers(0, columns - size))
    make = lambda seed, n: KVCache(normal(seed, 2, 4, n), normal(seed + 1, 2, n, 4))
    whole, chunk = make(0, columns), make(2, size)
    kept, fresh = quantize_cache(whole, "float32"), quantize_cache(chunk, "float32")
    assert has_tiles(kept) == (columns % 64 == 0)
    written = write_cache(kept, fresh, column)
    plain = write_cache(whole, chunk, column)
    assert has_tiles(written) == has_tiles(kept)
    keys = from_tiles(written.keys.tiles) if has_tiles(written) else written.keys
    np.testing.assert_array_equal(keys, plain.keys)
    np.testing.assert_array_equal(written.values, plain.values)
    query, seen = normal(5, 1, 4, 4), jnp.arange(columns)[None] <= column
    found, wanted = (
        attend(query, [Source(x, block_mask(seen, 1))], "float32")
        for x in (written, plain)
    )
    close(found, wanted)


def test_other_caches_are_not_tiled():
    cache = KVCache(normal(0, 2, 4, 128), normal(1, 2, 128, 4))
    for dtype in ("bfloat16", "int8"):
        assert not has_tiles(quantize_cache(cache, dtype))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is about CPUs")
def test_no_16_bit_stack_of_weights_is_converted_to_float32():
    """XLA would convert it to float32, and each layer that a scan slices back."""
    config = dataclasses.replace(CONFIG, num_layers=3)
    policy = models.Transformer(config, compute_dtype="bfloat16", key=jr.key(0))
    decoder = policy.for_decoding()
    assert len(decoder.stacks) == 1

    @jax.jit
    def tokens_later(decoder, tokens):
        def step(_, token):
            return decoder.extend(token[None], jnp.arange(1))[0], None

        return jax.lax.scan(step, jnp.zeros((1, config.hidden_size)), tokens)[0]

    text = tokens_later.lower(decoder, jnp.arange(4)).compile().as_text()
    shape = f"[3,{config.hidden_size},{config.intermediate_size}]"
    assert f"u16{shape}" in text and f"f32{shape}" not in text
