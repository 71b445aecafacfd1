"""The columns of decoding: which they hold, and how many of them are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax.models.attention import block_mask
from grpojax.rollout.cache import block_columns, SlotCache, SlotColumns

from ..helpers import mostly_slow, transformer


BLOCK = 64


def cache_of(time: int, slots: int = 3, cache_tokens: int | None = None) -> SlotCache:
    policy = transformer("llama").for_decoding(slots)
    columns = SlotColumns.of(time, slots, cache_tokens)
    return SlotCache.empty(policy, slots, columns)


def replayed(time: int, cache_tokens: int | None, rates=(0.002, 0.02, 0.1)):
    """Decodes random rows, and yields what each slot sees, with what it should see.

    Columns hold the iteration that wrote them.
    """
    cache, slots = cache_of(time, 3, cache_tokens), 3
    policy = transformer("llama").for_decoding(slots)
    seen = jax.jit(lambda cache, iteration, age: cache.seen(iteration, age))
    move = jax.jit(lambda cache, *where: cache.move_block(policy, *where))
    recent = np.full(cache.columns.recent, -1)
    pool = np.full((cache.columns.older // BLOCK, BLOCK), -1)
    rng = np.random.default_rng(time)
    age, row = np.zeros(slots, np.int32), np.arange(slots, dtype=np.int32)
    for iteration in range(2 * time + 3 * BLOCK):
        now, restarted = jnp.int32(iteration), np.zeros(slots, bool)
        if cache.has_older and iteration % BLOCK == 0:
            before = np.asarray(cache.pages)
            cache, over = move(cache, now, jnp.asarray(row), jnp.asarray(age))
            restarted = np.asarray(over)
            start = iteration % len(recent)
            for slot, place in zip(*np.nonzero(before != cache.pages), strict=True):
                assert not restarted[slot] and place < cache.columns.pages
            first = iteration - age
            held = (iteration - len(recent) - first // BLOCK * BLOCK) // BLOCK
            for slot in np.nonzero((held >= 0) & ~restarted)[0]:
                page = cache.pages[slot, held[slot]]
                pool[page] = recent[start : start + BLOCK]
        age[restarted] = 0
        found = seen(cache, now, jnp.asarray(age))
        for slot in range(slots):
            read = list(recent[np.asarray(found.recent[slot])])
            if found.older is not None:
                columns = pool[np.asarray(cache.pages[slot])].reshape(-1)
                read += list(columns[np.asarray(found.older[slot])])
            yield sorted(read), list(range(iteration - age[slot], iteration)), restarted
        recent[iteration % len(recent)] = iteration
        age += 1
        over = (age >= time) | (rng.random(slots) < rates)
        row[over] = row.max() + 1 + np.arange(over.sum())
        age[over] = 0


@pytest.mark.parametrize(
    "time", mostly_slow([100, 128, 129, 192, 200, 1000], [128, 129, 200])
)
def test_a_slot_sees_every_token_of_its_row_once(time):
    """Whatever has been overwritten or moved, and however old its neighbors are."""
    for read, wanted, restarted in replayed(time, None):
        assert read == wanted
        assert not restarted.any()


def test_rows_without_a_page_start_again_and_the_others_see_all_of_theirs():
    time = 700
    restarts = 0
    for read, wanted, restarted in replayed(time, 11 * BLOCK, rates=(0.0, 0.0, 0.002)):
        assert read == wanted
        restarts += int(restarted.any())
        assert not restarted.all()
    assert restarts


def test_the_first_rows_are_served_first_and_no_page_is_given_twice():
    time = 1000
    cache = cache_of(time, 4, 16 * BLOCK)
    policy = transformer("llama").for_decoding(4)
    row = jnp.asarray([7, 3, 9, 4], jnp.int32)
    lost, first_loss = [], {}
    age = np.zeros(4, np.int32)
    for iteration in range(0, 960, BLOCK):
        where = jnp.int32(iteration), row, jnp.asarray(age)
        cache, over = cache.move_block(policy, *where)
        for slot in np.nonzero(np.asarray(over))[0]:
            lost.append(int(slot))
            first_loss.setdefault(int(slot), iteration)
            age[slot] = 0
        held = np.maximum(
            (iteration + BLOCK - 128) // BLOCK - (iteration - age) // 64, 0
        )
        given = [
            int(cache.pages[slot, place])
            for slot in range(4)
            for place in range(held[slot])
        ]
        assert len({*given}) == len(given) <= 16
        age += BLOCK
    assert lost and 1 not in lost  # Row 3, the first.
    assert first_loss[2] <= first_loss[0]  # Row 9 before row 7.


@pytest.mark.parametrize("time", [512, 8192])
def test_reads_follow_the_oldest_row_and_not_the_horizon(time):
    cache = cache_of(time, slots=2)
    assert block_columns() == BLOCK
    count = jax.vmap(lambda x: block_mask(x[None], 1, BLOCK).count, out_axes=None)
    assert cache.columns.recent == 128
    for iteration in (3, time // 2 + 7, time + 5):
        for oldest in (0, 1, 64, 100, 250, 400):
            age = min(oldest, iteration)
            found = cache.seen(jnp.int32(iteration), jnp.asarray([age, 1]))
            # The ring's first block may be half overwritten: its rest has moved.
            blocks = -(-(age - BLOCK) // BLOCK) + 1 if age > BLOCK else 0
            assert int(count(found.older)[0]) <= min(blocks, -(-time // BLOCK))
    found = cache.seen(jnp.int32(time + 5), jnp.asarray([time - 1, 3]))
    assert int(count(found.older)[0]) == cache.columns.pages


@pytest.mark.parametrize("time", [1, 64, 128, 129, 192, 193, 1000, 8192])
def test_a_slot_holds_the_horizon_and_at_most_two_blocks_more(time):
    recent, older, pages = SlotColumns.of(time, 5)
    assert (older > 0) == (time > 128)
    assert older == 5 * pages * BLOCK
    assert time <= recent + pages * BLOCK < time + 2 * BLOCK
    assert older == 0 or recent == 128


def test_a_pool_has_the_pages_that_were_asked_for():
    assert SlotColumns.of(1000, 8, 4000).older == 4000 // BLOCK * BLOCK
    # Never more than the slots can fill.
    assert SlotColumns.of(1000, 8, 10**9) == SlotColumns.of(1000, 8)
    assert SlotColumns.of(100, 8, 1).older == 0
    with pytest.raises(ValueError, match="cache_tokens=900 for each shard: raise it"):
        SlotColumns.of(1000, 8, 900)
