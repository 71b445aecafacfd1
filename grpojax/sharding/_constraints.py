"""Sharding constraints on activations and on weights, inside a compiled program."""

from typing import NamedTuple, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from ..types import Axes
from ._mesh import ambient_mesh, layer_shards, WITHIN_LAYERS
from ._rules import DECODING, partition_spec, TRAINING


_T = TypeVar("_T")


class WeightSharding(NamedTuple):
    """The two shardings of a weight.

    **Fields:**

    - `compute`: where a product reads it, by `DECODING`.
    - `storage`: where it and its gradient are stored between steps, by `TRAINING`.
    """

    compute: NamedSharding
    storage: NamedSharding


def weight_sharding(axes: Axes | None) -> WeightSharding | None:
    """A weight's shardings on the mesh that is set; `None` without a mesh or axes."""
    mesh = ambient_mesh()
    if mesh is None or axes is None:
        return None
    compute, storage = (
        NamedSharding(mesh, partition_spec(axes, mesh, table))
        for table in (DECODING, TRAINING)
    )
    return WeightSharding(compute, storage)


def all_gather_weight(weight: Shaped[Array, "..."], axes: Axes) -> Shaped[Array, "..."]:
    """All-gathers a weight over `fsdp`; its gradient is reduce-scattered back."""
    sharding = weight_sharding(axes)
    if sharding is None:
        return weight
    constrain = jax.lax.with_sharding_constraint

    @jax.custom_vjp
    def gather(weight):
        return constrain(weight, sharding.compute)

    gather.defvjp(
        lambda weight: (constrain(weight, sharding.compute), None),
        # Reduced in the sharding that it was read in: a scatter-add into shards would
        # all-gather its updates.
        lambda _, gradient: (
            constrain(constrain(gradient, sharding.compute), sharding.storage),
        ),
    )
    return gather(weight)


def replicate(tree: _T) -> _T:
    """Constrains activations to be replicated within each data shard."""
    mesh = ambient_mesh()
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def shard_rows(x: Shaped[Array, "row vocab"]) -> Shaped[Array, "row vocab"]:
    """Shards logits by row within a layer's devices, for work that reads entire rows.

    They are computed sharded by vocabulary, where that divides: an all-to-all then
    exchanges parts of rows, and no device holds all of them.
    """
    mesh = ambient_mesh()
    if mesh is None or layer_shards(mesh) == 1:
        return x
    constrain = jax.lax.with_sharding_constraint
    spec = partition_spec(Axes((None, "vocab"), x.shape), mesh, DECODING)
    x = constrain(x, NamedSharding(mesh, spec))
    divides = x.shape[0] % layer_shards(mesh) == 0
    rows = PartitionSpec(WITHIN_LAYERS if divides else None)
    return constrain(x, NamedSharding(mesh, rows))
