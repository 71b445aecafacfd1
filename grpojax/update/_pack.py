"""Packing: rows of different lengths, laid end to end so that padding costs nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


class Packing(eqx.Module):
    """Where rows stand in streams of one width, each of which holds one prompt's rows.

    There are as many streams as rows, each as wide as the longest row may be, and the
    first `used` hold all there is.

    **Fields:**

    - `stream`: in which one each row stands.
    - `start`: from which column on.
    - `owner`: whose rows a stream holds.
    - `source`: which token stands at a column, as an index of all tokens; -1 for none.
    - `used`: how many streams hold anything.
    """

    stream: Int[Array, "prompt group"]
    start: Int[Array, "prompt group"]
    owner: Int[Array, " stream"]
    source: Int[Array, "stream time"]
    used: Int[Array, ""]

    @property
    def position(self) -> Int[Array, "stream time"]:
        """Each column's position in its own row, 0 where there is none."""
        return jnp.maximum(self.source, 0) % self.source.shape[-1]


def pack(lengths: Int[Array, "prompt group"], time: int) -> Packing:
    """Lays rows into streams, a prompt's longest first, each where it first fits.

    First-fit decreasing needs at most 11/9 of the fewest streams possible, and one, for
    each prompt. An empty row takes no room.
    """
    prompts, group = lengths.shape
    stream, start = jax.vmap(lambda lengths: _first_fit(lengths, time))(lengths)
    held = jnp.max(jnp.where(lengths > 0, stream + 1, 0), axis=1)
    ends = jnp.cumsum(held)
    stream = stream + (ends - held)[:, None]
    position = jnp.arange(time)
    column = jnp.where(position < lengths[..., None], start[..., None] + position, time)
    rows = prompts * group
    token = jnp.arange(rows * time, dtype=jnp.int32).reshape(prompts, group, time)
    source = jnp.full((rows, time), -1, jnp.int32)
    source = source.at[stream[..., None], column].set(token, mode="drop")
    owner = jnp.searchsorted(ends, jnp.arange(rows), side="right")
    owner = jnp.minimum(owner, prompts - 1).astype(jnp.int32)
    return Packing(stream, start, owner, source, ends[-1])


def _first_fit(
    lengths: Int[Array, " group"], time: int
) -> tuple[Int[Array, " group"], Int[Array, " group"]]:
    """The stream and the start of each row of one prompt."""
    order = jnp.argsort(lengths, descending=True)

    def place(free, length):
        stream = jnp.argmax(free >= length)
        return free.at[stream].add(-length), (stream, time - free[stream])

    _, placed = jax.lax.scan(place, jnp.full(lengths.shape[0], time), lengths[order])
    back = jnp.argsort(order)
    stream, start = (x[back].astype(jnp.int32) for x in placed)
    return stream, start


def to_streams(
    rows: Shaped[Array, "prompt group time"], source: Int[Array, "stream time"]
) -> Shaped[Array, "stream time"]:
    """What stands at each column; 0 where nothing does."""
    return jnp.where(source >= 0, rows.reshape(-1)[jnp.maximum(source, 0)], 0)


def to_rows(
    streams: Shaped[Array, "stream time"],
    packing: Packing,
    first: Int[Array, ""],
) -> tuple[Shaped[Array, "prompt group time"], Bool[Array, "prompt group"]]:
    """The rows that stand in streams `first`, `first + 1` ...; and which ones do.

    What is past a row's end, and rows that stand elsewhere, hold arbitrary values.
    """
    count, time = streams.shape
    stream = packing.stream - first
    here = (stream >= 0) & (stream < count)
    column = jnp.minimum(packing.start[..., None] + jnp.arange(time), time - 1)
    return streams[jnp.clip(stream, 0, count - 1)[..., None], column], here
