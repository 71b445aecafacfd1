"""Blocks that nobody sees are not computed: counts, not times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax.models.attention import block_mask


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.sampled_from([1, 3, 64, 65, 200]),
    columns=st.sampled_from([1, 64, 129, 300]),
    density=st.sampled_from([0.0, 0.001, 0.02, 0.6]),
    shared=st.booleans(),
)
def test_every_visible_column_is_visited_once(seed, tokens, columns, density, shared):
    rows = 1 if shared else tokens
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    found = block_mask(jnp.asarray(mask), tokens)
    height = min(found.size.tokens, tokens)
    seen = np.zeros((-(-tokens // height) * height, columns), int)

    def add(start, part, carry):
        rows, total = carry
        here = jax.lax.dynamic_slice_in_dim(total, start, part.shape[1], axis=1)
        more = jnp.broadcast_to(part, (height, part.shape[1])).astype(int)
        return rows, jax.lax.dynamic_update_slice_in_dim(
            total, here + more, start, axis=1
        )

    for block in range(len(seen) // height):
        start = jnp.asarray(block), jnp.zeros((height, columns), int)
        _, total = found.fold(start[0], add, start)
        seen[block * height : (block + 1) * height] += np.asarray(total)
    wanted = np.broadcast_to(mask, (tokens, columns))
    np.testing.assert_array_equal(seen[:tokens], wanted)


def visited(found) -> int:
    return int(jnp.sum(found.count))


@pytest.mark.parametrize("length", [20, 64, 300])
def test_packed_sequences_cost_their_own_length(length):
    """A sequence of 64 tokens sees two blocks of 64, not those before it."""
    tokens = 1200
    sequence = jnp.arange(tokens) // length
    position = jnp.arange(tokens)
    causal = position[:, None] >= position[None]
    mask = causal & (sequence[:, None] == sequence[None])
    found = block_mask(mask, tokens)
    # The blocks of a sequence, up to one more where it begins and where it ends.
    most = -(-tokens // 64) * (length // 64 + 2)
    assert visited(found) <= most
    everything = block_mask(causal, tokens)
    assert visited(everything) == sum(range(1, -(-tokens // 64) + 1))


def test_one_loop_serves_a_batch():
    """Under `vmap` a block is visited if any member sees it, by all of them."""
    masks = jnp.zeros((3, 1, 512), bool).at[0, 0, 5].set(True).at[2, 0, 400].set(True)

    def one(mask):
        found = block_mask(mask, 1)
        return found.blocks, found.count

    every = jax.vmap(one, out_axes=None)
    blocks, count = every(masks)
    assert int(count[0]) == 2
    np.testing.assert_array_equal(blocks[0, :2], [0, 6])
    _, count = jax.vmap(every, out_axes=None)(masks[:, None])
    assert int(count[0]) == 2
