"""Attention in plain XLA, block by block, without the blocks that are empty.

    p = softmax over all sources of (q kᵀ where visible),    out = Σ p v

A loop over blocks of tokens; inside it, for each source, a loop over the blocks of
columns that any of those tokens attends to, with an online softmax (FlashAttention-2,
arXiv:2307.08691). The bounds are known at run time: cost follows what is visible, not
how wide a cache is.
"""

import dataclasses
import functools as ft
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from ..matrix import row_products
from ._block_mask import BlockMask
from ._products import capped, contract, masked, QueryRows, scaled, scores
from ._source import Source


class _Softmax(NamedTuple):
    """Carry of an online softmax: sums relative to the highest score so far."""

    output: Float[Array, "kv_head row head_dim"]
    total: Float[Array, "kv_head row"]
    peak: Float[Array, "kv_head row"]


def forward(
    query: QueryRows,
    sources: Sequence[Source],
    dtype: DTypeLike,
    cap: float | None = None,
) -> tuple[QueryRows, Float[Array, "kv_head row"]]:
    """Attention of scaled queries, and the log-sum-exp of each row's scores.

    **Arguments:**

    - `query`: scaled queries; each attends to at least one column.
    - `sources`: keys, values and masks.
    - `dtype`: of the operands of both products.
    - `cap`: scores become cap · tanh(score / cap).
    """
    split = _TokenBlocks.of(query, sources[0].visible)
    padded = split.pad(query)

    def block(number: Int[Array, ""]):
        rows = split.take(padded, number)

        def attend(source: Source, start, mask, carry: _Softmax) -> _Softmax:
            cache = source.block(start)
            found = scores(rows, cache.keys, dtype)
            found = capped(scaled(found, cache.key_scale), cap)
            found = masked(mask, found)
            peak = jnp.maximum(carry.peak, jnp.max(found, axis=-1))
            # A row without a visible column so far has nothing to rescale.
            level = jnp.where(peak == -jnp.inf, 0, peak)
            rescale = jnp.exp(carry.peak - level)
            weights = jnp.exp(found - level[..., None])
            more = contract(
                "kqs,ksd->kqd",
                scaled(weights, cache.value_scale),
                cache.values,
                dtype,
            )
            return _Softmax(
                carry.output * rescale[..., None] + more,
                carry.total * rescale + jnp.sum(weights, axis=-1),
                peak,
            )

        narrow = [x for x in sources if x.visible.blocks is None]
        carry = _softmax(rows, narrow, number, dtype, cap)
        for source in sources:
            if source.visible.blocks is not None:
                step = ft.partial(attend, source)
                carry = source.visible.fold(number, step, carry)
        total = jnp.where(carry.total > 0, carry.total, 1)  # Padding has none.
        return carry.output / total[..., None], carry.peak + jnp.log(total)

    if split.count == 1:
        found = block(jnp.zeros((), jnp.int32))
    else:
        found = jax.lax.map(block, jnp.arange(split.count, dtype=jnp.int32))
        found = jax.tree.map(split.join, found)
    return jax.tree.map(lambda x: x[:, : query.shape[1]], found)


def _softmax(
    rows: QueryRows,
    sources: Sequence[Source],
    number: Int[Array, ""],
    dtype: DTypeLike,
    cap: float | None,
) -> _Softmax:
    """Attention of a block of tokens to all sources of one block of columns."""
    if not sources:
        zeros = jnp.zeros(rows.shape, jnp.float32)
        lowest = jnp.full(rows.shape[:2], -jnp.inf, jnp.float32)
        return _Softmax(zeros, zeros[..., 0], lowest)
    caches = [source.all() for source in sources]
    found = [
        masked(
            x.visible.rows_of(number),
            capped(scaled(scores(rows, kv.keys, dtype), kv.key_scale), cap),
        )
        for x, kv in zip(sources, caches, strict=True)
    ]
    # Scores are joined, not keys and values.
    peak = ft.reduce(jnp.maximum, [jnp.max(s, axis=-1) for s in found])
    level = jnp.where(peak == -jnp.inf, 0, peak)[..., None]
    weights = [jnp.exp(s - level) for s in found]
    outputs = [
        contract("kqs,ksd->kqd", scaled(w, kv.value_scale), kv.values, dtype)
        for w, kv in zip(weights, caches, strict=True)
    ]
    total = ft.reduce(jnp.add, [jnp.sum(w, axis=-1) for w in weights])
    return _Softmax(ft.reduce(jnp.add, outputs), total, peak)


