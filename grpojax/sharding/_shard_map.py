"""`shard_map` and `vmap` over the data-parallel shards of a batch."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, PyTree

from ._batch import shards
from ._mesh import ambient_mesh, batch_axes, NAMES


_T = TypeVar("_T")


def shard_map_batch(
    function: Callable[..., _T], replicated: PyTree, *sharded: PyTree
) -> _T:
    """`shard_map` over the batch axes: `function(replicated, *sharded)` in each shard.

    Shards do not communicate: each runs its own loops, for as long as it needs. Over
    `tensor` the compiler partitions what `function` computes.

    **Arguments:**

    - `function`: returns arrays with the batch in front.
    - `replicated`: passed unchanged to every shard.
    - `sharded`: arrays with an axis of prompts in front, or of rows prompt by prompt,
        which is split over the shards.

    **Returns:** the results of all shards, concatenated along axis 0.
    """
    mesh = ambient_mesh()
    if mesh is None or shards() == 1:
        return function(replicated, *sharded)
    # `check_vma=True` would refuse every loop in `function` whose initial carry is a
    # constant, those of users' policies and environments among them: "the input carry
    # component has type int32[4,12] but the corresponding output carry component has
    # type int32[4,12]{V:(data,fsdp)}, so the manual axis types do not match". It would
    # prove nothing here: every result is declared to vary over all manual axes.
    return _shard_map(
        function, mesh, batch_axes(mesh), replicated, *sharded, check=False
    )


def shard_map_data_parallel(
    function: Callable[..., _T], replicated: PyTree, *sharded: PyTree
) -> _T:
    """`shard_map_batch` on a mesh whose only axis above 1 is `data`.

    There every shard holds all weights and needs no other. Elsewhere weights are
    sharded, and `function` is called once, on the full batch.
    """
    mesh = ambient_mesh()
    if mesh is None or mesh.size > mesh.shape["data"]:
        return function(replicated, *sharded)
    return shard_map_batch(function, replicated, *sharded)


def shard_map_callback(function: Callable[..., _T], *sharded: PyTree[Array]) -> _T:
    """`shard_map_batch` for a host callback, which is called once for each shard.

    Of the devices along `tensor` the first one calls, and broadcasts the result.
    """
    mesh = ambient_mesh()
    if mesh is None or mesh.size == 1:
        return function(*sharded)

    def run(_, *sharded):
        def zeros(*_):
            shapes = jax.eval_shape(function, *sharded)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def broadcast(x):
            wide = x.astype(jnp.int32) if x.dtype == jnp.bool_ else x
            return jax.lax.psum(wide, "tensor").astype(x.dtype)

        is_first = jax.lax.axis_index("tensor") == 0
        result = jax.lax.cond(is_first, function, zeros, *sharded)
        return jax.tree.map(broadcast, result)

    return _shard_map(run, mesh, NAMES, None, *sharded)


def _shard_map(
    function: Callable[..., _T],
    mesh: AbstractMesh,
    axes: Sequence[str],
    replicated: PyTree,
    *sharded: PyTree,
    check: bool = True,
) -> _T:
    arrays, static = eqx.partition((replicated, sharded), eqx.is_array)

    def run(arrays):
        replicated, sharded = eqx.combine(arrays, static)
        return function(replicated, *sharded)

    batch = PartitionSpec(batch_axes(mesh))
    return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=((PartitionSpec(), batch),),
        out_specs=batch,
        axis_names=set(axes),
        check_vma=check,
    )(arrays)


def vmap_shards(function: Callable[..., _T]) -> Callable[..., _T]:
    """`vmap` over the axis of shards that `split_batch` makes, partitioned over it."""
    mesh = ambient_mesh()
    if mesh is not None and shards() > 1:
        return jax.vmap(function, spmd_axis_name=batch_axes(mesh))

    def only_shard(*trees):
        result = function(*jax.tree.map(lambda x: x[0], trees))
        return jax.tree.map(lambda x: x[None], result)

    return only_shard
