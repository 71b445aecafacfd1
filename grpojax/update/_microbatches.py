"""Log-probs and gradients in microbatches of packed tokens.

Memory follows the size of a microbatch, and compute the number of tokens, whatever the
horizon and the width of the prompts:

- prompts are run once, for all their completions, in chunks of that size; their keys
  and values are the context of every completion;
- a row that is longer than a microbatch is run in chunks, each of which attends to the
  keys and values of the earlier ones. Its gradient goes through the chunks in reverse
  order, and runs all but the last one twice: once for their keys and values, once for
  their gradient.
"""

import functools as ft
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import sharding
from ..policy import AbstractPolicy, empty_cache
from ..sharding import spmd
from ..types import accumulation_dtype, FloatLike, Prompt
from ._chunks import (
    Chunk,
    completion_chunk,
    Context,
    extend,
    prompt_chunk,
    split_source,
    Window,
)
from ._log_prob import LogProbs, token_log_probs
from ._packing import (
    balance_tokens,
    pack,
    pack_prompts,
    PackedPrompts,
    Packing,
    to_rows,
)


_Columns = tuple[Float[Array, "shard column"], Float[Array, "shard column"]]
"""Log-probs and entropies of a chunk."""

_Earlier = tuple[Float[Array, "shard earlier"], Float[Array, "shard earlier"]]
"""The same of a split row's earlier chunks."""


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

    def last_chunk(self, microbatch: Int[Array, ""]) -> Chunk:
        """The microbatch's chunk of each shard."""
        source = lambda packing: packing.source[microbatch]
        return self._completions(source)

    def earlier_chunk(
        self, microbatch: Int[Array, ""], number: Int[Array, ""]
    ) -> Chunk:
        """An earlier chunk of the row that ends in a microbatch, of each shard."""
        time = self.tokens.shape[-1]
        source = lambda packing: split_source(packing, microbatch, number, time)
        chunk = self._completions(source)
        earlier = jnp.where(chunk.sequence >= 0, number * self.size, 0)
        return eqx.tree_at(lambda x: x.earlier, chunk, earlier)

    def _completions(self, source: Callable[[Packing], Array]) -> Chunk:
        def one(prompt, tokens, packing):
            found = source(packing)
            return completion_chunk(prompt, tokens, found, packing.before)

        return spmd.vmap_shards(one)(self.prompt, self.tokens, self.packing)

    def prompt_chunk(self, number: Int[Array, ""]) -> Chunk:
        """A chunk of the prompts of each shard."""
        one = lambda prompt, packed: prompt_chunk(prompt, packed, number)
        return spmd.vmap_shards(one)(self.prompt, self.prompts)

    def context(self, cache: PyTree) -> Context:
        """The context with these keys and values."""
        owner = self.prompts.owner
        return Context(cache, owner.reshape(owner.shape[0], -1))

    def to_rows(
        self, microbatch: Int[Array, ""], columns: _Columns, earlier: _Earlier
    ) -> tuple[LogProbs, Bool[Array, "prompt group"]]:
        """Log-probs of the rows that end in a microbatch, and which those are."""
        _, prompts, group, time = self.tokens.shape
        shape = prompts, group, time

        def one(columns, earlier, packing):
            rows = lambda x, y: to_rows(x, y, packing, microbatch, shape)
            found = tuple(map(rows, columns, earlier))
            return tuple(values for values, _ in found), found[0][1]

        found = spmd.vmap_shards(one)(columns, earlier, self.packing)
        return spmd.merge_batch(found)

    def to_columns(self, chunk_of: Callable[[Packing], Array], rows: LogProbs):
        """Values of rows at a chunk's columns; 0 where there is no token."""

        def one(packing, rows):
            source = chunk_of(packing)
            take = lambda x: jnp.where(source >= 0, x.reshape(-1)[source], 0)
            return jax.tree.map(take, rows)

        return spmd.vmap_shards(one)(self.packing, spmd.split_batch(rows))


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


def _empty(rows: PackedRows, policy: AbstractPolicy, columns: int) -> PyTree:
    """A cache of each shard, filled with zeros."""
    one = lambda _: empty_cache(policy, columns)
    return spmd.vmap_shards(one)(rows.prompt.length)


def _write(
    policy: AbstractPolicy, cache: PyTree, chunk: PyTree, column: Int[Array, ""]
) -> PyTree:
    one = lambda cache, chunk: policy.write(cache, chunk, column)
    return spmd.vmap_shards(one)(cache, chunk)


def _extend(policy: AbstractPolicy, chunk: Chunk, context, window=None, columns=None):
    """`extend` in each shard."""
    one = lambda *each: extend(policy, *each, columns=columns)
    return spmd.vmap_shards(one)(chunk, context, window)


