"""Weights that a loop reads, all-gathered once in front of it."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ..policy import AbstractPolicy
from ._batch import shards
from ._mesh import ambient_mesh, batch_axes
from ._place import shardings
from ._shard_map import vmap_shards


_T = TypeVar("_T")


def shard_map_policy(
    function: Callable[..., _T],
    policy: AbstractPolicy,
    replicated: PyTree[Array],
    *sharded: PyTree[Array],
) -> _T:
    """`function(policy, replicated, *sharded)` in each shard, with entire weights.

    A weight that `function` reads is all-gathered once, whatever loops read it. Its
    gradient is summed within each shard, and reduce-scattered once.

    **Arguments:**

    - `function`: of one shard. Gathers that it does not use are left out.
    - `policy`: as it is stored between steps.
    - `replicated`: arrays that are the same for all shards.
    - `sharded`: arrays with an axis of shards in front, as `split_batch` makes it.

    **Returns:** the results of all shards, stacked in front.
    """
    mesh = ambient_mesh()
    if mesh is None or shards() == 1:
        one = lambda *each: function(policy, replicated, *each)
        return vmap_shards(one)(*sharded)
    manual = batch_axes(mesh)
    arrays, static = eqx.partition(policy, eqx.is_array)
    stored = shardings(arrays, mesh)

    def manual_axes(sharding: NamedSharding) -> list[tuple[str, ...]]:
        names = [x if isinstance(x, tuple) else (x,) for x in sharding.spec]
        return [tuple(x for x in axis if x in manual) for axis in names]

    def gather(weight: Array, sharding: NamedSharding) -> Array:
        for axis, names in enumerate(manual_axes(sharding)):
            for name in names:
                weight = jax.lax.all_gather(weight, name, axis=axis, tiled=True)
        return weight

    def run(arrays, replicated, sharded):
        policy = eqx.combine(jax.tree.map(gather, arrays, stored), static)
        one = lambda *each: function(policy, replicated, *each)
        return vmap_shards(one)(*sharded)

    specs = jax.tree.map(lambda x: PartitionSpec(*manual_axes(x)), stored)
    return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(specs, PartitionSpec(), PartitionSpec(manual)),
        out_specs=PartitionSpec(manual),
        axis_names=set(manual),
        # As in `shard_map_batch`.
        check_vma=False,
    )(arrays, replicated, sharded)
