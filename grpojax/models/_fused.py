"""Attention in one kernel, for NVIDIA GPUs: scores never leave the chip.

    p = softmax over all sources of (q kᵀ where visible),    out = Σ p v

A program of the kernel has a block of one head's queries and goes through the columns
of all sources with a running softmax (FlashAttention-2, arXiv:2307.08691). Of each
source it reads the blocks between the first and the last column that one of them sees:
what a cache does not hold yet costs nothing.

Everything is of one stream, as in `attend`; `vmap` puts axes in front of the grid.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from ._tiles import Columns, operands_of, per_head, Rows, RowTile, sources_of, Tiles


def forward(
    tiles: Tiles, query: Rows, sources: tuple[Columns, ...]
) -> tuple[Rows, Float[Array, "kv_head row"]]:
    """Attention of scaled queries, of which each sees a column of all at least.

    **Returns:** what was mixed, and the logarithm of each row's sum of exponentials.
    """
    shape = query.shape

    def kernel(*refs):
        query_ref, *source_refs, out_ref, normalizer_ref = refs
        rows = RowTile(tiles, shape[1])
        query = rows.load(query_ref)

        def one_column(source, carry):
            mixed, total, peak = carry
            wide = query.astype(jnp.float32)
            scores = jnp.sum(wide * source.only(source.keys_ref), axis=1)
            seen = triton.load(source.visible_ref.at[pl.ds(0, 1)]).astype(jnp.int32)
            scores = jnp.where(
                jnp.broadcast_to(seen, scores.shape) != 0, scores, -jnp.inf
            )
            higher = jnp.maximum(peak, scores)
            level = jnp.where(higher == -jnp.inf, 0.0, higher)
            rescale, weight = jnp.exp(peak - level), jnp.exp(scores - level)
            values = source.only(source.values_ref)
            mixed = mixed * rescale[:, None] + weight[:, None] * values
            return mixed, total * rescale + weight, higher

        def block(source, start, carry):
            mixed, total, peak = carry
            keys, values = source.keys(start), source.values(start)
            seen = rows.seen(source, start)
            scores = jnp.where(seen, triton.dot(query, keys), -jnp.inf)
            higher = jnp.maximum(peak, jnp.max(scores, axis=1))
            # A row that has seen nothing yet has nothing to rescale.
            level = jnp.where(higher == -jnp.inf, 0.0, higher)
            rescale = jnp.exp(peak - level)
            weights = jnp.exp(scores - level[:, None])
            more = triton.dot(weights.astype(tiles.dtype), values)
            return (
                mixed * rescale[:, None] + more,
                total * rescale + jnp.sum(weights, axis=1),
                higher,
            )

        carry = (
            jnp.zeros((tiles.rows, shape[2]), jnp.float32),
            jnp.zeros((tiles.rows,), jnp.float32),
            jnp.full((tiles.rows,), -jnp.inf, jnp.float32),
        )
        for source in sources_of(tiles, source_refs, sources):
            # A token's own column needs no matrix unit, and nothing to wait for.
            alone = source.visible_ref.shape == (1,)
            carry = one_column(source, carry) if alone else source.scan(block, carry)
        mixed, total, peak = carry
        total = jnp.where(total > 0, total, 1.0)  # Rows past the last one.
        rows.store(out_ref, (mixed / total[:, None]).astype(tiles.dtype))
        rows.store(normalizer_ref, peak + jnp.log(total))

    operands, specs = operands_of(tiles, shape, sources)
    return _call(
        tiles,
        "attention",
        kernel,
        (shape[0], pl.cdiv(shape[1], tiles.rows)),
        [per_head(shape), *specs],
        (per_head(shape), per_head(shape[:2])),
        (
            jax.ShapeDtypeStruct(shape, tiles.dtype),
            jax.ShapeDtypeStruct(shape[:2], jnp.float32),
        ),
    )(query, *operands)


def backward(
    tiles: Tiles,
    query: Rows,
    sources: tuple[Columns, ...],
    mixed: Rows,
    normalizer: Float[Array, "kv_head row"],
    gradient: Rows,
) -> tuple[Rows, tuple[tuple[Array, Array], ...]]:
    """Gradients of the queries, and of each source's keys and values."""
    # What a row's weights share: the sum of p dp is that of out dout.
    gradient = gradient.astype(tiles.dtype)
    wide = lambda x: x.astype(jnp.float32)
    shared = jnp.sum(wide(mixed) * wide(gradient), axis=-1)
    rows = query, gradient, normalizer, shared
    of_sources = tuple(_to_source(tiles, rows, source) for source in sources)
    return _to_query(tiles, rows, sources), of_sources


