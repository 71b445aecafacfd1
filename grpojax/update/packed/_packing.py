"""Sequence packing: tokens end to end in microbatches, so that padding costs nothing.

A microbatch is one sequence of a fixed number of tokens, with completions of any
prompts. A completion that is longer is split: its first chunks fill microbatches of
their own, and its last chunk is packed like any other completion.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from ...sharding import spmd
from ...types import Prompt


class Packing(eqx.Module):
    """Assignment of rows to microbatches of `size` tokens.

    **Fields:**

    - `microbatch`: the microbatch of each row's last chunk.
    - `start`: that chunk's first column in it.
    - `before`: how many of the row's tokens are in earlier chunks, a multiple of
        `size`; 0 for a row that is not split.
    - `source`: the token at each column, as an index of all tokens; -1 for none.
    - `split_row`: the split row whose last chunk a microbatch holds; -1 for none.
    - `used`: how many microbatches hold all rows; at least 1.
    """

    microbatch: Int[Array, "*shard row"]
    start: Int[Array, "*shard row"]
    before: Int[Array, "*shard row"]
    source: Int[Array, "*shard microbatch size"]
    split_row: Int[Array, "*shard microbatch"]
    used: Int[Array, "*shard"]


def pack(lengths: Int[Array, " row"], size: int, time: int) -> Packing:
    """First-fit decreasing packing of rows.

    It needs at most 11/9 of the fewest microbatches possible, and one (Dósa, 2007). A
    microbatch holds the last chunk of at most one split row; its rows are in order, so
    that those of a prompt are side by side.

    **Arguments:**

    - `lengths`: of the rows, tokens.
    - `size`: of a microbatch, tokens.
    - `time`: the largest length possible.
    """
    rows = lengths.shape[0]
    lengths = lengths.astype(jnp.int32)
    before = jnp.maximum(-(-lengths // size) - 1, 0) * size
    rest = lengths - before

    def place(free, row):
        # The longest come first, so split rows find empty microbatches only.
        needed = jnp.where(before[row] > 0, size, rest[row])
        microbatch = jnp.argmax(free >= needed).astype(jnp.int32)
        return free.at[microbatch].add(-rest[row]), microbatch

    # Of the microbatches at most one is not half full.
    most = rows if time > size else min(rows, 2 * -(-rows * time // size) + 1)
    order = jnp.argsort(lengths, descending=True)
    _, placed = jax.lax.scan(place, jnp.full(most, size, jnp.int32), order)
    microbatch = jnp.zeros(rows, jnp.int32).at[order].set(placed)
    row = jnp.arange(rows, dtype=jnp.int32)
    side_by_side = jnp.lexsort((row, before == 0, microbatch))
    ends = jnp.cumsum(rest[side_by_side])
    begins = ends - rest[side_by_side]
    first = jnp.searchsorted(microbatch[side_by_side], microbatch[side_by_side])
    start = jnp.zeros(rows, jnp.int32).at[side_by_side].set(begins - begins[first])
    offset = jnp.arange(min(size, time), dtype=jnp.int32)
    column = jnp.where(offset < rest[:, None], start[:, None] + offset, size)
    token = row[:, None] * time + before[:, None] + offset
    source = jnp.full((most, size), -1, jnp.int32)
    source = source.at[microbatch[:, None], column].set(token, mode="drop")
    split_row = jnp.full(most, -1, jnp.int32)
    split_row = split_row.at[microbatch].max(jnp.where(before > 0, row, -1))
    used = jnp.max(jnp.where(lengths > 0, microbatch + 1, 1))
    return Packing(microbatch, start, before, source, split_row, used)


def to_rows(
    columns: Shaped[Array, " size"],
    earlier: Shaped[Array, " column"] | None,
    packing: Packing,
    microbatch: Int[Array, ""],
    shape: tuple[int, int, int],
) -> tuple[Shaped[Array, "prompt group time"], Bool[Array, "prompt group"]]:
    """Gathers a microbatch's columns into rows, and says which rows end in it.

    Columns past a row's end, and rows of other microbatches, hold arbitrary values.

    **Arguments:**

    - `columns`: the values.
    - `earlier`: values of the split row's earlier chunks, if there is one.
    - `packing`, `microbatch`: which rows are in it, and where.
    - `shape`: of the rows.
    """
    position = jnp.arange(shape[2], dtype=jnp.int32)
    column = packing.start[:, None] + position - packing.before[:, None]
    values = columns[jnp.clip(column, 0, columns.shape[0] - 1)]
    if earlier is not None:
        is_earlier = position < packing.before[:, None]
        earlier = jnp.pad(earlier, (0, shape[2] - earlier.shape[0]))
        values = jnp.where(is_earlier, earlier[None], values)
    included = packing.microbatch == microbatch
    return values.reshape(shape), included.reshape(shape[:2])


class PackedPrompts(eqx.Module):
    """Prompts end to end, without their last tokens, in chunks of a fixed size.

    **Fields:**

    - `owner`: the prompt at each column; -1 for none.
    - `position`: the token's position in its prompt.
    - `used`: how many chunks hold all of them.
    """

    owner: Int[Array, "*shard chunk size"]
    position: Int[Array, "*shard chunk size"]
    used: Int[Array, "*shard"]


def pack_prompts(prompt: Prompt, size: int) -> PackedPrompts:
    """Packs prompts in their order; one may begin in a chunk and end in the next.

    **Arguments:**

    - `prompt`: `Prompt[prompt prefix]`.
    - `size`: of a microbatch, tokens. If prompts might need more than one, a chunk is
        half of it: the last one is half empty on average.
    """
    prompts, width = prompt.tokens.shape
    most = max(prompts * (width - 1), 1)
    size = size if most <= size else max(size // 2, 1)
    chunks = -(-most // size)
    size = size if chunks > 1 else most
    lengths = prompt.length.astype(jnp.int32) - 1
    ends = jnp.cumsum(lengths)
    column = jnp.arange(chunks * size, dtype=jnp.int32)
    owner = jnp.searchsorted(ends, column, side="right").astype(jnp.int32)
    begins = (ends - lengths)[jnp.minimum(owner, prompts - 1)]
    owner = jnp.where(owner < prompts, owner, -1)
    position = jnp.where(owner >= 0, column - begins, 0)
    split = lambda x: x.reshape(chunks, size)
    return PackedPrompts(split(owner), split(position), -(-ends[-1] // size))


def balance_tokens(
    mask: Bool[Array, "prompt group time"], tree: PyTree[Array, " T"]
) -> tuple[PyTree[Array, " T"], Callable]:
    """Permutes prompts to balance token counts across data shards.

    A gradient is a sum over prompts, wherever they are, and takes as long as the shard
    with the most tokens. Greedy longest-first bin packing: the prompt with the most
    tokens goes first, each to the shard with the fewest tokens that has room.

    **Arguments:**

    - `mask`: the tokens that count.
    - `tree`: arrays with a leading axis of prompts.

    **Returns:** the tree in that order, and a function that restores the order.
    """
    shards, prompts = spmd.shards(), mask.shape[0]
    if shards in (1, prompts):
        return tree, lambda tree: tree
    room = prompts // shards

    def place(bins, tokens):
        held, count = bins
        chosen = jnp.argmin(jnp.where(count < room, held, jnp.iinfo(held.dtype).max))
        bins = held.at[chosen].add(tokens), count.at[chosen].add(1)
        return bins, (chosen, count[chosen])

    tokens = jnp.sum(mask, axis=(1, 2), dtype=jnp.int32)
    longest = jnp.argsort(tokens, descending=True)
    empty = jnp.zeros(shards, jnp.int32)
    _, (shard, number) = jax.lax.scan(place, (empty, empty), tokens[longest])
    target = shard * room + number
    order = jnp.zeros(prompts, jnp.int32).at[target].set(longest.astype(jnp.int32))
    inverse = jnp.argsort(order)
    balanced = spmd.permute_batch(tree, order)
    return balanced, lambda tree: spmd.permute_batch(tree, inverse)
