"""The columns of decoding: which they hold, and how many of them are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.models.attention import block_mask
from grpojax.rollout import slot_columns
from grpojax.rollout._blocks import BLOCK
from grpojax.rollout._slot_cache import SlotCache

from ..helpers import transformer


def columns_of(time: int, slots: int = 3) -> SlotCache:
    policy = transformer("llama").for_decoding(slots)
    return SlotCache.empty(policy, time, slots)


@pytest.mark.parametrize("time", [100, 128, 129, 192, 200, 1000])
def test_a_slot_sees_every_token_of_its_row_once(time):
    """Whatever has been overwritten or moved, and however old its neighbors are."""
    cache = columns_of(time)
    seen = jax.jit(lambda iteration, age: cache.seen(iteration, age))
    recent, older = (np.full(size, -1) for size in cache.columns)
    rng = np.random.default_rng(time)
    age = np.zeros(3, np.int32)
    for iteration in range(2 * time + 3 * BLOCK):
        if cache.has_older and iteration % BLOCK == 0:
            start = iteration % len(recent)
            end = (iteration - len(recent)) % len(older)
            older[end : end + BLOCK] = recent[start : start + BLOCK]
        found = seen(jnp.int32(iteration), jnp.asarray(age))
        for slot in range(3):
            read = list(recent[np.asarray(found.recent[slot])])
            if found.older is not None:
                read += list(older[np.asarray(found.older[slot])])
            wanted = range(iteration - age[slot], iteration)
            np.testing.assert_array_equal(sorted(read), wanted)
        recent[iteration % len(recent)] = iteration
        age += 1
        over = (age >= time) | (rng.random(3) < (0.002, 0.02, 0.1))
        age[over] = 0


@pytest.mark.parametrize("time", [512, 8192])
def test_reads_follow_the_oldest_row_and_not_the_horizon(time):
    cache = columns_of(time, slots=2)
    count = jax.vmap(lambda mask: block_mask(mask[None], 1).count, out_axes=None)
    recent = cache.columns[0]
    assert recent == 128
    for iteration in (3, time // 2 + 7, time + 5):
        for oldest in (0, 1, 64, 100, 250, 400):
            found = cache.seen(jnp.int32(iteration), jnp.asarray([oldest, 1]))
            # The ring's first block may be half overwritten: its rest has moved.
            blocks = -(-(oldest - BLOCK) // BLOCK) + 1 if oldest > BLOCK else 0
            assert int(count(found.older)[0]) <= min(blocks, -(-time // BLOCK))
    found = cache.seen(jnp.int32(time + 5), jnp.asarray([time - 1, 3]))
    assert int(count(found.older)[0]) == cache.columns[1] // BLOCK


@pytest.mark.parametrize("time", [1, 64, 128, 129, 192, 193, 1000, 8192])
def test_a_slot_holds_the_horizon_and_at_most_two_blocks_more(time):
    recent, older = slot_columns(time)
    assert (older > 0) == (time > 128)
    assert time <= recent + older < time + 2 * BLOCK
    assert older == 0 or recent == 128 and older % BLOCK == 0
