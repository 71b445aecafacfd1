"""Packing: rows of different lengths, laid end to end so that padding costs nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


class Packing(eqx.Module):
    """Where one prompt's rows stand in streams of one width.

    There are as many streams as rows, each as wide as the longest row may be, and the
    first `used` hold all there is.

    **Fields:**

    - `stream`: in which one each row stands.
    - `start`: from which column on.
    - `source`: which token stands at a column, row · time + position; -1 for none.
    """

    stream: Int[Array, "*prompt group"]
    start: Int[Array, "*prompt group"]
    source: Int[Array, "*prompt group time"]

    @property
    def used(self) -> Int[Array, "*prompt"]:
        return 1 + jnp.max(self.stream, axis=-1)

    @property
    def position(self) -> Int[Array, "*prompt group time"]:
        """Each column's position in its own row, 0 where there is none."""
        return jnp.maximum(self.source, 0) % self.source.shape[-1]


def pack(lengths: Int[Array, " group"], time: int) -> Packing:
    """Lays rows into streams, the longest first, each where it first fits.

    First-fit decreasing needs at most 11/9 of the fewest streams possible, and one.
    An empty row takes no room.
    """
    group = lengths.shape[0]
    order = jnp.argsort(lengths, descending=True)

    def place(free, length):
        stream = jnp.argmax(free >= length)
        return free.at[stream].add(-length), (stream, time - free[stream])

    _, placed = jax.lax.scan(place, jnp.full(group, time), lengths[order])
    back = jnp.argsort(order)
    stream, start = (x[back].astype(jnp.int32) for x in placed)
    position = jnp.arange(time)
    column = jnp.where(position < lengths[:, None], start[:, None] + position, time)
    token = jnp.arange(group * time, dtype=jnp.int32).reshape(group, time)
    source = jnp.full((group, time), -1, jnp.int32)
    source = source.at[stream[:, None], column].set(token, mode="drop")
    return Packing(stream, start, source)


def to_streams(
    rows: Shaped[Array, "group time"], source: Int[Array, "stream time"]
) -> Shaped[Array, "stream time"]:
    """What stands at each column; 0 where nothing does."""
    return jnp.where(source >= 0, rows.reshape(-1)[jnp.maximum(source, 0)], 0)


def to_rows(
    streams: Shaped[Array, "stream time"],
    packing: Packing,
    first: Int[Array, ""],
) -> tuple[Shaped[Array, "group time"], Bool[Array, " group"]]:
    """The rows that stand in streams `first`, `first + 1` ...; and which ones do.

    What is past a row's end, and rows that stand elsewhere, hold arbitrary values.
    """
    count, time = streams.shape
    stream = packing.stream - first
    here = (stream >= 0) & (stream < count)
    column = jnp.minimum(packing.start[:, None] + jnp.arange(time), time - 1)
    return streams[jnp.clip(stream, 0, count - 1)[:, None], column], here
