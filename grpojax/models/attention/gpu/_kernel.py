"""Attention in one Pallas kernel for NVIDIA GPUs: scores never reach memory.

    p = softmax over all sources of (q kᵀ where visible),    out = Σ p v

A program of the kernel has a block of one head's queries, and scans the columns of all
sources with an online softmax (FlashAttention-2, arXiv:2307.08691). Of each source it
reads the blocks between the first and the last column that any of its queries attends
to, so columns that a cache does not hold yet cost nothing.

Operands are those of one sequence, as in `attend`; `vmap` adds axes to the grid.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from .._products import QueryRows
from ._blocks import (
    head_spec,
    KernelConfig,
    MaskedCache,
    RowBlock,
    source_blocks,
    source_operands,
    SourceBlocks,
)


def forward(
    config: KernelConfig, query: QueryRows, sources: tuple[MaskedCache, ...]
) -> tuple[QueryRows, Float[Array, "kv_head row"]]:
    """Attention of scaled queries, each of which attends to at least one column.

    **Arguments:**

    - `config`: from `kernel_config`.
    - `query`: scaled queries.
    - `sources`: keys, values and masks.

    **Returns:** outputs, and the log-sum-exp of each row's scores.
    """
    shape = query.shape

    def kernel(*refs):
        query_ref, *source_refs, out_ref, normalizer_ref = refs
        rows = RowBlock(config, shape[1])
        query = rows.load(query_ref)

        def block(source, start, carry):
            output, total, peak = carry
            keys, values = source.keys(start), source.values(start)
            seen = rows.mask(source, start)
            scores = jnp.where(seen, triton.dot(query, keys), -jnp.inf)
            higher = jnp.maximum(peak, jnp.max(scores, axis=1))
            # A row without a visible column so far has nothing to rescale.
            level = jnp.where(higher == -jnp.inf, 0.0, higher)
            rescale = jnp.exp(peak - level)
            weights = jnp.exp(scores - level[:, None])
            more = triton.dot(weights.astype(config.dtype), values)
            return (
                output * rescale[:, None] + more,
                total * rescale + jnp.sum(weights, axis=1),
                higher,
            )

        carry = (
            jnp.zeros((config.block_rows, shape[2]), jnp.float32),
            jnp.zeros((config.block_rows,), jnp.float32),
            jnp.full((config.block_rows,), -jnp.inf, jnp.float32),
        )
        for source in source_blocks(config, source_refs, sources):
            # A token's own column needs neither a matrix product nor a loop.
            alone = source.visible_ref.shape == (1,)
            if alone:
                carry = _attend_to_column(query, source, carry)
            else:
                carry = source.scan_columns(block, carry)
        output, total, peak = carry
        total = jnp.where(total > 0, total, 1.0)  # Rows past the last one.
        rows.store(out_ref, (output / total[:, None]).astype(config.dtype))
        rows.store(normalizer_ref, peak + jnp.log(total))

    operands, specs = source_operands(config, shape, sources)
    return _call(
        config,
        "attention",
        kernel,
        (shape[0], pl.cdiv(shape[1], config.block_rows)),
        [head_spec(shape), *specs],
        (head_spec(shape), head_spec(shape[:2])),
        (
            jax.ShapeDtypeStruct(shape, config.dtype),
            jax.ShapeDtypeStruct(shape[:2], jnp.float32),
        ),
    )(query, *operands)


def _attend_to_column(query: Array, source: SourceBlocks, carry):
    """One step of the online softmax with a source's only column."""
    output, total, peak = carry
    wide = query.astype(jnp.float32)
    scores = jnp.sum(wide * source.single_column(source.keys_ref), axis=1)
    visible = triton.load(source.visible_ref.at[pl.ds(0, 1)]).astype(jnp.int32)
    mask = jnp.broadcast_to(visible, scores.shape) != 0
    scores = jnp.where(mask, scores, -jnp.inf)
    higher = jnp.maximum(peak, scores)
    level = jnp.where(higher == -jnp.inf, 0.0, higher)
    rescale, weight = jnp.exp(peak - level), jnp.exp(scores - level)
    values = source.single_column(source.values_ref)
    output = output * rescale[:, None] + weight[:, None] * values
    return output, total * rescale + weight, higher


def backward(
    config: KernelConfig,
    query: QueryRows,
    sources: tuple[MaskedCache, ...],
    output: QueryRows,
    normalizer: Float[Array, "kv_head row"],
    gradient: QueryRows,
) -> tuple[QueryRows, tuple[tuple[Array, Array], ...]]:
    """Gradients of the queries, and of each source's keys and values."""
    # Σ p dp of a row equals Σ out dout.
    gradient = gradient.astype(config.dtype)
    wide = lambda x: x.astype(jnp.float32)
    shared = jnp.sum(wide(output) * wide(gradient), axis=-1)
    rows = query, gradient, normalizer, shared
    d_sources = tuple(_source_gradient(config, rows, source) for source in sources)
    return _query_gradient(config, rows, sources), d_sources


