"""Blocks of rows and columns of the attention kernels, and their masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, DTypeLike, Int, Shaped

from .._products import QueryRows


_MIN_BLOCK = 16  # Rows and columns of the smallest block for tensor cores.
_WORD_BITS = 32  # Columns of a packed mask in one integer.


class MaskedCache(NamedTuple):
    """Stored keys and values, and the mask of each token of the chunk."""

    keys: Shaped[Array, "kv_head head_dim column"]
    values: Shaped[Array, "kv_head column head_dim"]
    visible: Bool[Array, "#chunk column"]


class KernelConfig(NamedTuple):
    """Block sizes and compiler options of a kernel.

    **Fields:**

    - `repeats`: query heads that share a key-value head: rows of one token.
    - `block_rows`, `block_columns`: size of a block, powers of two.
    - `num_warps`: warps of a program.
    - `num_stages`: pipelined loads.
    - `dtype`: of the operands of all products, 16 bits.
    - `interpret`: runs Pallas' interpreter, on any device.
    """

    repeats: int
    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int
    dtype: str
    interpret: bool = False

    def width(self, source: MaskedCache) -> int:
        """Columns of a source's blocks; fewer than `block_columns` if it is narrow."""
        least = pl.next_power_of_2(source.visible.shape[-1])
        return max(_MIN_BLOCK, min(self.block_columns, least))


def supports_kernel(head_dim: int, dtype: DTypeLike) -> bool:
    """Whether there is a kernel: 16-bit floats, and heads as wide as a power of two."""
    power = head_dim >= _MIN_BLOCK and head_dim & (head_dim - 1) == 0
    return power and jnp.dtype(dtype).itemsize == 2


