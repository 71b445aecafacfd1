"""Attention in one kernel, for NVIDIA GPUs: scores never leave the chip.

    p = softmax over all sources of (q kᵀ where visible),    out = Σ p v

A program of the kernel has a block of one head's queries and goes through the columns
of all sources with a running softmax (FlashAttention-2, arXiv:2307.08691). Of each
source it reads the blocks between the first and the last column that one of them sees:
what a cache does not hold yet costs nothing.

Everything is of one stream, as in `attend`; `vmap` puts axes in front of the grid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Int8, Shaped


_LEAST = 16  # Rows and columns of the smallest tile that tensor cores multiply.
_WORD = 32  # Columns whose visibility to one token is kept in one integer.


class Columns(NamedTuple):
    """One source: keys and values as they are kept, and what each token sees."""

    keys: Shaped[Array, "kv_head head_dim column"]
    values: Shaped[Array, "kv_head column head_dim"]
    visible: Bool[Array, "#chunk column"]


Rows = Float[Array, "kv_head row head_dim"]
"""Queries or what was mixed for them: `repeats` rows for each token, token by token."""


class Tiles(NamedTuple):
    """How the work of a kernel is cut.

    **Fields:**

    - `repeats`: rows of one token, which share a head's keys.
    - `rows`, `columns`: of one tile, powers of two.
    - `warps`, `stages`: of a program, and loads that are on their way at a time.
    - `dtype`: of the operands of all products, of 16 bits.
    - `interpret`: computes with JAX what a kernel would, on any device.
    """

    repeats: int
    rows: int
    columns: int
    warps: int
    stages: int
    dtype: str
    interpret: bool = False

    def width(self, source: Columns) -> int:
        """Columns of one tile; a source may have fewer than fill it."""
        least = pl.next_power_of_2(source.visible.shape[-1])
        return max(_LEAST, min(self.columns, least))


def fits(head_dim: int, dtype: DTypeLike) -> bool:
    """Whether tiles can be cut: 16-bit floats, heads as wide as a power of two."""
    power = head_dim >= _LEAST and head_dim & (head_dim - 1) == 0
    return power and jnp.dtype(dtype).itemsize == 2


def tiles_for(query: Rows, repeats: int, dtype: DTypeLike, **options: bool) -> Tiles:
    """Tiles for queries of which a token has `repeats`."""
    _, rows, head_dim = query.shape
    height = min(64, max(_LEAST, pl.next_power_of_2(rows)))
    if rows == repeats:
        # One token: a program waits for memory, and little else.
        sizes = height, max(2 * _WORD, 8192 // head_dim), 4, 2
    else:
        sizes = height, 2 * _WORD, 4, 3 if head_dim <= 64 else 2
    return Tiles(repeats, *sizes, jnp.dtype(dtype).name, **options)


def forward(
    tiles: Tiles, query: Rows, sources: tuple[Columns, ...]
) -> tuple[Rows, Float[Array, "kv_head row"]]:
    """Attention of scaled queries, of which each sees a column of all at least.

    **Returns:** what was mixed, and the logarithm of each row's sum of exponentials.
    """
    shape = query.shape

    def kernel(*refs):
        query_ref, *source_refs, out_ref, normalizer_ref = refs
        rows = _Rows(tiles, shape[1])
        query = rows.load(query_ref)

        def one_column(source, carry):
            mixed, total, peak = carry
            wide = query.astype(jnp.float32)
            scores = jnp.sum(wide * source.only(source.keys_ref), axis=1)
            seen = triton.load(source.visible_ref.at[pl.ds(0, 1)]).astype(jnp.int32)
            scores = jnp.where(jnp.broadcast_to(seen, scores.shape) != 0, scores, -jnp.inf)
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
        for source in _sources(tiles, source_refs, sources):
            # A token's own column needs no matrix unit, and nothing to wait for.
            alone = source.count == 1
            carry = one_column(source, carry) if alone else source.scan(block, carry)
        mixed, total, peak = carry
        total = jnp.where(total > 0, total, 1.0)  # Rows past the last one.
        rows.store(out_ref, (mixed / total[:, None]).astype(tiles.dtype))
        rows.store(normalizer_ref, peak + jnp.log(total))

    operands, specs = _operands(tiles, shape, sources)
    return _call(
        tiles,
        "attention",
        kernel,
        (shape[0], pl.cdiv(shape[1], tiles.rows)),
        [_per_head(shape), *specs],
        (_per_head(shape), _per_head(shape[:2])),
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
    wide = lambda x: x.astype(jnp.float32)
    shared = jnp.sum(wide(mixed) * wide(gradient), axis=-1)
    rows = query, gradient.astype(tiles.dtype), normalizer, shared
    of_sources = tuple(_to_source(tiles, rows, source) for source in sources)
    return _to_query(tiles, rows, sources), of_sources


def _to_query(
    tiles: Tiles, rows: tuple[Array, ...], sources: tuple[Columns, ...]
) -> Array:
    """The gradient of the queries."""
    shape = rows[0].shape

    def kernel(query_ref, gradient_ref, normalizer_ref, shared_ref, *refs):
        *source_refs, out_ref = refs
        rows = _Rows(tiles, shape[1])
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
        for source in _sources(tiles, source_refs, sources):
            carry = source.scan(block, carry)
        rows.store(out_ref, carry.astype(tiles.dtype))

    operands, specs = _operands(tiles, shape, sources)
    return _call(
        tiles,
        "attention_to_query",
        kernel,
        (shape[0], pl.cdiv(shape[1], tiles.rows)),
        [*(_per_head(x.shape) for x in rows), *specs],
        _per_head(shape),
        jax.ShapeDtypeStruct(shape, tiles.dtype),
    )(*rows, *operands)


def _to_source(
    tiles: Tiles, rows: tuple[Array, ...], source: Columns
) -> tuple[Array, Array]:
    """The gradient of one source's keys and values."""
    tiles = tiles._replace(rows=min(tiles.rows, 64))
    shape, count = rows[0].shape, source.visible.shape[-1]
    width = tiles.width(source)

    def kernel(query_ref, gradient_ref, normalizer_ref, shared_ref, *refs):
        *source_refs, keys_out, values_out = refs
        (source_,) = _sources(tiles, source_refs, (source,))
        start = pl.program_id(1) * width
        column = start + jnp.arange(width)
        inside = column < count
        keys, values = source_.keys(start), source_.values(start)

        def block(number, carry):
            of_keys, of_values = carry
            rows = _Rows(tiles, shape[1], number)
            query, gradient = rows.load(query_ref), rows.load(gradient_ref)
            normalizer, shared = rows.load(normalizer_ref), rows.load(shared_ref)
            seen = rows.seen(source_, start) & rows.inside[:, None]
            scores = triton.dot(query, keys) - normalizer[:, None]
            weights = jnp.exp(jnp.where(seen, scores, -jnp.inf))
            of_values += triton.dot(weights.astype(tiles.dtype), gradient, trans_a=True)
            change = triton.dot(gradient, values, trans_b=True) - shared[:, None]
            change = (weights * change).astype(tiles.dtype)
            return of_keys + triton.dot(query, change, trans_a=True), of_values

        zeros = jnp.zeros((shape[2], width), jnp.float32), jnp.zeros(
            (width, shape[2]), jnp.float32
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

    operands, specs = _operands(tiles, shape, (source,), by_column=True)
    kept = lambda x: jax.ShapeDtypeStruct(x.shape, tiles.dtype)
    return _call(
        tiles,
        "attention_to_source",
        kernel,
        (shape[0], pl.cdiv(count, width)),
        [*(_per_head(x.shape) for x in rows), *specs],
        (_per_head(source.keys.shape), _per_head(source.values.shape)),
        (kept(source.keys), kept(source.values)),
    )(*rows, *operands)


class _Rows:
    """A block of rows inside of a kernel."""

    def __init__(self, tiles: Tiles, count: int, number=None):
        self.tiles = tiles
        self.start = (pl.program_id(1) if number is None else number) * tiles.rows
        row = self.start + jnp.arange(tiles.rows)
        self.inside = row < count
        self.token = jax.lax.div(jnp.minimum(row, count - 1), jnp.int32(tiles.repeats))

    def load(self, ref) -> Array:
        at, mask = self._at(ref)
        return triton.load(at, mask=mask, other=0.0)

    def store(self, ref, value: Array):
        at, mask = self._at(ref)
        triton.store(at, value, mask=mask)

    def _at(self, ref):
        at = pl.ds(self.start, self.tiles.rows)
        if len(ref.shape) == 1:
            return ref.at[at], self.inside
        return ref.at[at, :], jnp.broadcast_to(
            self.inside[:, None], (self.tiles.rows, ref.shape[1])
        )

    def seen(self, source: "_Source", start) -> Array:
        """What each row sees of a tile of columns."""
        width, visible = source.width, source.visible_ref
        shape = (self.tiles.rows, width)
        at = start + jnp.arange(width)
        if len(visible.shape) == 1:
            seen = triton.load(visible.at[pl.ds(start, width)], mask=at < source.count, other=0)
            return jnp.broadcast_to(seen.astype(jnp.int32)[None] != 0, shape)
        # A row's bits are a load or two, where booleans would be one for each column.
        first = jax.lax.div(start, jnp.int32(_WORD))
        word = lambda number: jnp.broadcast_to(
            triton.load(visible.at[first + number, self.token])[:, None], shape
        )
        column = jnp.broadcast_to(jnp.arange(width)[None], shape)
        words = word(0)
        if width > _WORD:
            words = jnp.where(column < _WORD, words, word(1))
        bits = jax.lax.shift_right_logical(words, column % _WORD)
        return bits & 1 != 0


class _Source:
    """A source inside of a kernel: what lies where, and which blocks of it count."""

    def __init__(self, tiles: Tiles, refs, source: Columns):
        self.keys_ref, self.values_ref, self.visible_ref, first, last = refs
        self.dtype = tiles.dtype
        self.width = tiles.width(source)
        self.count = source.visible.shape[-1]
        block = pl.program_id(1)
        self.first, self.last = first[block], last[block]

    def keys(self, start) -> Array:
        shape = (self.keys_ref.shape[0], self.width)
        inside = jnp.broadcast_to(self._inside(start)[None], shape)
        return self._floats(self.keys_ref.at[:, pl.ds(start, self.width)], inside)

    def values(self, start) -> Array:
        shape = (self.width, self.values_ref.shape[1])
        inside = jnp.broadcast_to(self._inside(start)[:, None], shape)
        return self._floats(self.values_ref.at[pl.ds(start, self.width), :], inside)

    def only(self, ref) -> Array:
        """The only column's keys or values, `[1 head_dim]`, as float32."""
        found = triton.load(ref.at[:, :]).reshape(1, -1)
        return self._as_floats(found).astype(jnp.float32)

    def _inside(self, start) -> Array:
        return start + jnp.arange(self.width) < self.count

    def _floats(self, at, inside) -> Array:
        mask = None if self.count % self.width == 0 else inside
        found = triton.load(at, mask=mask, other=None if mask is None else 0)
        return self._as_floats(found)

    def _as_floats(self, found: Array) -> Array:
        if found.dtype == jnp.uint16:
            return jax.lax.bitcast_convert_type(found, jnp.dtype(self.dtype))
        return found

    def scan(self, block, carry):
        """Through the blocks of columns that these rows see any of."""
        return jax.lax.fori_loop(
            self.first,
            self.last,
            lambda number, carry: block(self, number * self.width, carry),
            carry,
        )

    def scan_rows(self, block, carry):
        """Through the blocks of rows that see any of these columns."""
        return jax.lax.fori_loop(self.first, self.last, block, carry)


def _sources(tiles: Tiles, refs, sources: tuple[Columns, ...]) -> list[_Source]:
    each = len(refs) // len(sources)
    return [
        _Source(tiles, refs[number * each : (number + 1) * each], source)
        for number, source in enumerate(sources)
    ]


def _operands(
    tiles: Tiles,
    shape: tuple[int, ...],
    sources: tuple[Columns, ...],
    by_column: bool = False,
) -> tuple[list[Array], list[pl.BlockSpec]]:
    """What a kernel is given of its sources, and where a head's share begins."""
    operands, specs = [], []
    for source in sources:
        width = tiles.width(source)
        first, last = _bounds(tiles, source.visible, width, shape[1], by_column)
        visible = _packed(source.visible)
        operands += [source.keys, source.values, visible, first, last]
        specs += [_per_head(source.keys.shape), _per_head(source.values.shape)]
        specs += [_shared(visible.shape), _shared(first.shape), _shared(last.shape)]
    return operands, specs


def _packed(visible: Bool[Array, "#chunk column"]) -> Array:
    """What a kernel is told: a flag for each column, or bits, `[word chunk]`."""
    tokens, columns = visible.shape
    if tokens == 1:
        return visible[0].astype(jnp.int8)
    words = 2 * -(-columns // (2 * _WORD))
    padded = jnp.pad(visible, ((0, 0), (0, words * _WORD - columns)))
    bits = padded.reshape(tokens, words, _WORD).astype(jnp.uint32)
    bits = bits << jnp.arange(_WORD, dtype=jnp.uint32)
    packed = jnp.sum(bits, axis=-1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(packed, jnp.int32).T


def _bounds(
    tiles: Tiles,
    visible: Bool[Array, "#chunk column"],
    width: int,
    rows: int,
    by_column: bool,
) -> tuple[Int[Array, " block"], Int[Array, " block"]]:
    """The first block that counts and the one after the last; equal if none does.

    Blocks of columns, for every block of rows; or the other way around.
    """
    tokens, columns = visible.shape
    blocks = -(-columns // width)
    padded = jnp.pad(visible, ((0, 0), (0, blocks * width - columns)))
    any_seen = jnp.any(padded.reshape(tokens, blocks, width), axis=-1)
    row_blocks = -(-rows // tiles.rows)
    index = lambda count: jnp.arange(count, dtype=jnp.int32)
    if by_column:
        if tokens == 1:
            seen = any_seen[0]
            return jnp.zeros(blocks, jnp.int32), jnp.where(seen, row_blocks, 0)
        token = index(tokens)[:, None]
        first = jnp.min(jnp.where(any_seen, token, tokens), axis=0)
        last = jnp.max(jnp.where(any_seen, token, -1), axis=0)
        first, last = first * tiles.repeats, (last + 1) * tiles.repeats
        first, last = first // tiles.rows, -(-last // tiles.rows)
        return jnp.minimum(first, last).astype(jnp.int32), last.astype(jnp.int32)
    block = index(blocks)
    first = jnp.min(jnp.where(any_seen, block, blocks), axis=1)
    last = jnp.max(jnp.where(any_seen, block + 1, 0), axis=1)
    token = jnp.minimum(index(row_blocks * tiles.rows), rows - 1) // tiles.repeats
    token = jnp.minimum(token, tokens - 1).reshape(row_blocks, tiles.rows)
    first, last = jnp.min(first[token], axis=1), jnp.max(last[token], axis=1)
    return jnp.minimum(first, last), last


def _per_head(shape: tuple[int, ...]) -> pl.BlockSpec:
    rest = len(shape) - 1
    return pl.BlockSpec((None, *shape[1:]), lambda head, _: (head, *(0,) * rest))


def _shared(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))


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