def _query_gradient(
    config: KernelConfig, rows: tuple[Array, ...], sources: tuple[MaskedCache, ...]
) -> Array:
    """The gradient of the queries."""
    shape = rows[0].shape

    def kernel(query_ref, gradient_ref, normalizer_ref, shared_ref, *refs):
        *source_refs, out_ref = refs
        rows = RowBlock(config, shape[1])
        query, gradient = rows.load(query_ref), rows.load(gradient_ref)
        normalizer, shared = rows.load(normalizer_ref), rows.load(shared_ref)

        def block(source, start, carry):
            keys, values = source.keys(start), source.values(start)
            seen = rows.mask(source, start)
            scores = triton.dot(query, keys) - normalizer[:, None]
            weights = jnp.exp(jnp.where(seen, scores, -jnp.inf))
            d_weights = triton.dot(gradient, values, trans_b=True) - shared[:, None]
            d_scores = (weights * d_weights).astype(config.dtype)
            return carry + triton.dot(d_scores, keys, trans_b=True)

        carry = jnp.zeros((config.block_rows, shape[2]), jnp.float32)
        for source in source_blocks(config, source_refs, sources):
            carry = source.scan_columns(block, carry)
        rows.store(out_ref, carry.astype(config.dtype))

    operands, specs = source_operands(config, shape, sources)
    return _call(
        config,
        "attention_to_query",
        kernel,
        (shape[0], pl.cdiv(shape[1], config.block_rows)),
        [*(head_spec(x.shape) for x in rows), *specs],
        head_spec(shape),
        jax.ShapeDtypeStruct(shape, config.dtype),
    )(*rows, *operands)


def _source_gradient(
    config: KernelConfig, rows: tuple[Array, ...], source: MaskedCache
) -> tuple[Array, Array]:
    """The gradient of one source's keys and values."""
    shape, count = rows[0].shape, source.visible.shape[-1]
    width = config.width(source)

    def kernel(query_ref, gradient_ref, normalizer_ref, shared_ref, *refs):
        *source_refs, keys_out, values_out = refs
        (source_,) = source_blocks(config, source_refs, (source,))
        start = pl.program_id(1) * width
        inside = start + jnp.arange(width) < count
        keys, values = source_.keys(start), source_.values(start)

        def block(number, carry):
            d_keys, d_values = carry
            rows = RowBlock(config, shape[1], number)
            query, gradient = rows.load(query_ref), rows.load(gradient_ref)
            normalizer, shared = rows.load(normalizer_ref), rows.load(shared_ref)
            seen = rows.mask(source_, start) & rows.inside[:, None]
            scores = triton.dot(query, keys) - normalizer[:, None]
            weights = jnp.exp(jnp.where(seen, scores, -jnp.inf))
            d_values += triton.dot(weights.astype(config.dtype), gradient, trans_a=True)
            d_weights = triton.dot(gradient, values, trans_b=True) - shared[:, None]
            d_scores = (weights * d_weights).astype(config.dtype)
            return d_keys + triton.dot(query, d_scores, trans_a=True), d_values

        zeros = (
            jnp.zeros((shape[2], width), jnp.float32),
            jnp.zeros((width, shape[2]), jnp.float32),
        )
        d_keys, d_values = source_.scan_rows(block, zeros)
        at = pl.ds(start, width)
        mask = lambda inside, x: jnp.broadcast_to(inside, x.shape)
        triton.store(
            keys_out.at[:, at],
            d_keys.astype(config.dtype),
            mask=mask(inside[None], d_keys),
        )
        triton.store(
            values_out.at[at],
            d_values.astype(config.dtype),
            mask=mask(inside[:, None], d_values),
        )

    operands, specs = source_operands(config, shape, (source,), by_column=True)
    like = lambda x: jax.ShapeDtypeStruct(x.shape, config.dtype)
    return _call(
        config,
        "attention_to_source",
        kernel,
        (shape[0], pl.cdiv(count, width)),
        [*(head_spec(x.shape) for x in rows), *specs],
        (head_spec(source.keys.shape), head_spec(source.values.shape)),
        (like(source.keys), like(source.values)),
    )(*rows, *operands)


def _call(
    config: KernelConfig, name: str, kernel, grid, in_specs, out_specs, out_shape
):
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=config.interpret,
        name=name,
        compiler_params=triton.CompilerParams(
            num_warps=config.num_warps, num_stages=config.num_stages
        ),
    )