class _Scorer(eqx.Module):
    """Log-probs of chunks.

    **Fields:**

    - `rows`: the packed rows.
    - `temperature`, `chunk`: as in `log_probs`.
    """

    rows: PackedRows
    temperature: FloatLike
    chunk: int | None = eqx.field(static=True)

    def __call__(
        self, policy: AbstractPolicy, chunk: Chunk, cache: PyTree, window: PyTree
    ) -> tuple[_Columns, PyTree]:
        """Log-probs and entropies, and the chunk's own cache."""
        past = None if window is None else Window(window, self.rows.window_columns)
        hidden, own = _extend(policy, chunk, self.rows.context(cache), past)
        score = ft.partial(
            token_log_probs, policy, temperature=self.temperature, chunk=self.chunk
        )
        return spmd.vmap_shards(score)(hidden, chunk.targets), own

    def earlier(
        self, policy: AbstractPolicy, cache: PyTree, microbatch: Int[Array, ""]
    ) -> tuple[Int[Array, ""], PyTree, _Earlier]:
        """Runs the earlier chunks of the row that ends in a microbatch.

        **Returns:** how many there are, their keys and values, and their log-probs and
        entropies.
        """
        rows = self.rows
        columns = rows.window_columns
        count = rows.earlier_chunks(microbatch)
        zeros = jnp.zeros((rows.tokens.shape[0], columns), jnp.float32)
        if columns == 0:
            return count, None, (zeros, zeros)

        def add(number, carry):
            window, total = carry
            chunk = rows.earlier_chunk(microbatch, number)
            found, own = self(policy, chunk, cache, window)
            at = number * rows.size
            put = lambda total, x: jax.lax.dynamic_update_slice_in_dim(total, x, at, 1)
            return _write(policy, window, own, at), jax.tree.map(put, total, found)

        start = _empty(rows, policy, columns), (zeros, zeros)
        window, found = jax.lax.fori_loop(0, count, add, start)
        return count, window, found


def prefill_prompts(policy: AbstractPolicy, rows: PackedRows) -> PyTree:
    """Keys and values of all prompts, in the columns of `rows.prompts`."""
    chunks, size = rows.prompts.owner.shape[1:]
    if chunks == 1:
        return _extend(policy, rows.prompt_chunk(jnp.zeros((), jnp.int32)), None)[1]

    def add(number, cache):
        at = number * size
        chunk = rows.prompt_chunk(number)
        _, own = _extend(policy, chunk, rows.context(cache), columns=at)
        return _write(policy, cache, own, at)

    start = _empty(rows, policy, chunks * size)
    return jax.lax.fori_loop(0, jnp.max(rows.prompts.used), add, start)


def masked_log_probs(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    size: int,
    *,
    temperature: FloatLike = 1.0,
    chunk: int | None = None,
) -> LogProbs:
    """Log-probs and entropies of masked tokens, without gradient; 0 elsewhere.

    **Arguments:**

    - `size`: tokens of a microbatch in each shard.
    """

    def every(replicated, prompt, rows) -> LogProbs:
        policy, temperature = replicated
        tokens, mask = rows
        rows = pack_rows(prompt, tokens, mask, size)
        cache = prefill_prompts(policy, rows)
        score = _Scorer(rows, temperature, chunk)

        def add(microbatch, total):
            _, window, earlier = score.earlier(policy, cache, microbatch)
            found, _ = score(policy, rows.last_chunk(microbatch), cache, window)
            found, included = rows.to_rows(microbatch, found, earlier)
            keep = mask & included[:, :, None]
            return jax.tree.map(ft.partial(jnp.where, keep), found, total)

        zeros = jnp.zeros(tokens.shape, jnp.float32)
        return jax.lax.fori_loop(0, rows.microbatches, add, (zeros, zeros))

    balanced, restore = balance_tokens(mask, (prompt, (tokens, mask)))
    replicated = policy, temperature
    found = restore(spmd.shard_map_data_parallel(every, replicated, *balanced))
    return jax.lax.stop_gradient(found)


Loss = Callable[[LogProbs, Bool[Array, "prompt group"]], tuple[Array, PyTree]]
"""(log-probs, rows of this microbatch) -> loss and metrics."""


class _Sums(eqx.Module):
    """Cotangents that are accumulated over microbatches, in float32 at least."""

    params: PyTree
    context: PyTree

    @staticmethod
    def zeros(params: PyTree, context: PyTree) -> "_Sums":
        wide = lambda x: jnp.zeros(x.shape, accumulation_dtype(x.dtype))
        params, context = jax.tree.map(wide, (params, context))
        return _Sums(sharding.constrain(params), context)

    def add(self, params: PyTree, context: PyTree) -> "_Sums":
        fresh = _Sums(sharding.constrain(params), context)
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), self, fresh)


