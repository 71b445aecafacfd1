"""The caches of a rollout under way, computed again with another policy."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ._engine import Engine
from ._state import DecodeState
from .cache import block_columns, SlotCache


def refresh(engine: Engine, state: DecodeState) -> DecodeState:
    """The state with caches of `engine.policy` for all that was read so far.

    Columns are computed in the order in which they were written, many in all slots at a
    time. Only rows in the slots have any.

    **Arguments:**

    - `engine`: with the policy and its prompts' caches.
    - `state`: with another policy's caches.
    """
    state = dataclasses.replace(state, prompt_cache=engine.prompt_cache(state.slots))
    oldest, block = jnp.max(engine.age(state.slots)), block_columns()
    recent = state.cache.columns.recent
    if state.cache.has_older:
        width = block
        first, last = (state.iteration - oldest) // block, state.iteration // block + 1
        start = lambda chunk: chunk * width
    else:
        # The ring holds all columns of a row: they are placed anew, from its first on.
        width = recent if recent <= 2 * block else block
        end = -(-state.iteration // recent) * recent
        state = dataclasses.replace(state, iteration=end)
        first, last = (recent - oldest) // width, -(-recent // width)
        start = lambda chunk: end - recent + jnp.minimum(chunk * width, recent - width)

    def add(chunk: Int[Array, ""], cache: SlotCache) -> SlotCache:
        now = dataclasses.replace(state, cache=cache)
        return _add_columns(engine, now, start(chunk), width)

    cache = jax.lax.fori_loop(first, last, add, state.cache)
    return dataclasses.replace(state, cache=cache)


def _add_columns(
    engine: Engine, state: DecodeState, start: Int[Array, ""], width: int
) -> SlotCache:
    """The cache with the columns that were written from iteration `start` on."""
    slots, tokens = state.slots, state.completions.tokens
    read = engine.age(slots)
    age = start - (state.iteration - read)  # At `start`; below 0 before the row began.
    cache = state.cache
    if cache.has_older:
        cache = cache.move_again(engine.policy, start, age)
    place = age[:, None] + jnp.arange(width, dtype=jnp.int32)
    inside = (place >= 0) & (place < read[:, None])
    row = jnp.minimum(slots.row, tokens.shape[0] - 1)
    before = jnp.clip(place - 1, 0, tokens.shape[1] - 1)
    before = jnp.take_along_axis(tokens[row], before, axis=1)
    chunk = jnp.where(place == 0, engine.last_token(slots.row)[:, None], before)
    visible = inside[:, None, :] & jnp.tri(width, dtype=bool)
    visible |= jnp.eye(width, dtype=bool)
    _, written = engine.extend(
        dataclasses.replace(state, cache=cache),
        chunk,
        jnp.where(inside, place, 0),
        cache.seen(start, jnp.maximum(age, 0)),
        visible,
    )
    return cache.write(engine.policy, written, start)
