"""Decoding with windows: how many columns a layer reads, and that those are right."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import models
from grpojax.models.transformer._layers import masks_and_angles
from grpojax.policy import Past
from grpojax.rollout.cache import SlotCache, SlotColumns
from grpojax.rollout.cache._prefill import PromptCache

from ..helpers import transformer


BLOCK, RING, WIDTH = 64, 128, 1024
WINDOWED = models.LayerKind(200, models.Rope())


def config_of(*layers: models.LayerKind) -> models.TransformerConfig:
    return models.TransformerConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_layers=len(layers),
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        layers=layers,
    )


def caches_of(time, iteration, ages, lengths):
    """Caches of nothing but positions, each slot with pages of its own."""
    slots = len(ages)
    columns = SlotColumns.of(time, slots)
    first = iteration - ages
    written = np.arange(columns.recent)
    written = iteration - 1 - (iteration - 1 - written) % columns.recent
    recent = lengths[:, None] - 1 + written - first[:, None]
    column = np.arange(columns.pages * BLOCK)
    older = lengths[:, None] - 1 + column - first[:, None] % BLOCK
    prompts = np.broadcast_to(np.arange(WIDTH), (slots, WIDTH))
    real = lambda x: jnp.asarray(x, jnp.float32)[None]
    pool = real(older.reshape(-1, BLOCK))
    pages = jnp.zeros((slots, columns.pages), jnp.int32)
    cache = SlotCache((real(recent),), (pool,), pages, columns)
    context = PromptCache((real(prompts)[..., :RING],), (real(prompts),), WIDTH)
    return cache.with_own_pages(), context


@ft.partial(jax.jit, static_argnames="window")
def counts(cache, context, iteration, ages, lengths, window):
    kinds = [models.LayerKind(window, models.Rope()), models.LayerKind(None)]
    config = config_of(*kinds)
    decoder = transformer("llama").for_decoding()

    def one(number, age, length, seen, pages, recent, first):
        past = context.past(first, number, length - 1)
        past += cache.past(decoder, recent, seen, pages)
        position = (length - 1 + age)[None]
        of_kinds = masks_and_angles(config, position, tuple(past), None)
        return [[x.count[0] * x.width for x in y[:-1]] for _, y in of_kinds]

    every = jax.vmap(one, (0, 0, 0, 0, 0, 1, 1), out_axes=None)
    slots = jnp.arange(len(ages), dtype=jnp.int32), ages, lengths
    caches = cache.pages, cache.recent, context.first
    return every(*slots, cache.seen(iteration, ages), *caches)


def reads(iteration, ages, lengths, window):
    """Columns that layers with and without a window read for each slot.

    Those are of a prompt's first columns, its pages, pages of the row, and the ring.
    """
    where = iteration, np.asarray(ages, np.int32), np.asarray(lengths, np.int32)
    caches = caches_of(4096, *where)
    return np.asarray(counts(*caches, *map(jnp.asarray, where), window))


@pytest.mark.parametrize("window", [1, 200, 512])
def test_a_windowed_layer_reads_its_window_and_not_the_row(window):
    """Of each kind of columns; however different the ages of the rows are."""
    draw = np.random.default_rng(window)
    most = (-(-window // BLOCK) + 1) * BLOCK  # A window begins and ends in a block.
    for _ in range(10):
        ages = draw.integers(0, 4000, 5)
        lengths = draw.integers(1, WIDTH, 5)
        iteration = int(ages.max() + draw.integers(0, 500))
        windowed, full = reads(iteration, ages, lengths, window)
        assert (windowed <= full).all()
        assert windowed[0] <= RING and windowed[3] <= RING
        assert windowed[1] <= most and windowed[2] <= most


def test_a_window_that_has_left_the_prompt_reads_none_of_it():
    ages, lengths = [900, 2000, 3500], [700, 60, 300]
    windowed, full = reads(4000, ages, lengths, 512)
    assert list(windowed[:2]) == [0, 0]
    assert sum(windowed) <= 512 + 2 * BLOCK + RING
    assert sum(full) > 3500


def test_what_a_window_does_not_reach_is_never_multiplied():
    """Numbers outside of a window's blocks may be NaN, and change no bit."""
    policy = models.Transformer(config_of(WINDOWED), key=jr.key(0))
    decoder = policy.for_decoding()
    length, window = 600, 200
    ends = np.array([250, 570])  # Whose windows are in equally many blocks.
    tokens = jr.randint(jr.key(1), (length,), 0, 50)
    hidden, cache = jax.jit(lambda x: decoder.extend(x, jnp.arange(length)))(tokens)
    pages = jnp.arange(-(-length // BLOCK), dtype=jnp.int32)
    pad = lambda x, axis: jnp.pad(
        x, [(0, -x.shape[i] % BLOCK * (i == axis)) for i in range(x.ndim)]
    )

    def paged(x):
        """With columns, the axis that is as long as the text, in pages on axis 1."""
        axis = x.shape.index(length)
        x = pad(x, axis)
        x = x.reshape(*x.shape[:axis], -1, BLOCK, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 1)

    pool = jax.tree.map(paged, cache)
    column = np.arange(len(pages) * BLOCK)

    @jax.jit
    def decode(pool, ends):
        def one(end):
            past = Past(pool, (column < end)[None], pages)
            return decoder.extend(tokens[end][None], end[None], past)[0][0]

        return jax.vmap(one)(ends)

    found = decode(pool, jnp.asarray(ends))
    np.testing.assert_allclose(found, hidden[ends], atol=1e-5)
    for one, end in enumerate(ends):
        block = np.arange(len(pages))
        inside = (block >= (end - window + 1) // BLOCK) & (block <= (end - 1) // BLOCK)
        spoil = lambda x, inside=inside: x.at[:, ~inside].set(jnp.nan)
        *stacks, positions = pool
        spoiled = (*jax.tree.map(spoil, stacks), positions)
        again = decode(spoiled, jnp.asarray(ends))[one]
        np.testing.assert_array_equal(again, found[one])