def gradient(
    query: QueryRows,
    sources: Sequence[Source],
    output: QueryRows,
    normalizer: Float[Array, "kv_head row"],
    cotangent: QueryRows,
    cap: float | None = None,
) -> tuple[QueryRows, tuple[tuple[Array, Array], ...]]:
    """Gradients of the queries, and of each source's keys and values.

        dv = pᵀ dout,    ds = p (dout vᵀ - Σ out dout),    dq = ds k,    dk = dsᵀ q

    Weights `p` are recomputed, block by block.
    """
    dtype = query.dtype
    split = _TokenBlocks.of(query, sources[0].visible)
    wide = lambda x: x.astype(jnp.float32)
    shared = row_products(wide(output), wide(cotangent))
    operands = [split.pad(x) for x in (query, cotangent, normalizer, shared)]

    def block(number: Int[Array, ""], carry):
        d_query, d_sources = carry
        rows, d_out, total, mean = (split.take(x, number) for x in operands)

        def add(source: Source, start, mask, carry):
            d_rows, d_keys, d_values = carry
            keys, values = source.exact_block(start)
            found = capped(scores(rows, keys, dtype), cap)
            weights = jnp.exp(masked(mask, found - total[..., None]))
            d_weights = contract("kqd,ksd->kqs", d_out, values, dtype)
            d_scores = weights * (d_weights - mean[..., None])
            if cap is not None:  # The derivative of cap · tanh(score / cap).
                d_scores = d_scores * (1 - jnp.square(found / cap))
            d_rows += contract("kqs,kds->kqd", d_scores, keys, dtype)
            of_keys = contract("kqd,kqs->kds", rows, d_scores, dtype)
            of_values = contract("kqs,kqd->ksd", weights, d_out, dtype)
            return (
                d_rows,
                _add_at(d_keys, of_keys, start, axis=2),
                _add_at(d_values, of_values, start, axis=1),
            )

        d_rows, found = jnp.zeros(rows.shape, jnp.float32), []
        for source, (d_keys, d_values) in zip(sources, d_sources, strict=True):
            start = d_rows, d_keys, d_values
            step = ft.partial(add, source)
            d_rows, *more = source.visible.fold(number, step, start)
            found.append(tuple(more))
        at = number * rows.shape[1]
        d_query = jax.lax.dynamic_update_slice_in_dim(d_query, d_rows, at, axis=1)
        return d_query, tuple(found)

    zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
    d_sources = tuple(tuple(map(zeros, x.exact)) for x in sources)
    d_query = zeros(operands[0])
    carry = d_query, d_sources
    if split.count == 1:
        d_query, d_sources = block(jnp.zeros((), jnp.int32), carry)
    else:
        d_query, d_sources = jax.lax.fori_loop(0, split.count, block, carry)
    narrow = lambda x, like: x.astype(like.dtype)
    return narrow(d_query[:, : query.shape[1]], query), tuple(
        tuple(map(narrow, found, source.exact))
        for source, found in zip(sources, d_sources, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class _TokenBlocks:
    """Blocks of tokens, each with `repeats` rows of every key-value head."""

    tokens: int
    repeats: int
    count: int

    @staticmethod
    def of(query: QueryRows, visible: BlockMask) -> "_TokenBlocks":
        tokens = visible.size.tokens
        repeats = query.shape[1] // visible.tokens
        return _TokenBlocks(tokens, repeats, -(-visible.tokens // tokens))

    def pad(self, x: Float[Array, "kv_head row ..."]) -> Array:
        """With zeros, for a whole number of blocks."""
        rows = self.tokens * self.repeats * self.count
        widths = [(0, 0)] * x.ndim
        widths[1] = (0, rows - x.shape[1])
        return jnp.pad(x, widths)

    def take(self, x: Float[Array, "kv_head row ..."], number: Int[Array, ""]) -> Array:
        """One block's rows of padded ones."""
        size = self.tokens * self.repeats
        return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis=1)

    def join(self, x: Float[Array, "block kv_head row ..."]) -> Array:
        """Rows of all blocks."""
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])


def _add_at(total: Array, more: Array, start: Int[Array, ""], axis: int) -> Array:
    """Adds to a range of one axis, in place."""
    width = more.shape[axis]
    if width == total.shape[axis]:
        return total + more
    here = jax.lax.dynamic_slice_in_dim(total, start, width, axis)
    return jax.lax.dynamic_update_slice_in_dim(total, here + more, start, axis)
