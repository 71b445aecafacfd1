"""The matrix product of a layer: one primitive, so that batches stay one matrix.

Under `vmap` and `grad`, `x @ weight` becomes a contraction over every batch axis, and
XLA's CPU backend transposes an activation for each weight's gradient. Here whatever is
batched is flattened to rows first, forward and backward.
"""

import math

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, DTypeLike, Float, Num

from ..sharding import spmd
from ..types import Axes


_FEW_ROWS = 32  # With more, tiles are put together: they would be read too often.

Weight = Num[Array, "inputs outputs"] | Num[Array, "tile inputs width"]


def product(
    x: Float[Array, "*batch inputs"],
    weight: Weight,
    dtype: DTypeLike,
    axes: Axes | None = None,
    result: DTypeLike | None = None,
) -> Float[Array, "*batch outputs"]:
    """A matrix product with operands in `dtype`, accumulated in float32.

    16-bit operands and a wide accumulator are what matrix units are made for, in the
    gradients too; float32 operands ask for the highest precision, which accelerators
    would lower. `result` is what it is returned in, and kept in for a backward pass:
    what goes into another product in 16 bits may be returned so.

    On a mesh a weight with named axes is put together for the product, in `dtype`, and
    its gradient is cut again as it is added up.

    A weight may come in tiles of its columns (`tiled`), which take a few rows a shorter
    time on a CPU.
    """
    sharding = spmd.weight_sharding(axes)
    wide = jnp.promote_types(jnp.float32, dtype)
    result, dtype = (jnp.dtype(one).name for one in (result or wide, dtype))
    return _product.bind(x, weight, dtype=dtype, sharding=sharding, result=result)


def tiled(
    weight: Num[Array, "*layer inputs outputs"], width: int
) -> Num[Array, "*layer tile inputs width"]:
    """A weight in tiles of so many columns, which divide it."""
    *layer, inputs, outputs = weight.shape
    cut = weight.reshape(*layer, inputs, outputs // width, width)
    return jnp.swapaxes(cut, -3, -2)


def untiled(
    tiles: Num[Array, "*layer tile inputs width"],
) -> Num[Array, "*layer inputs outputs"]:
    """The inverse of `tiled`."""
    *layer, count, inputs, width = tiles.shape
    return jnp.swapaxes(tiles, -3, -2).reshape(*layer, inputs, count * width)


def save_products(primitive: Primitive, *_: object, **__: object) -> bool:
    """A policy of `jax.checkpoint`: only products are kept for the backward pass."""
    return primitive is _product


def _contract(x: Array, y: Array, axes: tuple[int, int], dtype: str) -> Array:
    exact = dtype == "float32"
    z = jax.lax.dot_general(
        x.astype(dtype),
        y.astype(dtype),
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.promote_types(jnp.float32, dtype),
    )
    # XLA gives a product in 16 bits to a library, and may then make a transpose of the
    # result part of it, which the library refuses as the program runs.
    return jax.lax.optimization_barrier(z) if _narrow_on_cpu(dtype) else z


def _narrow_on_cpu(dtype: str) -> bool:
    return jnp.dtype(dtype).itemsize < 4 and spmd.platform() == "cpu"


def _contract_tiles(x: Array, tiles: Array, dtype: str) -> Array:
    """Each tile is a matrix of a batch: those are read where they lie.

    XLA's CPU library first copies a wide matrix into an order of its own, which takes
    as long as a product with a few rows.
    """
    count, _, width = tiles.shape
    multiply = jax.vmap(lambda x, tile: _contract(x, tile, (1, 0), dtype))
    y = multiply(jnp.broadcast_to(x, (count, *x.shape)), tiles)
    return jnp.swapaxes(y, 0, 1).reshape(len(x), count * width)


def _columns(rows: Array) -> Array:
    """The transpose, which XLA does not make part of the product that takes it.

    Its CPU backend multiplies 16 bits at twice the rate of float32, but not where the
    first operand's first axis is contracted: there it widens both.
    """
    flat = jax.lax.optimization_barrier(rows.T.reshape(-1))
    return flat.reshape(rows.shape[1], rows.shape[0])


def _matrix(weight: Array) -> Array:
    return untiled(weight) if weight.ndim == 3 else weight


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _used(weight: Array, dtype: str, sharding: spmd.WeightSharding | None) -> Array:
    """The weight as it is multiplied with, sent in the narrower of two dtypes."""
    if sharding is None:
        return weight.astype(dtype)
    if weight.dtype.itemsize > jnp.dtype(dtype).itemsize:
        weight = weight.astype(dtype)
    return jax.lax.with_sharding_constraint(weight, sharding.compute).astype(dtype)


def _compute(
    x: Array,
    weight: Array,
    *,
    dtype: str,
    sharding: spmd.WeightSharding | None,
    result: str,
) -> Array:
    rows, weight = _rows(x), _used(weight, dtype, sharding)
    if weight.ndim == 3 and len(rows) <= _FEW_ROWS:
        flat = _contract_tiles(rows, weight, dtype)
    else:
        flat = _contract(rows, _matrix(weight), (1, 0), dtype)
    return flat.astype(result).reshape(*x.shape[:-1], flat.shape[1])


def _shape(x, weight, *, dtype: str, sharding: spmd.WeightSharding | None, result: str):
    del dtype, sharding
    outputs = math.prod(weight.shape) // x.shape[-1]
    return ShapedArray((*x.shape[:-1], outputs), jnp.dtype(result))


def _batch(operands, axes, **options):
    x, weight = operands
    x_axis, weight_axis = axes
    if weight_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        return _product.bind(x, weight, **options), 0
    # Many weights, as in a sweep over seeds: not one product, but a batch of them.
    one = lambda x, weight: _compute(x, weight, **options)
    return jax.vmap(one, axes)(x, weight), 0


def _gradient_of_x(
    cotangent, x, weight, *, dtype: str, sharding: spmd.WeightSharding | None, **_
):
    weight = _matrix(_used(weight, dtype, sharding))
    flat = _contract(_rows(cotangent), weight, (1, 1), dtype)
    return flat.reshape(*cotangent.shape[:-1], -1).astype(x.aval.dtype)


def _gradient_of_weight(
    cotangent, x, weight, *, dtype: str, sharding: spmd.WeightSharding | None, **_
):
    rows, cotangents = _rows(x).astype(dtype), _rows(cotangent)
    if _narrow_on_cpu(dtype) and not spmd.is_auto_sharded():
        flat = _contract(_columns(rows), cotangents, (1, 0), dtype)
    else:
        flat = _contract(rows, cotangents, (0, 0), dtype)
    if sharding is not None:
        flat = jax.lax.with_sharding_constraint(flat, sharding.storage)
    if weight.aval.ndim == 3:
        flat = tiled(flat, weight.aval.shape[2])
    return flat.astype(weight.aval.dtype)


_product = Primitive("grpojax_product")
_product.def_impl(jax.jit(_compute, static_argnames=("dtype", "sharding", "result")))
_product.def_abstract_eval(_shape)
mlir.register_lowering(_product, mlir.lower_fun(_compute, multiple_results=False))
batching.primitive_batchers[_product] = _batch
ad.defbilinear(_product, _gradient_of_x, _gradient_of_weight)
