"""How the kernels of attention are cut into tiles, and what a tile knows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Shaped


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
        sizes = height, min(128, max(2 * _WORD, 8192 // head_dim)), 4, 2
    else:
        sizes = height, 2 * _WORD, 4, 3 if head_dim <= 64 else 2
    return Tiles(repeats, *sizes, jnp.dtype(dtype).name, **options)


class RowTile:
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

    def seen(self, source: "SourceTiles", start) -> Array:
        """What each row sees of a tile of columns."""
        width, visible = source.width, source.visible_ref
        shape = (self.tiles.rows, width)
        at = start + jnp.arange(width)
        if len(visible.shape) == 1:
            seen = triton.load(
                visible.at[pl.ds(start, width)], mask=at < source.count, other=0
            )
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


class SourceTiles:
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
        return found.astype(self.dtype)

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


def sources_of(tiles: Tiles, refs, sources: tuple[Columns, ...]) -> list[SourceTiles]:
    each = len(refs) // len(sources)
    return [
        SourceTiles(tiles, refs[number * each : (number + 1) * each], source)
        for number, source in enumerate(sources)
    ]


def operands_of(
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
        specs += [per_head(source.keys.shape), per_head(source.values.shape)]
        specs += [
            _by_all_heads(visible.shape),
            _by_all_heads(first.shape),
            _by_all_heads(last.shape),
        ]
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


def per_head(shape: tuple[int, ...]) -> pl.BlockSpec:
    rest = len(shape) - 1
    return pl.BlockSpec((None, *shape[1:]), lambda head, _: (head, *(0,) * rest))


def _by_all_heads(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))
