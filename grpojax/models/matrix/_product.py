"""The matrix product of a layer, as a primitive that flattens batch axes to rows.

Under `vmap` and `grad`, `x @ weight` becomes a contraction over every batch axis, and
XLA's CPU backend transposes an activation for each weight's gradient. Here all batch
axes are flattened to rows first, forward and backward.
"""

import functools as ft
import math

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, DTypeLike, Float, Num

from ...sharding import spmd
from ...types import accumulation_dtype, Axes
from ._tiles import from_tiles, to_tiles


_MAX_TILED_ROWS = 32  # With more rows, a product with the entire matrix is faster.

Weight = Num[Array, "inputs outputs"] | Num[Array, "tile inputs width"]


def product(
    x: Float[Array, "*batch inputs"],
    weight: Weight,
    dtype: DTypeLike,
    axes: Axes | None = None,
    result: DTypeLike | None = None,
) -> Float[Array, "*batch outputs"]:
    """A matrix product with operands in `dtype`, accumulated in float32.

    The gradients accumulate in float32, too. Products of float32 operands ask for the
    highest precision, which accelerators would lower. On a mesh, a weight with logical
    axes is all-gathered for the product, in the narrower of its dtype and `dtype`, and
    its gradient is reduced back to the weight's own sharding.

    **Arguments:**

    - `x`: the rows.
    - `weight`: the matrix, or its tiles (`to_tiles`), which are faster for few rows on
        a CPU.
    - `dtype`: of both operands.
    - `axes`: the weight's logical axes, if a mesh may shard it.
    - `result`: dtype of the result, and so of what a backward pass stores of it;
        float32 by default.
    """
    sharding = spmd.weight_sharding(axes)
    wide = accumulation_dtype(dtype)
    result, dtype = (jnp.dtype(one).name for one in (result or wide, dtype))
    return _product.bind(x, weight, dtype=dtype, sharding=sharding, result=result)


def save_products(primitive: Primitive, *_: object, **__: object) -> bool:
    """A policy for `jax.checkpoint`: only products are saved."""
    return primitive is _product


def contract(x: Array, y: Array, axes: tuple[int, int], dtype: str) -> Array:
    """The product of two matrices over one axis of each, accumulated in float32."""
    exact = dtype == "float32"
    z = jax.lax.dot_general(
        x.astype(dtype),
        y.astype(dtype),
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=accumulation_dtype(dtype),
    )
    # XLA calls a library for a product in 16 bits, and may fuse a transpose of the
    # result into the call, which the library rejects at run time.
    return jax.lax.optimization_barrier(z) if _is_16_bit_on_cpu(dtype) else z


def _is_16_bit_on_cpu(dtype: str) -> bool:
    return jnp.dtype(dtype).itemsize < 4 and spmd.platform() == "cpu"


def _contract_tiles(x: Array, tiles: Array, dtype: str) -> Array:
    """A batched product with every tile: see `_tiles`."""
    count, _, width = tiles.shape
    multiply = jax.vmap(lambda x, tile: contract(x, tile, (1, 0), dtype))
    y = multiply(jnp.broadcast_to(x, (count, *x.shape)), tiles)
    return jnp.swapaxes(y, 0, 1).reshape(len(x), count * width)


def _transpose(rows: Array) -> Array:
    """The transpose, kept out of the product that reads it.

    XLA's CPU backend multiplies 16 bits at twice the rate of float32, except where the
    first operand's first axis is contracted: there it widens both operands.
    """
    flat = jax.lax.optimization_barrier(rows.T.reshape(-1))
    return flat.reshape(rows.shape[1], rows.shape[0])


def _untile(weight: Array) -> Array:
    return from_tiles(weight) if weight.ndim == 3 else weight


def _flatten(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _all_gather(
    weight: Array, dtype: str, sharding: spmd.WeightSharding | None
) -> Array:
    """The weight in `dtype`, all-gathered in the narrower of its dtype and `dtype`."""
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
    rows, weight = _flatten(x), _all_gather(weight, dtype, sharding)
    if weight.ndim == 3 and len(rows) <= _MAX_TILED_ROWS:
        flat = _contract_tiles(rows, weight, dtype)
    else:
        flat = contract(rows, _untile(weight), (1, 0), dtype)
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
    # Many weights, such as a copy in each shard, or of a sweep over seeds.
    return jax.vmap(ft.partial(_product_of_many, tuple(options.items())), axes)(
        x, weight
    ), 0


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product_of_many(options: tuple, x: Array, weight: Array) -> Array:
    """The product under `vmap` over weights, with the gradients of the primitive."""
    return _compute(x, weight, **dict(options))


def _many_backward(options: tuple, residuals: tuple[Array, Array], cotangent: Array):
    x, weight = residuals
    # Where each weight's gradient is summed up is for whoever made many of them.
    local = {**dict(options), "sharding": None}
    shape = lambda x: ad.UndefinedPrimal(jax.typeof(x))
    return (
        _gradient_of_x(cotangent, shape(x), weight, **dict(options)),
        _gradient_of_weight(cotangent, x, shape(weight), **local),
    )


_product_of_many.defvjp(
    lambda options, x, weight: (_product_of_many(options, x, weight), (x, weight)),
    _many_backward,
)


def _gradient_of_x(
    cotangent, x, weight, *, dtype: str, sharding: spmd.WeightSharding | None, **_
):
    weight = _untile(_all_gather(weight, dtype, sharding))
    flat = contract(_flatten(cotangent), weight, (1, 1), dtype)
    return flat.reshape(*cotangent.shape[:-1], -1).astype(x.aval.dtype)


def _gradient_of_weight(
    cotangent, x, weight, *, dtype: str, sharding: spmd.WeightSharding | None, **_
):
    rows, cotangents = _flatten(x).astype(dtype), _flatten(cotangent)
    if _is_16_bit_on_cpu(dtype) and not spmd.is_auto_sharded():
        flat = contract(_transpose(rows), cotangents, (1, 0), dtype)
    else:
        flat = contract(rows, cotangents, (0, 0), dtype)
    if sharding is not None:
        flat = jax.lax.with_sharding_constraint(flat, sharding.storage)
    if weight.aval.ndim == 3:
        flat = to_tiles(flat, weight.aval.shape[2])
    return flat.astype(weight.aval.dtype)


_product = Primitive("grpojax_product")
_product.def_impl(jax.jit(_compute, static_argnames=("dtype", "sharding", "result")))
_product.def_abstract_eval(_shape)
mlir.register_lowering(_product, mlir.lower_fun(_compute, multiple_results=False))
batching.primitive_batchers[_product] = _batch
ad.defbilinear(_product, _gradient_of_x, _gradient_of_weight)
