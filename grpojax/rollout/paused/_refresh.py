"""Caches of a rollout under way, computed again: with another policy, or other rows."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._engine import Engine
from .._state import DecodeState
from ..cache import block_columns, SlotCache


def is_answered(state: DecodeState) -> Bool[Array, ""]:
    """Whether rows that waited may go on."""
    waiting = state.waiting
    return jnp.zeros((), bool) if waiting is None else jnp.any(waiting.answered)


def resume(engine: Engine, state: DecodeState) -> DecodeState:
    """The state with answered rows in idle slots, the ones that waited longest first.

    Their caches are not those of their rows: `refresh` computes them.
    """
    waiting, slots = state.waiting, state.slots
    if waiting is None:
        return state
    if engine.refills:
        none = jnp.iinfo(jnp.int32).max
        first = jnp.argsort(jnp.where(waiting.answered, waiting.order, none))
        idle = slots.row >= engine.num_rows
        rank = jnp.cumsum(idle, dtype=jnp.int32) - 1
        chosen = idle & (rank < jnp.sum(waiting.answered))
        row = jnp.where(chosen, first[rank], slots.row).astype(jnp.int32)
    else:  # A slot has one row, beside the others of its group.
        chosen, row = waiting.answered, jnp.arange(engine.num_rows, dtype=jnp.int32)
        row = jnp.where(chosen, row, slots.row)
    known = jnp.minimum(row, engine.num_rows - 1)
    age = waiting.age[known]
    pick = lambda new, old: jnp.where(chosen, new, old)
    slots = dataclasses.replace(
        slots.begin(chosen, row, state.completions.tokens[known, age - 1]),
        age=pick(age, slots.age),
        turn=pick(waiting.turn[known], slots.turn),
        turn_start=pick(age, slots.turn_start),
        reply_start=pick(age, slots.reply_start),
    )
    place = jnp.where(chosen, row, engine.num_rows)
    waiting = dataclasses.replace(
        waiting,
        order=waiting.order.at[place].set(-1, mode="drop"),
        answered=waiting.answered.at[place].set(False, mode="drop"),
    )
    cache = state.cache.with_own_pages()
    return dataclasses.replace(state, slots=slots, waiting=waiting, cache=cache)


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
