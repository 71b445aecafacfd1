"""Sequence packing: completions end to end in streams, so that padding costs nothing.

A stream is a sequence as wide as the horizon that holds completions of one prompt.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from ..sharding import spmd


class Packing(eqx.Module):
    """Assignment of rows to streams of one width.

    There are as many streams as rows, each as wide as the horizon; the first `used` of
    them hold all rows.

    **Fields:**

    - `stream`: the stream of each row.
    - `start`: the row's first column in it.
    - `owner`: the prompt whose rows a stream holds.
    - `source`: the token at each column, as an index of all tokens; -1 for none.
    - `used`: how many streams hold a row.
    """

    stream: Int[Array, "prompt group"]
    start: Int[Array, "prompt group"]
    owner: Int[Array, " stream"]
    source: Int[Array, "stream time"]
    used: Int[Array, ""]

    @property
    def position(self) -> Int[Array, "stream time"]:
        """Position of each column's token in its own row; 0 where there is none."""
        return jnp.maximum(self.source, 0) % self.source.shape[-1]


def pack(lengths: Int[Array, "prompt group"], time: int) -> Packing:
    """First-fit decreasing packing of each prompt's rows into streams.

    It needs at most 11/9 of the fewest streams possible, and one, for each prompt. An
    empty row takes no columns.

    **Arguments:**

    - `lengths`: of the rows, tokens.
    - `time`: width of the streams.
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
    """Stream and start of each row of one prompt."""
    order = jnp.argsort(lengths, descending=True)

    def place(free, length):
        stream = jnp.argmax(free >= length)
        return free.at[stream].add(-length), (stream, time - free[stream])

    _, placed = jax.lax.scan(place, jnp.full(lengths.shape[0], time), lengths[order])
    inverse = jnp.argsort(order)
    stream, start = (x[inverse].astype(jnp.int32) for x in placed)
    return stream, start


def to_streams(
    rows: Shaped[Array, "prompt group time"], source: Int[Array, "stream time"]
) -> Shaped[Array, "stream time"]:
    """Gathers rows into streams; 0 where a stream has no token."""
    return jnp.where(source >= 0, rows.reshape(-1)[jnp.maximum(source, 0)], 0)


def to_rows(
    streams: Shaped[Array, "stream time"],
    packing: Packing,
    first: Int[Array, ""],
) -> tuple[Shaped[Array, "prompt group time"], Bool[Array, "prompt group"]]:
    """Gathers streams back into rows, and says which rows are in them.

    Columns past a row's end, and rows of other streams, hold arbitrary values.

    **Arguments:**

    - `streams`: values of streams `first`, `first + 1` ...
    - `packing`: of all streams.
    - `first`: index of the first stream.
    """
    count, time = streams.shape
    stream = packing.stream - first
    included = (stream >= 0) & (stream < count)
    column = jnp.minimum(packing.start[..., None] + jnp.arange(time), time - 1)
    return streams[jnp.clip(stream, 0, count - 1)[..., None], column], included


def balance_tokens(
    mask: Bool[Array, "prompt group time"],
    prompt_chunks: int,
    tree: PyTree[Array, " T"],
) -> tuple[PyTree[Array, " T"], Callable]:
    """Permutes prompts to balance token counts across data shards.

    A gradient is a sum over prompts, wherever they are, and takes as long as the shard
    with the most tokens. Greedy longest-first bin packing: the prompt with the most
    tokens goes first, each to the bin with the fewest tokens that has room, where every
    chunk of every shard is a bin for its share of the prompts.

    **Arguments:**

    - `mask`: the tokens that count.
    - `prompt_chunks`: into how many chunks a shard's prompts are split.
    - `tree`: arrays with a leading axis of prompts.

    **Returns:** the tree in that order, and a function that restores the order.
    """
    shards, prompts = spmd.shards(), mask.shape[0]
    if shards in (1, prompts):
        return tree, lambda tree: tree
    room = prompts // (shards * prompt_chunks)

    def place(bins, tokens):
        held, count = bins
        chosen = jnp.argmin(jnp.where(count < room, held, jnp.iinfo(held.dtype).max))
        bins = held.at[chosen].add(tokens), count.at[chosen].add(1)
        return bins, (chosen, count[chosen])

    tokens = jnp.sum(mask, axis=(1, 2), dtype=jnp.int32)
    longest = jnp.argsort(tokens, descending=True)
    empty = jnp.zeros(shards * prompt_chunks, jnp.int32)
    _, (chosen, number) = jax.lax.scan(place, (empty, empty), tokens[longest])
    shard, chunk = jnp.divmod(chosen, prompt_chunks)
    target = (shard * room + number) * prompt_chunks + chunk
    order = jnp.zeros(prompts, jnp.int32).at[target].set(longest.astype(jnp.int32))
    inverse = jnp.argsort(order)
    balanced = spmd.permute_batch(tree, order)
    return balanced, lambda tree: spmd.permute_batch(tree, inverse)
