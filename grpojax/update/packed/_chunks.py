"""Chunks of packed tokens, and the forward pass of one of them."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, PyTree

from ...policy import AbstractPolicy, Past
from ...types import Prompt
from ._packing import PackedPrompts, Packing


class Chunk(eqx.Module):
    """Tokens of several sequences side by side, which do not attend to each other.

    **Fields:**

    - `tokens`: token ids to read.
    - `positions`: of each token in its sequence.
    - `targets`: the token that follows each.
    - `owner`: the prompt that each token attends to; -1 for none.
    - `sequence`: which sequence each is a part of; -1 for padding.
    - `earlier`: how many of its sequence's tokens are in earlier chunks.
    """

    tokens: Int[Array, "*shard column"]
    positions: Int[Array, "*shard column"]
    targets: Int[Array, "*shard column"]
    owner: Int[Array, "*shard column"]
    sequence: Int[Array, "*shard column"]
    earlier: Int[Array, "*shard column"]


class Context(eqx.Module):
    """Keys and values of all prompts, side by side.

    **Fields:**

    - `cache`: one column for each token.
    - `owner`: the prompt of each column; -1 for none.
    """

    cache: PyTree
    owner: Int[Array, "*shard column"]


class Window(eqx.Module):
    """Keys and values of a split row's earlier chunks.

    **Fields:**

    - `cache`: one column for each token, in order.
    - `columns`: how many there are.
    """

    cache: PyTree
    columns: int = eqx.field(static=True)


def prompt_chunk(
    prompt: Prompt, packed: PackedPrompts, number: Int[Array, ""]
) -> Chunk:
    """One chunk of the prompts' tokens."""
    owner, position = packed.owner[number], packed.position[number]
    tokens = prompt.tokens[jnp.maximum(owner, 0), position]
    zeros = jnp.zeros_like(owner)
    # A prompt's columns in earlier chunks are a part of the context.
    return Chunk(tokens, position, zeros, owner, owner, zeros)


def completion_chunk(
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    source: Int[Array, " column"],
    size: int,
) -> Chunk:
    """A chunk of completions' tokens.

    The prompt's last token is the first that a completion reads: the output at each
    column predicts the token of that column.

    **Arguments:**

    - `source`: the token at each column, as an index of all tokens; -1 for none.
    - `size`: of a chunk; a longer row is split at the multiples of it.
    """
    _, group, time = tokens.shape
    is_token = source >= 0
    row, position = jnp.divmod(jnp.maximum(source, 0), time)
    owner, flat = row // group, tokens.reshape(-1)
    length = prompt.length[owner].astype(jnp.int32)
    last = prompt.tokens[owner, length - 1]
    read = jnp.where(position == 0, last, flat[jnp.maximum(source - 1, 0)])
    keep = lambda x, empty=0: jnp.where(is_token, x, empty)
    return Chunk(
        tokens=keep(read),
        positions=keep(length - 1 + position),
        targets=keep(flat[jnp.maximum(source, 0)]),
        owner=keep(owner, -1),
        sequence=keep(row, -1),
        earlier=keep(position // size * size),
    )


def split_source(
    packing: Packing,
    microbatch: Int[ArrayLike, ""],
    number: Int[ArrayLike, ""],
    time: int,
) -> Int[Array, " column"]:
    """The tokens of an earlier chunk of the row that ends in a microbatch, as `source`.

    **Arguments:**

    - `number`: of the chunk, from 0; past the last one there are no tokens.
    - `time`: length of the rows.
    """
    size = packing.source.shape[1]
    row = packing.split_row[microbatch]
    position = number * size + jnp.arange(size, dtype=jnp.int32)
    is_token = (row >= 0) & (position < packing.before[row])
    return jnp.where(is_token, row * time + position, -1)


def extend(
    policy: AbstractPolicy,
    chunk: Chunk,
    context: Context | None,
    window: Window | None = None,
    columns: Int[Array, ""] | None = None,
    routes: bool = False,
) -> tuple[Any, ...]:
    """Hidden states and the cache of a chunk.

    **Arguments:**

    - `policy`: computes them.
    - `chunk`: the tokens.
    - `context`: what tokens with an owner attend to.
    - `window`: what tokens with earlier ones attend to.
    - `columns`: how many of the context's columns there are already; all by default.
    - `routes`: whether the use of experts is returned, too.
    """
    past = []
    column = jnp.arange(chunk.tokens.shape[0])
    is_token = (chunk.sequence >= 0)[:, None]
    if context is not None:
        visible = is_token & (chunk.owner[:, None] == context.owner[None])
        if columns is not None:
            visible &= (jnp.arange(context.owner.shape[0]) < columns)[None]
        past.append(Past(context.cache, visible))
    if window is not None:
        visible = jnp.arange(window.columns)[None] < chunk.earlier[:, None]
        past.append(Past(window.cache, visible))
    same = is_token & (chunk.sequence[:, None] == chunk.sequence[None])
    causal = column[:, None] >= column[None]
    # Padding attends to itself: every token attends to something.
    visible = (same & causal) | (column[:, None] == column[None])
    run = policy.extend_routed if routes else policy.extend
    return run(chunk.tokens, chunk.positions, *past, visible=visible)
