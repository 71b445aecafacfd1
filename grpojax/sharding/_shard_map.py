"""`shard_map` and `vmap` over the data-parallel shards of a batch."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, PyTree

from ..types import Axes
from ._batch import shards
from ._constraints import all_gather_weight
from ._mesh import ambient_mesh, BATCH, batch_axes, NAMES, WITHIN_LAYERS
from ._rules import DECODING, partition_spec


_T = TypeVar("_T")


def shard_map_batch(
    function: Callable[..., _T], replicated: PyTree, *sharded: PyTree
) -> _T:
    """`shard_map` over the batch axes: `function(replicated, *sharded)` in each shard.

    Shards do not communicate: each runs its own loops, for as long as it needs. Over
    `tensor` and `expert` the compiler partitions what `function` computes.

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

    Of the devices of a shard the first one calls, and broadcasts the result.
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
            return jax.lax.psum(wide, WITHIN_LAYERS).astype(x.dtype)

        is_first = jax.lax.axis_index(WITHIN_LAYERS) == 0
        result = jax.lax.cond(is_first, function, zeros, *sharded)
        return jax.tree.map(broadcast, result)

    return _shard_map(run, mesh, NAMES, None, *sharded)


def shard_map_experts(
    function: Callable[..., Array],
    rows: tuple[Array, ...],
    weights: PyTree[Array],
    axes: PyTree[Axes],
) -> Array:
    """`function(*rows, weights, first)` on every device, with the experts that it has.

    The compiler cannot partition rows that are sorted by expert: here each device
    sorts its own. Results are summed over the devices that hold parts of the weights.

    **Arguments:**

    - `function`: returns the sum over the experts in `weights`, for every row; `first`
        is the number of the first one. Where weights are split otherwise, it returns a
        summand, too.
    - `rows`: arrays with an axis of rows in front; split over the batch axes if they
        divide it.
    - `weights`, `axes`: arrays with an axis of experts in front, as they are stored,
        and their logical axes.
    """
    mesh = ambient_mesh()
    names = () if mesh is None else [x for x in NAMES if x not in mesh.manual_axes]
    names = [] if mesh is None else [x for x in names if mesh.shape[x] > 1]
    if mesh is None or not names:
        return function(*rows, weights, 0)
    batch = tuple(name for name in names if name in BATCH)
    if rows[0].shape[0] % math.prod(mesh.shape[name] for name in batch):
        batch = ()
    is_axes = lambda x: isinstance(x, Axes)
    specs = jax.tree.map(
        lambda one: partition_spec(one, mesh, DECODING), axes, is_leaf=is_axes
    )
    weights = jax.tree.map(
        lambda one, x: all_gather_weight(x, one), axes, weights, is_leaf=is_axes
    )
    summed = tuple(name for name in names if name in WITHIN_LAYERS)
    parts = mesh.shape["expert"] if "expert" in summed else 1

    def run(rows, weights):
        count = jax.tree.leaves(weights)[0].shape[0]
        first = jax.lax.axis_index("expert") * count if parts > 1 else 0
        return function(*rows, weights, first)[None]

    y = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec(batch), specs),
        out_specs=PartitionSpec(summed, batch),
        axis_names=set(names),
        check_vma=False,
    )(rows, weights)
    return jnp.sum(y, axis=0)


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
