"""Products of rows that are sorted by expert, each with its expert's matrix."""

import functools as ft
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Num

from ...sharding import spmd
from ...types import accumulation_dtype
from ..matrix import AbstractMatrix, contract


_SMALLEST_BLOCK, _LARGEST_BLOCK = 4, 256  # Rows of a block on a CPU.


class Groups(NamedTuple):
    """Rows of the same expert, one expert after the other.

    **Fields:**

    - `counts`: how many rows each expert has; rows after all of them have none.
    - `expert`: of every row, in order; the number of experts for rows without one.
    - `block`: how many rows a CPU multiplies at a time.
    """

    counts: Int[Array, " expert"]
    expert: Int[Array, " row"]
    block: int

    @classmethod
    def of(cls, expert: Int[Array, " row"], experts: int) -> "Groups":
        """The groups of sorted rows."""
        edges = jnp.arange(experts + 1, dtype=expert.dtype)
        ends = jnp.searchsorted(expert, edges).astype(jnp.int32)
        mean = -(-expert.shape[0] // experts)
        block = 1 << (mean - 1).bit_length()
        block = min(max(block, _SMALLEST_BLOCK), _LARGEST_BLOCK)
        return cls(jnp.diff(ends), expert, block)


def grouped_product(
    x: Float[Array, "row inputs"],
    matrix: Num[Array, "expert inputs outputs"] | AbstractMatrix,
    groups: Groups,
    dtype: DTypeLike,
) -> Float[Array, "row outputs"]:
    """x[row] @ matrix[expert of the row], in float32; 0 for rows without an expert.

    **Arguments:**

    - `x`: rows, sorted by expert.
    - `matrix`: of every expert, `[expert inputs outputs]`.
    - `groups`: which rows belong to which expert.
    - `dtype`: of the operands.
    """
    if isinstance(matrix, AbstractMatrix):
        values, scale = matrix.values_and_scale(dtype)
        y = grouped_product(x, values, groups, dtype)
        if scale is None:
            return y
        return y * scale.at[groups.expert].get(mode="fill", fill_value=0)
    name = jnp.dtype(dtype).name
    x, matrix = x.astype(dtype), matrix.astype(dtype)
    if spmd.platform() == "cpu":
        return _blockwise(groups.block, name, x, matrix, groups.counts)
    y = jax.lax.ragged_dot(
        x,
        matrix,
        groups.counts,
        precision=jax.lax.Precision.HIGHEST if name == "float32" else None,
        preferred_element_type=accumulation_dtype(dtype),
    )
    return jnp.where((groups.expert < matrix.shape[0])[:, None], y, 0)


class _Blocks(NamedTuple):
    """Blocks of rows, each of one expert.

    **Fields:**

    - `start`, `end`: the first row of each block, and the end of its expert's rows.
    - `expert`: of each block.
    - `used`: how many blocks there are.
    """

    start: Int[Array, " block"]
    end: Int[Array, " block"]
    expert: Int[Array, " block"]
    used: Int[Array, ""]

    @classmethod
    def of(cls, counts: Int[Array, " expert"], rows: int, size: int) -> "_Blocks":
        blocks = -(-counts // size)
        ends, row_ends = jnp.cumsum(blocks), jnp.cumsum(counts)
        number = jnp.arange(min(rows, counts.shape[0] + rows // size), dtype=jnp.int32)
        expert = jnp.searchsorted(ends, number, side="right").astype(jnp.int32)
        expert = jnp.minimum(expert, counts.shape[0] - 1)
        within = number - (ends - blocks)[expert]
        start = (row_ends - counts)[expert] + within * size
        return cls(start, row_ends[expert], expert, ends[-1])


# A CPU's `ragged_dot` multiplies all rows by all matrices. This multiplies a block of
# rows at a time by the matrix of their expert, in a loop over the blocks that there
# are: its cost is that of the rows, and an expert without rows is never read.
@ft.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blockwise(
    size: int,
    dtype: str,
    x: Float[Array, "row inputs"],
    matrix: Num[Array, "expert inputs outputs"],
    counts: Int[Array, " expert"],
) -> Float[Array, "row outputs"]:
    return _multiply(size, dtype, x, matrix, counts, 0)


def _multiply(
    size: int, dtype: str, x: Array, matrix: Array, counts: Array, axis: int
) -> Array:
    """Blocks of `x` times matrices, over their inputs (axis 0) or outputs (axis 1)."""
    rows = x.shape[0]
    blocks = _Blocks.of(counts, rows, size)
    padded = jnp.pad(x, ((0, size), (0, 0)))
    outputs = matrix.shape[2 - axis]

    def add(number, y):
        # Rows of the next expert, if there are fewer than `size`, are written again.
        start = blocks.start[number]
        block = jax.lax.dynamic_slice_in_dim(padded, start, size)
        block = contract(block, matrix[blocks.expert[number]], (1, axis), dtype)
        return jax.lax.dynamic_update_slice_in_dim(y, block, start, 0)

    zeros = jnp.zeros((rows + size, outputs), accumulation_dtype(dtype))
    y = jax.lax.fori_loop(0, blocks.used, add, zeros)[:rows]
    has_expert = jnp.arange(rows) < jnp.sum(counts)
    return jnp.where(has_expert[:, None], y, 0)


def _forward(size: int, dtype: str, x: Array, matrix: Array, counts: Array):
    return _multiply(size, dtype, x, matrix, counts, 0), (x, matrix, counts)


def _backward(size: int, dtype: str, residuals: tuple, cotangent: Array):
    x, matrix, counts = residuals
    rows = x.shape[0]
    d_x = _multiply(size, dtype, cotangent.astype(dtype), matrix, counts, 1)
    blocks = _Blocks.of(counts, rows, size)
    padding = ((0, size), (0, 0))
    x_padded, padded = jnp.pad(x, padding), jnp.pad(cotangent.astype(dtype), padding)

    def add(number, total):
        start, expert = blocks.start[number], blocks.expert[number]
        inputs = jax.lax.dynamic_slice_in_dim(x_padded, start, size)
        is_own = start + jnp.arange(size) < blocks.end[number]
        inputs = jnp.where(is_own[:, None], inputs, 0)
        outputs = jax.lax.dynamic_slice_in_dim(padded, start, size)
        return total.at[expert].add(contract(inputs, outputs, (0, 0), dtype))

    zeros = jnp.zeros(matrix.shape, accumulation_dtype(dtype))
    d_matrix = jax.lax.fori_loop(0, blocks.used, add, zeros)
    return d_x.astype(x.dtype), d_matrix.astype(matrix.dtype), None


_blockwise.defvjp(_forward, _backward)
