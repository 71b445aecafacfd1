"""Weights that a loop reads, all-gathered once in front of it."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ..policy import AbstractPolicy
from ._batch import shards
from ._mesh import ambient_mesh, BATCH
from ._place import shardings
from ._rules import DECODING
from ._shard_map import vmap_shards


_T = TypeVar("_T")


def vmap_policy_shards(
    function: Callable[..., _T], policy: AbstractPolicy, *sharded: PyTree[Array]
) -> _T:
    """`function(policy, *sharded)` in each shard, with a copy of the weights.

    A weight that `function` reads is all-gathered once, whatever loops read it: each
    shard has its own copy, and sums its own gradient. Those are reduced once. A weight
    that it does not read is not gathered.

    **Arguments:**

    - `function`: of one shard.
    - `policy`: as it is stored between steps.
    - `sharded`: arrays with an axis of shards in front, as `split_batch` makes it.

    **Returns:** the results of all shards, stacked in front.
    """
    mesh = ambient_mesh()
    if mesh is None or shards() == 1:
        return vmap_shards(lambda *each: function(policy, *each))(*sharded)
    arrays, static = eqx.partition(policy, eqx.is_array)
    copies = jax.tree.map(
        _copy, arrays, shardings(arrays, mesh), shardings(arrays, mesh, DECODING)
    )

    def one(arrays, *each):
        return function(eqx.combine(arrays, static), *each)

    return vmap_shards(one)(copies, *sharded)


def _copy(weight: Array, stored: NamedSharding, compute: NamedSharding) -> Array:
    """A copy for each shard, in front; its cotangent is the sum of theirs."""
    constrain, mesh = jax.lax.with_sharding_constraint, compute.mesh
    copies = NamedSharding(mesh, PartitionSpec(BATCH, *compute.spec))

    def forward(weight):
        weight = constrain(weight, compute)
        every = jnp.broadcast_to(weight, (shards(), *weight.shape))
        return constrain(every, copies)

    def backward(_, cotangent):
        return (constrain(jnp.sum(constrain(cotangent, copies), axis=0), stored),)

    if not jnp.issubdtype(weight.dtype, jnp.inexact):
        return forward(weight)
    copy = jax.custom_vjp(forward)
    copy.defvjp(lambda weight: (forward(weight), None), backward)
    return copy(weight)