def packed_gradient(
    policy: AbstractPolicy,
    rows: PackedRows,
    loss: Loss,
    *,
    temperature: FloatLike = 1.0,
    chunk: int | None = None,
) -> tuple[PyTree, PyTree]:
    """Gradient with respect to the trainable arrays, and metrics, of packed rows.

    Both are accumulated over microbatches. The cotangent of the prompts' keys and
    values is accumulated too, and pulled back through the prompts at the end.
    """
    params, static = eqx.partition(policy, policy.trainable())
    combine = lambda params: eqx.combine(params, static)
    score = _Scorer(rows, temperature, chunk)
    cache, pull_prompts = _prompt_vjp(params, combine, rows)

    def one(microbatch, sums: _Sums) -> tuple[_Sums, PyTree]:
        count, window, earlier = score.earlier(policy, cache, microbatch)
        found, pull = jax.vjp(
            lambda *each: score(
                combine(each[0]), rows.last_chunk(microbatch), *each[1:]
            ),
            params,
            cache,
            window,
        )
        by_row, included = rows.to_rows(microbatch, found[0], earlier)
        cotangent, metrics = jax.grad(loss, has_aux=True)(by_row, included)
        last = lambda packing: packing.source[microbatch]
        of_own = jax.tree.map(jnp.zeros_like, found[1])
        of = pull((rows.to_columns(last, cotangent), of_own))
        sums = sums.add(*of[:2])
        if window is None:
            return sums, metrics

        def back(step, carry):
            sums, of_window = carry
            number = count - 1 - step
            at = number * rows.size
            _, pull = jax.vjp(
                lambda *each: score(
                    combine(each[0]), rows.earlier_chunk(microbatch, number), *each[1:]
                ),
                params,
                cache,
                window,
            )
            source = lambda packing: split_source(
                packing, microbatch, number, rows.tokens.shape[-1]
            )
            _, pull_write = jax.vjp(lambda own: _write(policy, window, own, at), of_own)
            (of_chunk,) = pull_write(of_window)
            more = pull((rows.to_columns(source, cotangent), of_chunk))
            return sums.add(*more[:2]), jax.tree.map(jnp.add, of_window, more[2])

        sums, _ = jax.lax.fori_loop(0, count, back, (sums, of[2]))
        return sums, metrics

    shape = rows.tokens.shape[0] * rows.tokens.shape[1], *rows.tokens.shape[2:]
    by_row = (jax.ShapeDtypeStruct(shape, jnp.float32),) * 2
    included = jax.ShapeDtypeStruct(shape[:2], jnp.bool_)
    metrics = jax.eval_shape(loss, by_row, included)[1].zeros()

    def add(microbatch, carry):
        sums, metrics = carry
        sums, more = one(microbatch, sums)
        return sums, metrics + more

    start = _Sums.zeros(params, cache), metrics
    sums, metrics = jax.lax.fori_loop(0, rows.microbatches, add, start)
    return pull_prompts(sums).params, metrics


def _prompt_vjp(
    params: PyTree, combine: Callable[[PyTree], AbstractPolicy], rows: PackedRows
) -> tuple[PyTree, Callable[[_Sums], _Sums]]:
    """The prompts' keys and values, and how their cotangent is added to the params'.

    One chunk of prompts keeps its residuals; several are run again, from the last one
    to the first.
    """
    narrow = lambda sums: jax.tree.map(lambda x, y: x.astype(y.dtype), sums, cache)
    chunks, size = rows.prompts.owner.shape[1:]
    if chunks == 1:
        cache, pull = jax.vjp(lambda x: prefill_prompts(combine(x), rows), params)

        def pull_all(sums: _Sums) -> _Sums:
            (gradient,) = pull(narrow(sums.context))
            return sums.add(gradient, sums.context)

        return cache, pull_all
    policy = combine(params)
    cache = prefill_prompts(policy, rows)
    used = jnp.max(rows.prompts.used)

    def back(step, sums: _Sums) -> _Sums:
        number = used - 1 - step
        at = number * size

        def run(params, cache):
            chunk = rows.prompt_chunk(number)
            context = rows.context(cache)
            return _extend(combine(params), chunk, context, columns=at)[1]

        own, pull = jax.vjp(run, params, cache)
        _, pull_write = jax.vjp(lambda own: _write(policy, cache, own, at), own)
        (of_own,) = pull_write(narrow(sums.context))
        return sums.add(*pull(of_own))

    return cache, lambda sums: jax.lax.fori_loop(0, used, back, sums)
