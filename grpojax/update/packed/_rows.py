"""Rows and prompts, packed into microbatches."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...policy import AbstractPolicy, empty_cache
from ...sharding import spmd
from ...types import Prompt
from .._log_prob import LogProbs
from ._chunks import (
    Chunk,
    completion_chunk,
    Context,
    extend,
    prompt_chunk,
    split_source,
)
from ._packing import pack, pack_prompts, PackedPrompts, Packing, to_rows


Source = Int[Array, "shard column"]
"""The token at each column of a chunk, as an index of all tokens; -1 for none."""

Columns = tuple[Float[Array, "shard column"], ...]
"""Log-probs and entropies of a chunk; and the balance of experts, if asked for."""

Earlier = tuple[Float[Array, "shard earlier"], ...]
"""The same of a split row's earlier chunks."""


_Fold = Callable[[Array, PyTree], PyTree]


class PackedRows(eqx.Module):
    """Rows and their prompts, packed into microbatches of `size` tokens.

    Each data-parallel shard packs its own: arrays have a leading axis of shards.
    """

    prompt: Prompt
    tokens: Int[Array, "shard prompt group time"]
    packing: Packing
    prompts: PackedPrompts
    size: int = eqx.field(static=True)

    @property
    def microbatches(self) -> Int[Array, ""]:
        """How many the shard with the most has."""
        return jnp.max(self.packing.used)

    @property
    def split_microbatches(self) -> Int[Array, ""]:
        """How many hold a split row's last chunk, in the shard with the most.

        They are the first ones, as the longest rows are packed first.
        """
        splits = jnp.sum(self.packing.split_row >= 0, axis=-1, dtype=jnp.int32)
        return jnp.max(splits)

    @property
    def window_columns(self) -> int:
        """Columns for the earlier chunks of a split row; 0 if no row can be split."""
        return (-(-self.tokens.shape[-1] // self.size) - 1) * self.size

    def earlier_chunks(self, microbatch: Int[Array, ""]) -> Int[Array, ""]:
        """How many come before the last one, in the shard with the most."""
        if self.window_columns == 0:
            return jnp.zeros((), jnp.int32)

        def one(packing: Packing) -> Int[Array, ""]:
            row = packing.split_row[microbatch]
            return jnp.where(row >= 0, packing.before[row] // self.size, 0)

        return jnp.max(spmd.vmap_shards(one)(self.packing))

    def fold(self, split: _Fold, unsplit: _Fold, carry: PyTree) -> PyTree:
        """Folds the microbatches: first those with a split row, then the others."""
        splits = self.split_microbatches
        if self.window_columns:
            with jax.named_scope("split_rows"):
                carry = jax.lax.fori_loop(0, splits, split, carry)
        return jax.lax.fori_loop(splits, self.microbatches, unsplit, carry)

    def source(self, microbatch: Int[Array, ""]) -> Source:
        """The tokens of a microbatch."""
        return self.packing.source[:, microbatch]

    def split_source(
        self,
        microbatch: Int[Array, ""],
        number: Int[Array, ""],
        is_last: Bool[Array, ""] | bool = False,
    ) -> Source:
        """The tokens of a chunk of the row that ends in a microbatch.

        **Arguments:**

        - `number`: of the chunk.
        - `is_last`: whether it is the last one, with which other rows are packed.
        """
        time = self.tokens.shape[-1]
        one = lambda packing: split_source(packing, microbatch, number, time)
        earlier = spmd.vmap_shards(one)(self.packing)
        return jnp.where(is_last, self.source(microbatch), earlier)

    def chunk(self, source: Source) -> Chunk:
        """The chunk of these tokens, in each shard."""

        def one(prompt, tokens, source):
            return completion_chunk(prompt, tokens, source, self.size)

        return spmd.vmap_shards(one)(self.prompt, self.tokens, source)

    def prompt_chunk(self, number: Int[Array, ""]) -> Chunk:
        """A chunk of the prompts of each shard."""
        one = lambda prompt, packed: prompt_chunk(prompt, packed, number)
        return spmd.vmap_shards(one)(self.prompt, self.prompts)

    def context(self, cache: PyTree) -> Context:
        """The context with these keys and values."""
        owner = self.prompts.owner
        return Context(cache, owner.reshape(owner.shape[0], -1))

    def to_rows(
        self, microbatch: Int[Array, ""], columns: Columns, earlier: Earlier | None
    ) -> tuple[LogProbs, Bool[Array, "prompt group"]]:
        """Log-probs of the rows that end in a microbatch, and which those are.

        Without a split row they are as wide as a microbatch, not as the horizon.
        """
        _, prompts, group, time = self.tokens.shape
        shape = prompts, group, min(self.size, time) if earlier is None else time

        def one(columns, earlier, packing):
            rows = lambda x, y: to_rows(x, y, packing, microbatch, shape)
            found = tuple(map(rows, columns, earlier or (None,) * len(columns)))
            return tuple(values for values, _ in found), found[0][1]

        found = spmd.vmap_shards(one)(columns, earlier, self.packing)
        return spmd.merge_batch(found)

    def to_columns(self, source: Source, rows: LogProbs) -> Columns:
        """Values of rows, from `to_rows`, at a chunk's columns; 0 without a token."""
        time = self.tokens.shape[-1]

        def one(source, rows):
            def take(x):
                row, place = jnp.divmod(source, time)
                values = x.reshape(-1)[row * x.shape[-1] + place]
                return jnp.where(source >= 0, values, 0)

            return jax.tree.map(take, rows)

        return spmd.vmap_shards(one)(source, spmd.split_batch(rows))


def pack_rows(
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    size: int,
) -> PackedRows:
    """Packs rows, each up to its last token in the mask.

    **Arguments:**

    - `size`: tokens of a microbatch in each shard.
    """
    time = tokens.shape[-1]
    lengths = jnp.max(jnp.where(mask, jnp.arange(1, time + 1), 0), axis=-1)
    prompt, tokens, lengths = spmd.split_batch((prompt, tokens, lengths))
    size = min(size, lengths[0].size * time)
    packing, prompts = spmd.vmap_shards(
        lambda prompt, lengths: (
            pack(lengths.reshape(-1), size, time),
            pack_prompts(prompt, size),
        )
    )(prompt, lengths)
    return PackedRows(prompt, tokens, packing, prompts, size)


def empty_caches(rows: PackedRows, policy: AbstractPolicy, columns: int) -> PyTree:
    """A cache of each shard, filled with zeros."""
    one = lambda _: empty_cache(policy, columns)
    return spmd.vmap_shards(one)(rows.prompt.length)


def write(
    policy: AbstractPolicy, cache: PyTree, chunk: PyTree, column: Int[Array, ""]
) -> PyTree:
    one = lambda cache, chunk: policy.write(cache, chunk, column)
    return spmd.vmap_shards(one)(cache, chunk)


def extend_shards(
    policy: AbstractPolicy,
    chunk: Chunk,
    context,
    window=None,
    columns=None,
    routes: bool = False,
):
    """`extend` in each shard."""
    one = lambda *each: extend(policy, *each, columns=columns, routes=routes)
    return spmd.vmap_shards(one)(chunk, context, window)


def prefill_prompts(policy: AbstractPolicy, rows: PackedRows) -> PyTree:
    """Keys and values of all prompts, in the columns of `rows.prompts`."""
    chunks, size = rows.prompts.owner.shape[1:]
    if chunks == 1:
        only = rows.prompt_chunk(jnp.zeros((), jnp.int32))
        return extend_shards(policy, only, None)[1]

    def add(number, cache):
        at = number * size
        chunk = rows.prompt_chunk(number)
        _, own = extend_shards(policy, chunk, rows.context(cache), columns=at)
        return write(policy, cache, own, at)

    start = empty_caches(rows, policy, chunks * size)
    return jax.lax.fori_loop(0, jnp.max(rows.prompts.used), add, start)
