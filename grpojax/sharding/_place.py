"""Placement of policies and optimizer states on a mesh."""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..policy import AbstractPolicy
from ..types import Axes
from ._mesh import ambient_mesh
from ._rules import partition_spec, Table, TRAINING


_T = TypeVar("_T")
_Path = tuple[str, ...]  # Fields, keys and indices on the way to an array.


def shardings(
    tree: PyTree, mesh: Mesh | AbstractMesh, table: Table = TRAINING
) -> PyTree[NamedSharding]:
    """The sharding of every array in a tree.

    A policy's weights are sharded as their logical axes and the table say. An array
    outside of a policy whose path ends like a weight's, and that has its shape, such as
    a moment in the optimizer's state, is sharded like that weight. All others are
    replicated.

    **Arguments:**

    - `tree`: a `TrainState`, a policy, or any other tree; of arrays or of
        `jax.ShapeDtypeStruct`s.
    - `mesh`: from `make_mesh`.
    - `table`: which mesh axes a logical axis is sharded over.

    **Returns:** the tree with a `NamedSharding` in the place of every array, and `None`
    in the place of every other leaf.

    **Raises:** `ValueError` for an axis that cannot be split evenly.
    """
    weights = dict(_weights(tree))

    def sharding(path, leaf):
        if not _is_array(leaf):
            return None
        names = _names(path)
        for start in range(len(names)):
            weight = weights.get(names[start:])
            if weight is not None and weight.shape == leaf.shape:
                name = ".".join(names[start:])
                spec = partition_spec(weight.axes, mesh, table, name)
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place(tree: _T, mesh: Mesh, table: Table = TRAINING) -> _T:
    """The tree with its arrays on the devices of a mesh, as `shardings` says.

    In a run of several processes each passes the same values and stores its shards.

    **Arguments:**

    - `tree`: a `TrainState`, a policy, or any other tree; of arrays, or of
        `jax.ShapeDtypeStruct`s, which are given their shardings.
    - `mesh`: from `make_mesh`.
    - `table`: which mesh axes a logical axis is sharded over.

    **Raises:** `ValueError` for an axis that cannot be split evenly.

    !!! example

        ```python
        mesh = sharding.make_mesh(fsdp=-1)
        state = sharding.place(state, mesh)
        ```
    """

    def put(leaf, sharding):
        if sharding is None:
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if sharding.is_fully_addressable or leaf.sharding == sharding:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    arrays, static = eqx.partition(tree, _is_array)
    arrays = jax.tree.map(put, arrays, shardings(arrays, mesh, table))
    return eqx.combine(arrays, static)


def constrain(tree: _T, table: Table = TRAINING) -> _T:
    """The tree with its arrays constrained to `shardings`, inside a compiled program.

    **Arguments:**

    - `tree`: as for `place`.
    - `table`: which mesh axes a logical axis is sharded over.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return tree
    arrays, static = eqx.partition(tree, _is_array)
    constrained = jax.lax.with_sharding_constraint
    arrays = jax.tree.map(constrained, arrays, shardings(arrays, mesh, table))
    return eqx.combine(arrays, static)


class _Weight(NamedTuple):
    axes: Axes
    shape: tuple[int, ...]


def _weights(tree: PyTree) -> Iterator[tuple[_Path, _Weight]]:
    """The path of every weight within its policy, with its logical axes and shape."""
    is_policy = lambda x: isinstance(x, AbstractPolicy)
    for policy in filter(is_policy, jax.tree.leaves(tree, is_leaf=is_policy)):
        arrays = eqx.filter(policy, _is_array)
        leaves, _ = jax.tree_util.tree_flatten_with_path(arrays)
        axes = jax.tree.leaves(
            policy.logical_axes(), is_leaf=lambda x: isinstance(x, Axes)
        )
        for (path, leaf), one in zip(leaves, axes, strict=True):
            yield _names(path), _Weight(one, leaf.shape)


def _names(path: tuple) -> _Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _is_array(x: object) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct)