def kernel_config(
    query: QueryRows, repeats: int, dtype: DTypeLike, *, interpret: bool = False
) -> KernelConfig:
    """Block sizes for queries of which each token has `repeats` rows."""
    _, rows, head_dim = query.shape
    height = min(64, max(_MIN_BLOCK, pl.next_power_of_2(rows)))
    if rows == repeats:
        # Decoding one token is bound by memory bandwidth.
        width, warps, stages = min(128, max(2 * _WORD_BITS, 8192 // head_dim)), 4, 2
    else:
        width, warps, stages = 2 * _WORD_BITS, 4, 3 if head_dim <= 64 else 2
    name = jnp.dtype(dtype).name
    return KernelConfig(repeats, height, width, warps, stages, name, interpret)


class RowBlock:
    """A block of query rows inside a kernel."""

    def __init__(self, config: KernelConfig, count: int, number=None):
        self.config = config
        self.start = (
            pl.program_id(1) if number is None else number
        ) * config.block_rows
        row = self.start + jnp.arange(config.block_rows)
        self.inside = row < count
        self.token = jax.lax.div(jnp.minimum(row, count - 1), jnp.int32(config.repeats))

    def load(self, ref) -> Array:
        at, mask = self._at(ref)
        return triton.load(at, mask=mask, other=0.0)

    def store(self, ref, value: Array):
        at, mask = self._at(ref)
        triton.store(at, value, mask=mask)

    def _at(self, ref):
        at = pl.ds(self.start, self.config.block_rows)
        if len(ref.shape) == 1:
            return ref.at[at], self.inside
        return ref.at[at, :], jnp.broadcast_to(
            self.inside[:, None], (self.config.block_rows, ref.shape[1])
        )

    def mask(self, source: "SourceBlocks", start) -> Array:
        """The mask of each row in a block of columns."""
        width, visible = source.width, source.visible_ref
        shape = (self.config.block_rows, width)
        at = start + jnp.arange(width)
        if len(visible.shape) == 1:
            seen = triton.load(
                visible.at[pl.ds(start, width)], mask=at < source.count, other=0
            )
            return jnp.broadcast_to(seen.astype(jnp.int32)[None] != 0, shape)
        # A row's bits are one or two loads; booleans would be one for each column.
        first = jax.lax.div(start, jnp.int32(_WORD_BITS))
        word = lambda number: jnp.broadcast_to(
            triton.load(visible.at[first + number, self.token])[:, None], shape
        )
        column = jnp.broadcast_to(jnp.arange(width)[None], shape)
        words = word(0)
        if width > _WORD_BITS:
            words = jnp.where(column < _WORD_BITS, words, word(1))
        bits = jax.lax.shift_right_logical(words, column % _WORD_BITS)
        return bits & 1 != 0


class SourceBlocks:
    """A source inside a kernel: its references, and the range of blocks to visit."""

    def __init__(self, config: KernelConfig, refs, source: MaskedCache):
        self.keys_ref, self.values_ref, self.visible_ref, first, last = refs
        self.dtype = config.dtype
        self.width = config.width(source)
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

    def single_column(self, ref) -> Array:
        """Keys or values of a source with one column, `[1 head_dim]`, in float32."""
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

    def scan_columns(self, block, carry):
        """A loop over the blocks of columns that any of these rows attends to."""
        return jax.lax.fori_loop(
            self.first,
            self.last,
            lambda number, carry: block(self, number * self.width, carry),
            carry,
        )

    def scan_rows(self, block, carry):
        """A loop over the blocks of rows that attend to any of these columns."""
        return jax.lax.fori_loop(self.first, self.last, block, carry)


def source_blocks(
    config: KernelConfig, refs, sources: tuple[MaskedCache, ...]
) -> list[SourceBlocks]:
    """The sources of a kernel, from the references of `source_operands`."""
    each = len(refs) // len(sources)
    return [
        SourceBlocks(config, refs[number * each : (number + 1) * each], source)
        for number, source in enumerate(sources)
    ]


def source_operands(
    config: KernelConfig,
    shape: tuple[int, ...],
    sources: tuple[MaskedCache, ...],
    by_column: bool = False,
) -> tuple[list[Array], list[pl.BlockSpec]]:
    """A kernel's operands for its sources, and their block specifications."""
    operands, specs = [], []
    for source in sources:
        width = config.width(source)
        first, last = _block_bounds(config, source.visible, width, shape[1], by_column)
        visible = _pack_mask(source.visible)
        operands += [source.keys, source.values, visible, first, last]
        specs += [head_spec(source.keys.shape), head_spec(source.values.shape)]
        specs += [
            _shared_spec(visible.shape),
            _shared_spec(first.shape),
            _shared_spec(last.shape),
        ]
    return operands, specs


def _pack_mask(visible: Bool[Array, "#chunk column"]) -> Array:
    """The mask of a shared row as one flag a column, or of all rows as bits.

    **Returns:** `Int8[column]`, or `Int32[word chunk]`.
    """
    tokens, columns = visible.shape
    if tokens == 1:
        return visible[0].astype(jnp.int8)
    words = 2 * -(-columns // (2 * _WORD_BITS))
    padded = jnp.pad(visible, ((0, 0), (0, words * _WORD_BITS - columns)))
    bits = padded.reshape(tokens, words, _WORD_BITS).astype(jnp.uint32)
    bits = bits << jnp.arange(_WORD_BITS, dtype=jnp.uint32)
    packed = jnp.sum(bits, axis=-1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(packed, jnp.int32).T


def _block_bounds(
    config: KernelConfig,
    visible: Bool[Array, "#chunk column"],
    width: int,
    rows: int,
    by_column: bool,
) -> tuple[Int[Array, " block"], Int[Array, " block"]]:
    """For each block of rows, the range of blocks of columns that it attends to.

    With `by_column`, for each block of columns the range of blocks of rows.

    **Returns:** the first block and the one after the last; equal if there is none.
    """
    tokens, columns = visible.shape
    blocks = -(-columns // width)
    padded = jnp.pad(visible, ((0, 0), (0, blocks * width - columns)))
    any_seen = jnp.any(padded.reshape(tokens, blocks, width), axis=-1)
    row_blocks = -(-rows // config.block_rows)
    index = lambda count: jnp.arange(count, dtype=jnp.int32)
    if by_column:
        if tokens == 1:
            seen = any_seen[0]
            return jnp.zeros(blocks, jnp.int32), jnp.where(seen, row_blocks, 0)
        token = index(tokens)[:, None]
        first = jnp.min(jnp.where(any_seen, token, tokens), axis=0)
        last = jnp.max(jnp.where(any_seen, token, -1), axis=0)
        first, last = first * config.repeats, (last + 1) * config.repeats
        first, last = first // config.block_rows, -(-last // config.block_rows)
        return jnp.minimum(first, last).astype(jnp.int32), last.astype(jnp.int32)
    block = index(blocks)
    first = jnp.min(jnp.where(any_seen, block, blocks), axis=1)
    last = jnp.max(jnp.where(any_seen, block + 1, 0), axis=1)
    token = (
        jnp.minimum(index(row_blocks * config.block_rows), rows - 1) // config.repeats
    )
    token = jnp.minimum(token, tokens - 1).reshape(row_blocks, config.block_rows)
    first, last = jnp.min(first[token], axis=1), jnp.max(last[token], axis=1)
    return jnp.minimum(first, last), last


def head_spec(shape: tuple[int, ...]) -> pl.BlockSpec:
    """One head of an array, for all programs of that head."""
    rest = len(shape) - 1
    return pl.BlockSpec((None, *shape[1:]), lambda head, _: (head, *(0,) * rest))


def _shared_spec(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))
