"""Functions of rows, called once for the rows of all batch axes.

`vmap` of a function that sorts its rows by expert would sort, and read the experts'
weights, for every element of the batch. This primitive flattens batch axes to rows
first, forward and backward, as the product of a layer does (`matrix.product`).
"""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Num, PyTree


@dataclasses.dataclass(frozen=True)
class _Call:
    """A function of `count` arrays of rows and of a tree that all rows share."""

    function: Callable[..., Array]
    count: int
    tree: Any

    def __call__(self, *arrays: Array) -> Array:
        rows, leaves = arrays[: self.count], arrays[self.count :]
        batch = rows[0].shape[:-1]
        flat = [x.reshape(-1, x.shape[-1]) for x in rows]
        y = self.function(*flat, self.tree.unflatten(leaves))
        return y.reshape(*batch, y.shape[-1])


def map_rows(
    function: Callable[..., Array], *rows: Num[Array, "*batch _"], shared: PyTree
) -> Float[Array, "*batch _"]:
    """`function(*rows, shared)`, with the rows of all batch axes in one.

    Nothing but the arguments is saved for the backward pass, which computes again what
    it needs.

    **Arguments:**

    - `function`: hashable; takes arrays `[row features]` and `shared`, and returns one.
        Its result for a row does not depend on the other rows.
    - `rows`: arrays that differ in their last axis only.
    - `shared`: a tree of arrays.
    """
    leaves, tree = jax.tree.flatten(shared)
    return _map.bind(*rows, *leaves, call=_Call(function, len(rows), tree))


def _shape(*arrays, call: _Call):
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    found = jax.eval_shape(call, *shapes)
    return ShapedArray(found.shape, found.dtype)


def _compute(*arrays: Array, call: _Call) -> Array:
    return call(*arrays)


def _batch(arrays, axes, *, call: _Call):
    count = call.count
    if any(axis is not None for axis in axes[count:]):
        return jax.vmap(call, axes)(*arrays), 0  # Such as a sweep over seeds.
    mapped = list(zip(arrays[:count], axes[:count], strict=True))
    size = next(x.shape[axis] for x, axis in mapped if axis is not None)
    rows = [
        jnp.broadcast_to(x, (size, *x.shape))
        if axis is None
        else jnp.moveaxis(x, axis, 0)
        for x, axis in mapped
    ]
    return _map.bind(*rows, *arrays[count:], call=call), 0


def _jvp(primals, tangents, *, call: _Call):
    y = _map.bind(*primals, call=call)
    moved = [i for i, x in enumerate(tangents) if not isinstance(x, ad.Zero)]
    tangent = _tangent.bind(
        *primals, *(tangents[i] for i in moved), call=call, moved=tuple(moved)
    )
    return y, tangent


def _tangent_shape(*arrays, call: _Call, moved: tuple[int, ...]):
    return _shape(*arrays[: len(arrays) - len(moved)], call=call)


def _transpose(cotangent, *arrays, call: _Call, moved: tuple[int, ...]):
    """The cotangents of what has a gradient; computed by a primitive, for `vmap`."""
    primals = arrays[: len(arrays) - len(moved)]
    if isinstance(cotangent, ad.Zero):
        return [None] * len(arrays)
    found = _pull.bind(*primals, cotangent, call=call, moved=moved)
    return [None] * len(primals) + found


def _pull_compute(*arrays: Array, call: _Call, moved: tuple[int, ...]) -> list[Array]:
    *primals, cotangent = arrays

    def function(*some: Array) -> Array:
        every = list(primals)
        for i, x in zip(moved, some, strict=True):
            every[i] = x
        return call(*every)

    _, pull = jax.vjp(function, *(primals[i] for i in moved))
    return list(pull(cotangent))


def _pull_shape(*arrays, call: _Call, moved: tuple[int, ...]):
    del call
    return [ShapedArray(arrays[i].shape, arrays[i].dtype) for i in moved]


def _pull_batch(arrays, axes, **options):
    found = jax.vmap(ft.partial(_pull_compute, **options), axes)(*arrays)
    return found, [0] * len(found)


_map = Primitive("grpojax_map_rows")
_map.def_impl(jax.jit(_compute, static_argnames="call"))
_map.def_abstract_eval(_shape)
mlir.register_lowering(_map, mlir.lower_fun(_compute, multiple_results=False))
batching.primitive_batchers[_map] = _batch
ad.primitive_jvps[_map] = _jvp

_tangent = Primitive("grpojax_map_rows_tangent")  # Only ever transposed.
_tangent.def_abstract_eval(_tangent_shape)
ad.primitive_transposes[_tangent] = _transpose

_pull = Primitive("grpojax_map_rows_pull")
_pull.multiple_results = True
_pull.def_impl(jax.jit(_pull_compute, static_argnames=("call", "moved")))
_pull.def_abstract_eval(_pull_shape)
mlir.register_lowering(_pull, mlir.lower_fun(_pull_compute, multiple_results=True))
batching.primitive_batchers[_pull] = _pull_batch