def _to_query(
    tiles: Tiles, rows: tuple[Array, ...], sources: tuple[Columns, ...]
) -> Array:
    """The gradient of the queries."""
    shape = rows[0].shape

    def kernel(query_ref, gradient_ref, normalizer_ref, shared_ref, *refs):
        *source_refs, out_ref = refs
        rows = RowTile(tiles, shape[1])
        query, gradient = rows.load(query_ref), rows.load(gradient_ref)
        normalizer, shared = rows.load(normalizer_ref), rows.load(shared_ref)

        def block(source, start, carry):
            keys, values = source.keys(start), source.values(start)
            seen = rows.seen(source, start)
            scores = triton.dot(query, keys) - normalizer[:, None]
            weights = jnp.exp(jnp.where(seen, scores, -jnp.inf))
            change = triton.dot(gradient, values, trans_b=True) - shared[:, None]
            change = (weights * change).astype(tiles.dtype)
            return carry + triton.dot(change, keys, trans_b=True)

        carry = jnp.zeros((tiles.rows, shape[2]), jnp.float32)
        for source in sources_of(tiles, source_refs, sources):
            carry = source.scan(block, carry)
        rows.store(out_ref, carry.astype(tiles.dtype))

    operands, specs = operands_of(tiles, shape, sources)
    return _call(
        tiles,
        "attention_to_query",
        kernel,
        (shape[0], pl.cdiv(shape[1], tiles.rows)),
        [*(per_head(x.shape) for x in rows), *specs],
        per_head(shape),
        jax.ShapeDtypeStruct(shape, tiles.dtype),
    )(*rows, *operands)


def _to_source(
    tiles: Tiles, rows: tuple[Array, ...], source: Columns
) -> tuple[Array, Array]:
    """The gradient of one source's keys and values."""
    shape, count = rows[0].shape, source.visible.shape[-1]
    width = tiles.width(source)

    def kernel(query_ref, gradient_ref, normalizer_ref, shared_ref, *refs):
        *source_refs, keys_out, values_out = refs
        (source_,) = sources_of(tiles, source_refs, (source,))
        start = pl.program_id(1) * width
        inside = start + jnp.arange(width) < count
        keys, values = source_.keys(start), source_.values(start)

        def block(number, carry):
            of_keys, of_values = carry
            rows = RowTile(tiles, shape[1], number)
            query, gradient = rows.load(query_ref), rows.load(gradient_ref)
            normalizer, shared = rows.load(normalizer_ref), rows.load(shared_ref)
            seen = rows.seen(source_, start) & rows.inside[:, None]
            scores = triton.dot(query, keys) - normalizer[:, None]
            weights = jnp.exp(jnp.where(seen, scores, -jnp.inf))
            of_values += triton.dot(weights.astype(tiles.dtype), gradient, trans_a=True)
            change = triton.dot(gradient, values, trans_b=True) - shared[:, None]
            change = (weights * change).astype(tiles.dtype)
            return of_keys + triton.dot(query, change, trans_a=True), of_values

        zeros = (
            jnp.zeros((shape[2], width), jnp.float32),
            jnp.zeros((width, shape[2]), jnp.float32),
        )
        of_keys, of_values = source_.scan_rows(block, zeros)
        at = pl.ds(start, width)
        fill = lambda inside, like: jnp.broadcast_to(inside, like.shape)
        triton.store(
            keys_out.at[:, at],
            of_keys.astype(tiles.dtype),
            mask=fill(inside[None], of_keys),
        )
        triton.store(
            values_out.at[at],
            of_values.astype(tiles.dtype),
            mask=fill(inside[:, None], of_values),
        )

    operands, specs = operands_of(tiles, shape, (source,), by_column=True)
    kept = lambda x: jax.ShapeDtypeStruct(x.shape, tiles.dtype)
    return _call(
        tiles,
        "attention_to_source",
        kernel,
        (shape[0], pl.cdiv(count, width)),
        [*(per_head(x.shape) for x in rows), *specs],
        (per_head(source.keys.shape), per_head(source.values.shape)),
        (kept(source.keys), kept(source.values)),
    )(*rows, *operands)


def _call(tiles: Tiles, name: str, kernel, grid, in_specs, out_specs, out_shape):
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        interpret=tiles.interpret,
        name=name,
        compiler_params=triton.CompilerParams(
            num_warps=tiles.warps, num_stages=tiles.stages
        ),
    )
