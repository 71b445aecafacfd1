"""Python called for each shard of a batch, between two compiled programs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ._mesh import ambient_mesh, BATCH, layer_shards, WITHIN_LAYERS


def shard_structs(tree: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of a batch, split over the shards of the mesh that is set.

    Scalars are replicated.
    """
    mesh = _mesh()
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: _struct(mesh, _spec(x), x), tree)


def constrain_batch(tree: PyTree[Array]) -> PyTree[Array]:
    """A batch constrained to the shardings of `shard_structs`, inside a program."""
    if ambient_mesh() is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _spec(x)), tree)


def call_structs(shapes: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of what `call_shards` returns, given those of the whole batch."""
    mesh = _mesh()
    if mesh is None:
        return shapes
    wide = lambda x: jax.ShapeDtypeStruct((layer_shards(mesh), *x.shape), x.dtype)
    return jax.tree.map(lambda x: _struct(mesh, _CALLED, wide(x)), shapes)


def call_shards(
    function: Callable[[PyTree], PyTree], batch: PyTree[Array], shapes: PyTree
) -> PyTree[Array]:
    """Calls Python for each shard of a batch, on the host that holds it.

    The counterpart of `shard_map_callback` outside of a compiled program. A host calls
    for its shards in threads.

    **Arguments:**

    - `function`: of the batch's tree, with NumPy arrays of the shard's prompts.
    - `batch`: arrays with an axis of prompts in front.
    - `shapes`: of the results for the whole batch.

    **Returns:** the results, for `read_called`. On a mesh they have an axis of the
    devices of a shard in front: the first one calls, so that no two processes do.
    """
    mesh = _mesh()
    if mesh is None:
        return jax.tree.map(jnp.asarray, function(jax.device_get(batch)))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(BATCH)))
    leaves, tree = jax.tree.flatten(batch)
    held = [{x.device: x.data for x in leaf.addressable_shards} for leaf in leaves]
    own = jax.process_index()
    callers = [x for x in mesh.devices[..., 0, 0].flat if x.process_index == own]

    def call(device):
        return function(tree.unflatten([np.asarray(x[device]) for x in held]))

    with ThreadPoolExecutor(max(len(callers), 1)) as pool:
        results = dict(zip(callers, pool.map(call, callers), strict=True))

    def gather(number: int, struct: jax.ShapeDtypeStruct) -> Array:
        part = struct.sharding.shard_shape(struct.shape)
        zeros = np.zeros(part, struct.dtype)
        parts = [
            jax.device_put(
                jax.tree.leaves(results[x])[number][None] if x in results else zeros, x
            )
            for x in struct.sharding.addressable_devices
        ]
        return jax.make_array_from_single_device_arrays(
            struct.shape, struct.sharding, parts
        )

    structs, tree = jax.tree.flatten(call_structs(shapes))
    return tree.unflatten([gather(i, x) for i, x in enumerate(structs)])


def read_called(results: PyTree[Array]) -> PyTree[Array]:
    """The results of `call_shards` as an ordinary batch, inside a program."""
    if ambient_mesh() is None:
        return results
    return constrain_batch(jax.tree.map(lambda x: x[0], results))


_CALLED = PartitionSpec(WITHIN_LAYERS, BATCH)


def _mesh() -> Mesh | None:
    """The mesh that is set, if it has our axes."""
    return None if ambient_mesh() is None else jax.sharding.get_mesh()


def _spec(x: Array | jax.ShapeDtypeStruct) -> PartitionSpec:
    return PartitionSpec(BATCH) if x.ndim else PartitionSpec()


def _struct(
    mesh: Mesh, spec: PartitionSpec, x: Array | jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
